"""Whether a potential can be trusted: ``eqmol examine MODEL structures.xyz``.

Each check asks for one thing that a potential must do, and says in one line what it found, how much is allowed, and why.
"""

from eqmol.trust.examine import examine
from eqmol.trust.report import Line, Report

__all__ = ["Line", "Report", "examine"]

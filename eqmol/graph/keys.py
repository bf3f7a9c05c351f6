"""Names of the fields of a graph that may be absent, see :class:`eqmol.graph.AtomGraph`."""

from typing import Final

ENERGY: Final = "energy"
FORCES: Final = "forces"
STRESS: Final = "stress"
LABELS: Final = (ENERGY, FORCES, STRESS)
FIXED: Final = "fixed"
DISPLACEMENT: Final = "displacement"
FEATURES: Final = "features"

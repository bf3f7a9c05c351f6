"""Assemblies: backbones that return node features, and what is read from them."""

from eqmol.models.equiformer import Equiformer
from eqmol.models.mace import MACE
from eqmol.models.potential import Potential
from eqmol.models.properties import Properties

__all__ = ["MACE", "Equiformer", "Potential", "Properties"]

"""Assemblies: backbones that return node features, and what is read from them."""

from eqmol.models.backbone import Backbone
from eqmol.models.equiformer import Equiformer
from eqmol.models.mace import MACE
from eqmol.models.potential import Potential
from eqmol.models.properties import Properties
from eqmol.models.registry import register

__all__ = ["MACE", "Backbone", "Equiformer", "Potential", "Properties", "register"]

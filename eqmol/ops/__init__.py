"""First floor: tensor products. Exports the contract; implementations are reached through the registry only."""

from eqmol.ops.contract import Convolution, Power, Product, RadialWeight
from eqmol.ops.spec import Spec

__all__ = ["Convolution", "Power", "Product", "RadialWeight", "Spec"]

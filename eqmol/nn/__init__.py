"""Parts of networks that do not depend on how tensor products are computed."""

from eqmol.nn.cutoff import polynomial_envelope
from eqmol.nn.embedding import ElementEmbedding
from eqmol.nn.linear import GroupLinear, Groups, Linear, group_nodes, pad_degrees
from eqmol.nn.radial import BesselBasis, RadialNetwork
from eqmol.nn.readout import LinearReadout, NonlinearReadout

__all__ = [
    "BesselBasis",
    "ElementEmbedding",
    "GroupLinear",
    "Groups",
    "Linear",
    "LinearReadout",
    "NonlinearReadout",
    "RadialNetwork",
    "group_nodes",
    "pad_degrees",
    "polynomial_envelope",
]

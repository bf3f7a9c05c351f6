"""Parts of networks that do not depend on how tensor products are computed."""

from eqmol.nn.attention import AttentionLogits, attention_weights
from eqmol.nn.cutoff import polynomial_envelope
from eqmol.nn.distance import DISTANCE_TRANSFORMS, DistanceTransform
from eqmol.nn.drop import DropPath
from eqmol.nn.embedding import ElementEmbedding
from eqmol.nn.gate import Gate
from eqmol.nn.linear import GroupLinear, Linear, pad_degrees
from eqmol.nn.norm import Norm, NormKind
from eqmol.nn.parameter_groups import WithMatrices, parameter_groups
from eqmol.nn.radial import BesselBasis, GaussianBasis, PairNetwork, RadialMatrix, RadialNetwork
from eqmol.nn.readout import LinearReadout, NonlinearReadout
from eqmol.nn.sphere import SphereActivation, SphereNetwork

__all__ = [
    "DISTANCE_TRANSFORMS",
    "AttentionLogits",
    "BesselBasis",
    "DistanceTransform",
    "DropPath",
    "ElementEmbedding",
    "Gate",
    "GaussianBasis",
    "GroupLinear",
    "Linear",
    "LinearReadout",
    "NonlinearReadout",
    "Norm",
    "NormKind",
    "PairNetwork",
    "RadialMatrix",
    "RadialNetwork",
    "SphereActivation",
    "SphereNetwork",
    "WithMatrices",
    "attention_weights",
    "pad_degrees",
    "parameter_groups",
    "polynomial_envelope",
]

"""From node features to properties of molecules.

Shapes: N atoms, G graphs, lm = (degree + 1)² components, C channels. Results are float64.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.models.backbone import Backbone
from eqmol.models.force_head import ForceHead
from eqmol.models.reference import DoubleBuffers
from eqmol.nn import LinearReadout, NonlinearReadout
from eqmol.so3.tensors import symmetric_traceless
from eqmol.units import BOHR, DEBYE

#: e and e·Å; size of the partial charges and atomic dipoles of an untrained model.
CHARGE_SCALE = 0.1


class Structures(NamedTuple):
    """What a head may know besides the features.

    Attributes:
        pos: [N, 3] Å.
        numbers: [N] atomic numbers.
        species: [N] index into the elements.
        batch: [N] the graph of each atom.
        natoms: [G] float64.
        inputs: [N, inputs] further inputs of the readouts, in the dtype of the network.
    """

    pos: Tensor
    numbers: Tensor
    species: Tensor
    batch: Tensor
    natoms: Tensor
    inputs: Tensor

    def sum(self, values: Tensor) -> Tensor:
        """[N, ...] -> [G, ...]."""
        return values.new_zeros(len(self.natoms), *values.shape[1:]).index_add(0, self.batch, values)

    def softmax(self, logits: Tensor) -> Tensor:
        """[N] -> [N], positive, with the sum 1 in each graph."""
        lowest = torch.full_like(self.natoms, -torch.inf)
        largest = lowest.scatter_reduce(0, self.batch, logits.detach(), "amax")
        positive = (logits - largest.index_select(0, self.batch)).exp()
        return positive / self.sum(positive).index_select(0, self.batch)

    def centred(self, weights: Tensor) -> Tensor:
        """Positions [N, 3] relative to the mean with weights [N] in each graph."""
        centre = self.sum(weights[:, None] * self.pos) / self.sum(weights)[:, None]
        return self.pos - centre.index_select(0, self.batch)


class AtomScalars(nn.Module):
    """One number per atom from the scalars of every set of features, and from further inputs."""

    def __init__(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        super().__init__()
        linear = [LinearReadout(backbone.channels) for _ in range(backbone.num_outputs - 1)]
        self.readouts = nn.ModuleList([*linear, NonlinearReadout(backbone.channels + num_inputs, hidden)])

    def forward(self, features: list[Tensor], structures: Structures) -> Tensor:
        """-> [N] float64."""
        scalars = [x[:, 0] for x in features]
        scalars[-1] = torch.cat((scalars[-1], structures.inputs), dim=1)
        terms = [readout(x) for readout, x in zip(self.readouts, scalars, strict=True)]
        return torch.stack(terms).sum(0).double()


class AtomVectors(nn.Module):
    """One vector, or one field of another degree, per atom from the last features.

    Raises:
        InputError: their degree is too low.
    """

    def __init__(self, backbone: Backbone, what: str, degree: int = 1) -> None:
        super().__init__()
        if backbone.degree_out < degree:
            raise InputError(
                f"{what} reads {'vectors' if degree == 1 else 'tensors'}, but the last features have degree "
                f"{backbone.degree_out}; set degree_out of the backbone (model.degree_out) to {degree}"
            )
        self.readout = ForceHead(backbone.channels, degree)

    def forward(self, features: list[Tensor]) -> Tensor:
        """-> [N, 2 degree + 1] float64; degree 1 reads x, y, z."""
        return self.readout(features[-1]).double()


class Head(DoubleBuffers, ABC):
    """One property.

    Args:
        backbone: whose features are read.
        hidden: width of the hidden layer of the readout.
        e0: contribution of each element.
        mean, scale: of what the network predicts.
        num_inputs: how many further inputs the readout has.
    """

    e0: Tensor

    def __init__(
        self, backbone: Backbone, hidden: int, e0: list[float], mean: float, scale: float, num_inputs: int
    ) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        self.register_buffer("e0", torch.tensor(e0, dtype=torch.float64))
        self.make(backbone, hidden, num_inputs)

    @abstractmethod
    def make(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        """Make what reads the features."""

    @abstractmethod
    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value", and further results by name."""


class ScalarHead(Head):
    """A property made of one number f_i per atom, and perhaps more."""

    def make(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        self.atoms = AtomScalars(backbone, hidden, num_inputs)


class SumHead(ScalarHead):
    """Extensive: Σ_i e0(Z_i) + scale · f_i."""

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G]."""
        atoms = self.e0.index_select(0, structures.species) + self.scale * self.atoms(features, structures)
        return {"value": structures.sum(atoms)}


class MeanHead(ScalarHead):
    """Intensive: mean + scale · (mean over atoms of f_i)."""

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G]."""
        return {"value": self.mean + self.scale * structures.sum(self.atoms(features, structures)) / structures.natoms}


class SoftmaxHead(ScalarHead):
    """Intensive: mean + scale · Σ_i w_i f_i, where the weights of a structure's atoms, w_i ~ exp(g_i), sum to one.

    Orbitals are often localised, and their energies then are not those of an average atom.
    """

    def make(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        super().make(backbone, hidden, num_inputs)
        self.logits = AtomScalars(backbone, hidden, num_inputs)

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G]."""
        weights = structures.softmax(self.logits(features, structures))
        return {"value": self.mean + self.scale * structures.sum(weights * self.atoms(features, structures))}


class AtomicHead(ScalarHead):
    """One number per atom: e0(Z_i) + scale · f_i."""

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [N]."""
        return {"value": self.e0.index_select(0, structures.species) + self.scale * self.atoms(features, structures)}


class VectorHead(Head):
    """Sum of vectors of the atoms: scale · Σ_i v_i."""

    def make(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        self.vectors = AtomVectors(backbone, "a vector")

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G, 3]."""
        return {"value": structures.sum(self.scale * self.vectors(features))}


class TensorHead(ScalarHead):
    """Sum of symmetric tensors of the atoms: Σ_i (e0(Z_i) + scale · f_i) 1 + scale · Σ_m t_im B_m.

    The f_i are invariants, the t_im features of degree 2, and B_m the matrices of :mod:`eqmol.so3.tensors`, scaled to the unit
    Frobenius norm.
    """

    basis: Tensor

    def make(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        super().make(backbone, hidden, num_inputs)
        self.tensors = AtomVectors(backbone, "a tensor", 2)
        basis = symmetric_traceless()
        unit = basis / np.linalg.norm(basis, axis=(1, 2), keepdims=True)
        self.register_buffer("basis", torch.tensor(unit, dtype=torch.float64), persistent=False)

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G, 3, 3]."""
        isotropic = self.e0.index_select(0, structures.species) + self.scale * self.atoms(features, structures)
        identity = torch.eye(3, dtype=torch.float64, device=isotropic.device)
        traceless = torch.einsum("nm,mij->nij", self.scale * self.tensors(features), self.basis)
        return {"value": structures.sum(isotropic[:, None, None] * identity + traceless)}


class DipoleHead(ScalarHead):
    """Dipole moment Σ_i q_i r_i + μ_i, with partial charges that sum to zero (Veit et al. 2020, arXiv:2003.12437).

    Without net charge it does not depend on the origin. Directions must not be periodic.
    """

    def make(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        super().make(backbone, hidden, num_inputs)
        self.vectors = AtomVectors(backbone, "the dipole moment")

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G, 3] in D, "charges" [N] in e."""
        charges = CHARGE_SCALE * self.atoms(features, structures)
        excess = structures.sum(charges) / structures.natoms
        charges = charges - excess.index_select(0, structures.batch)
        # relative to the middle only for the sake of rounding
        arms = structures.centred(torch.ones_like(charges))
        moments = charges[:, None] * arms + CHARGE_SCALE * self.vectors(features)
        return {"value": structures.sum(moments) / DEBYE, "charges": charges}


class DipoleNormHead(DipoleHead):
    """Norm of the dipole moment."""

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G] and "dipole" [G, 3] in D, "charges" [N] in e."""
        found = super().forward(features, structures)
        return {
            "value": torch.linalg.vector_norm(found["value"], dim=-1),
            "dipole": found["value"],
            "charges": found["charges"],
        }


class ExtentHead(ScalarHead):
    """Second moment of the electrons: Σ_i Z_i |r_i - R|² + e0(Z_i) + scale · (f_i + g_i |r_i - R|² / Å²), a0².

    R is the centre of nuclear charge, to which the extent refers in QM9.
    """

    def make(self, backbone: Backbone, hidden: int, num_inputs: int) -> None:
        super().make(backbone, hidden, num_inputs)
        self.charges = AtomScalars(backbone, hidden, num_inputs)

    def forward(self, features: list[Tensor], structures: Structures) -> dict[str, Tensor]:
        """Return "value" [G]."""
        numbers = structures.numbers.double()
        squares = structures.centred(numbers).square().sum(-1)
        atoms = numbers * squares / BOHR**2 + self.e0.index_select(0, structures.species)
        learnt = self.atoms(features, structures) + CHARGE_SCALE * self.charges(features, structures) * squares
        return {"value": structures.sum(atoms + self.scale * learnt)}


#: Heads of intensive properties by the name of their pooling.
POOLINGS: dict[str, type[Head]] = {"mean": MeanHead, "softmax": SoftmaxHead}
#: Heads of the other kinds, see :data:`eqmol.graph.targets.Kind`.
HEADS: dict[str, type[Head]] = {
    "extensive": SumHead,
    "atomic": AtomicHead,
    "vector": VectorHead,
    "dipole": DipoleHead,
    "dipole_norm": DipoleNormHead,
    "tensor": TensorHead,
    "extent": ExtentHead,
}

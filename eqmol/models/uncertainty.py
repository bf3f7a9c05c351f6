"""How sure a potential is: a Gaussian posterior of its last weights (Bigi, Chong, Ceriotti and Grasselli 2024, arXiv:2403.02251).

Energies are linear in the last weights (:meth:`eqmol.models.Potential.last_layer` says which these are), e_i = φ_i · w besides
constants. With Φ = Σ_i φ_i of a structure, and sums over the n structures and N atoms of the training set,

    A = Σ Φ Φᵀ / n        std of an energy:             a · √(Φᵀ A⁻¹ Φ / F),       of the atomic energy i: a · √(φ_iᵀ A⁻¹ φ_i / F)
                          std of a force component:     x · √((∂Φ/∂r)ᵀ A⁻¹ (∂Φ/∂r) / F)        ("exact")
    B = Σ δ_i δ_iᵀ / N    distance to the training set: d_i = √(δ_iᵀ B⁻¹ δ_i / F)
                          std of a force component:     f · d_i                                ("cheap")

where δ_i = φ_i - μ is the deviation from the mean μ of the atoms of the same element in the training set (Mahalanobis' distance
with a covariance that elements share: Lee, Lee, Lee and Shin 2018, arXiv:1807.03888). An atom without neighbours, φ_i = 0, is far.

A and B are ridged by :data:`RIDGE`. The root mean square of √(Φᵀ A⁻¹ Φ / F) and of d_i is about one on the training set. The
factors a, x and f make the root mean square of the std equal that of the errors on the validation set.

Shapes: N atoms, G graphs, F last weights, Z elements of the model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Self

import torch
from torch import Tensor

from eqmol.errors import InputError
from eqmol.graph import edge_vectors, owners
from eqmol.models.arguments import check_integer, check_number
from eqmol.models.potential import Potential, forces_of
from eqmol.models.predictor import Predictor

if TYPE_CHECKING:
    from eqmol.graph.geometric import Data

SECTION: Final = "uncertainty"
#: Names in model files of the roots of A⁻¹ / F and B⁻¹ / F, and of the means μ.
STRUCTURES: Final = "aux.uncertainty.structures"
ATOMS: Final = "aux.uncertainty.atoms"
MEANS: Final = "aux.uncertainty.means"
#: Of the mean eigenvalue of A and B; what is added to all eigenvalues.
RIDGE = 1e-6
#: Last weights that models may have for this: the file grows by 16 F² bytes.
MAX_LAST = 2048


@dataclass(frozen=True)
class Factors:
    """The section ``uncertainty`` of a model file.

    Attributes:
        energy: a, eV; None without energies in the validation set, as the next two without forces.
        forces: f, eV/Å.
        exact: x, eV; None also of direct forces.
        farthest: largest d_i of the training set.
        structures, validation: sizes of the two sets.
    """

    energy: float | None
    forces: float | None
    exact: float | None
    farthest: float
    structures: int
    validation: int


@dataclass(frozen=True)
class Posterior:
    """What the std of a model's predictions is made of.

    Attributes:
        of_structures, of_atoms: [F, F] float64, roots of A⁻¹ / F and B⁻¹ / F: matrices R with R Rᵀ equal to them.
        means: [Z, F] float64, μ of each element; 0 where the training set has no atom of it, and in older files, whose B is of
            φ_i itself.
        factors: of the std.
    """

    of_structures: Tensor
    of_atoms: Tensor
    means: Tensor
    factors: Factors

    @classmethod
    def read(cls, model: Predictor) -> Self | None:
        """The posterior that a model carries, on the model's device; None without one.

        Raises:
            InputError: a section that does not fit the model.
        """
        section = model.sections.get(SECTION)
        if section is None:
            return None
        if not isinstance(model, Potential):
            raise InputError("the section 'uncertainty' belongs to a potential, and this model is none")
        names = Factors.__annotations__
        if not names.keys() <= section.keys():
            raise InputError(f"the section 'uncertainty' must have {', '.join(names)}")
        for name in ("energy", "forces", "exact"):
            if section[name] is not None:
                check_number(f"uncertainty.{name}", section[name], 1e-30, 1e30)
        check_number("uncertainty.farthest", section["farthest"], 0.0, 1e30)
        for name in ("structures", "validation"):
            check_integer(f"uncertainty.{name}", section[name], 0, 2**53)
        number = model.num_last
        shapes = {STRUCTURES: [number, number], ATOMS: [number, number], MEANS: [len(model.elements), number]}
        older = {MEANS: torch.zeros(shapes[MEANS], dtype=torch.float64)}
        tensors: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            tensor = (older | model.aux).get(name)
            if tensor is None or tensor.dtype != torch.float64 or list(tensor.shape) != shape:
                found = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
                raise InputError(f"tensor {name!r} is {found}, not torch.float64 {shape}")
            tensors[name] = tensor
        factors = Factors(**{name: section[name] for name in names})
        posterior = cls(tensors[STRUCTURES], tensors[ATOMS], tensors[MEANS], factors)
        return posterior.to(next(model.parameters()).device)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(
            self,
            of_structures=self.of_structures.to(device),
            of_atoms=self.of_atoms.to(device),
            means=self.means.to(device),
        )

    def write(self, model: Potential) -> None:
        """Let a model carry it."""
        model.sections[SECTION] = asdict(self.factors)
        model.aux |= {STRUCTURES: self.of_structures.cpu(), ATOMS: self.of_atoms.cpu(), MEANS: self.means.cpu()}

    def deviations(self, last_layer: Tensor, species: Tensor) -> Tensor:
        """Rows [N, F] with the lengths d_i, of the last layer [N, F] and the index [N] of each atom's element."""
        return (last_layer - self.means[species]) @ self.of_atoms

    def distances(self, last_layer: Tensor, species: Tensor) -> Tensor:
        """d_i [N], from the same."""
        return torch.linalg.vector_norm(self.deviations(last_layer, species), dim=-1)

    def spreads(self, last_layer: Tensor) -> Tensor:
        """√(φᵀ A⁻¹ φ / F) [...] of sums over atoms or of single atoms [..., F]."""
        return torch.linalg.vector_norm(last_layer @ self.of_structures, dim=-1)


class Covariance:
    """A, B and μ of a training set, batch by batch.

    Args:
        number: F.
        elements: Z.
    """

    def __init__(self, number: int, elements: int) -> None:
        self.structures = 0
        self._of_structures = torch.zeros(number, number, dtype=torch.float64)
        self._of_atoms = torch.zeros(number, number, dtype=torch.float64)
        self._sums = torch.zeros(elements, number, dtype=torch.float64)
        self._counts = torch.zeros(elements, 1, dtype=torch.float64)

    def add(self, last_layer: Tensor, graph: Data, species: Tensor) -> None:
        """Add a batch, given its last layer [N, F] and the index [N] of each atom's element."""
        sums = sums_of(last_layer, graph)
        self._of_structures += (sums.mT @ sums).cpu()
        self._of_atoms += (last_layer.mT @ last_layer).cpu()
        self.structures += len(sums)
        self._sums.index_add_(0, species.cpu(), last_layer.cpu())
        self._counts.index_add_(0, species.cpu(), torch.ones(len(species), 1, dtype=torch.float64))

    def posterior(self, factors: Factors) -> Posterior:
        """What the model will carry with these factors."""
        means = self._sums / self._counts.clamp_min(1)
        within = (self._of_atoms - means.mT @ self._sums) / self._counts.sum()
        return Posterior(_root(self._of_structures / self.structures), _root(within), means, factors)


def sums_of(values: Tensor, graph: Data) -> Tensor:
    """Sums [G, ...] of values [N, ...] over the atoms of each graph."""
    return values.new_zeros(len(graph.cell), *values.shape[1:]).index_add(0, owners(graph), values)


def force_variances(model: Potential, graph: Data, root: Tensor) -> Tensor:
    """Variance of every force component when the last weights have the covariance root @ rootᵀ.

    Streamed: one backward pass for each column of the root.

    Args:
        model: conservative.
        graph: one or several.
        root: [F, K].

    Returns:
        [N, 3] float64 eV²/Å².
    """
    with torch.inference_mode(False), torch.enable_grad():
        vectors = edge_vectors(graph).requires_grad_()
        species = model.species(graph)
        last_layer = model.last_layer(graph, model.features(graph, vectors, species), species)
        total = torch.zeros_like(graph.pos)
        for column in (last_layer.sum(0) @ root).unbind():
            (gradient,) = torch.autograd.grad(column, vectors, retain_graph=True, materialize_grads=True)
            total += forces_of(graph, gradient).square()
    return total


def _root(matrix: Tensor) -> Tensor:
    """The symmetric R with R Rᵀ = (matrix + ridge)⁻¹ / F."""
    values, axes = torch.linalg.eigh(matrix)
    ridged = values.clamp_min(0.0) + max(RIDGE * float(values.mean()), 1e-300)
    return (axes / (len(values) * ridged).sqrt()) @ axes.mT

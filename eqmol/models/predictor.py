"""What every predictor shares: the elements it knows and the edges of its input.

Shapes: N atoms, E edges, G graphs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.graph.contacts import SHORTEST
from eqmol.graph.dispersion import Dispersion
from eqmol.graph.edges import name_atoms, owners
from eqmol.graph.electronic import ElectronicState
from eqmol.graph.targets import Target
from eqmol.models.arguments import check_elements
from eqmol.models.backbone import Backbone
from eqmol.so3.kept import kept

if TYPE_CHECKING:
    from eqmol.graph.geometric import Data


class Predictor(nn.Module, ABC):
    """A backbone and what reads its features.

    Args:
        backbone: returns sets of node features.
        elements: atomic numbers, the same as the backbone's.

    Attributes:
        cutoff: Å.
        recipe: what the model was built from, set by whoever builds from a recipe.
        sections: what its file says beside recipe and weights, plain JSON by the names of
            :data:`eqmol.checkpoint.header.SECTIONS`.
        aux: tensors that belong to sections, by name, on the CPU.
        dispersion: what predictions have besides the network's energies, set by whoever reads a model to predict; None while it
            is trained, on labels without it.

    Raises:
        InputError: an argument of the wrong type, or elements that differ from the backbone's.
    """

    def __init__(self, backbone: Backbone, elements: list[int]) -> None:
        super().__init__()
        if not isinstance(backbone, Backbone):
            raise InputError(f"backbone must be a model with node features, not {type(backbone).__name__}")
        self.elements = check_elements(elements)
        if self.elements != backbone.elements:
            raise InputError(f"elements={self.elements} differ from those of the backbone, {backbone.elements}")
        self.cutoff = backbone.cutoff
        self.recipe: dict[str, Any] = {}
        self.sections: dict[str, Any] = {}
        self.aux: dict[str, Tensor] = {}
        self.dispersion: Dispersion | None = None
        self.backbone = backbone

    @abstractmethod
    def forward(self, graph: Data) -> dict[str, Tensor]:
        """Predict; results are float64."""

    @property
    @abstractmethod
    def targets(self) -> dict[str, Target]:
        """The properties that are predicted, by name; energies and their derivatives are none."""

    @abstractmethod
    def element_values(self, name: str) -> Tensor:
        """What an atom of each element contributes to a target by itself, [elements] float64."""

    def references(self, name: str, graph: Data) -> Tensor:
        """What the elements contribute to a target of every structure, [G]."""
        contributions = self.element_values(name).index_select(0, self.species(graph))
        return contributions.new_zeros(len(graph.cell)).index_add(0, owners(graph), contributions)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network; positions and results are float64 in every case."""
        return self.backbone.dtype

    def set_domain(self, shortest: Tensor, structures: int) -> None:
        """Take note of what the training set covers.

        Args:
            shortest: see :func:`eqmol.graph.contacts.shortest_distances`, in the order of the elements.
            structures: how many the training set has.
        """
        self.aux[SHORTEST] = shortest
        self.sections["domain"] = {"structures": structures}

    @property
    def trained_without(self) -> Dispersion | None:
        """The dispersion that the labels of the training set were lessened by."""
        return Dispersion.read(self.sections.get("dispersion"))

    def set_dispersion(self, dispersion: Dispersion | None) -> None:
        """Take note of :attr:`trained_without`."""
        if dispersion is not None:
            self.sections["dispersion"] = dispersion.section()

    @property
    def electronic_state(self) -> ElectronicState:
        """Charge and spin of the training set."""
        return ElectronicState.read(self.sections.get("domain", {}))

    def set_state(self, state: ElectronicState) -> None:
        """Take note of charge and spin of a training set."""
        self.sections["domain"] = self.sections.get("domain", {}) | state._asdict()

    @property
    def label_keys(self) -> dict[str, str]:
        """Label -> its name in the files of the training set, where these give their labels names."""
        return dict(self.sections.get("labels", {}))

    def set_labels(self, keys: dict[str, str]) -> None:
        """Take note of :attr:`label_keys`."""
        if keys:
            self.sections["labels"] = keys

    def species(self, graph: Data) -> Tensor:
        """Index of each atom's element [N].

        Raises:
            InputError: an element that the model does not know.
        """
        species, unknown = _species(graph.atomic_numbers, tuple(self.elements))
        if unknown is not None:
            raise self.unknown_element(name_atoms(graph, unknown))
        return species

    def unknown_element(self, atom: str) -> InputError:
        """The error about an atom, named for a message, of an element that the model does not know."""
        known = ", ".join(chemical_symbols[z] for z in self.elements)
        return InputError(f"{atom} is of an element that the model does not know; it knows {known}")


@kept
def _species(numbers: Tensor, elements: tuple[int, ...]) -> tuple[Tensor, int | None]:
    """Places of atomic numbers [N] among the elements, -1 for others, and the first atom of another."""
    if numbers.dtype != torch.int64:
        raise InputError(f"atomic_numbers of a graph must be int64, not {str(numbers.dtype).removeprefix('torch.')}")
    species_of = torch.full((len(chemical_symbols),), -1)
    species_of[torch.tensor(elements)] = torch.arange(len(elements))
    known = (numbers >= 0) & (numbers < len(species_of))
    species = species_of.to(numbers.device).index_select(0, numbers * known)
    unknown = torch.nonzero(species < 0)
    return species, int(unknown[0]) if len(unknown) else None

"""Distances that no prediction should be believed at: shorter than all of a training set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from eqmol.errors import InputError, check_mode
from eqmol.graph.edges import edge_vectors, name_atoms
from eqmol.graph.geometric import Data

if TYPE_CHECKING:
    from eqmol.graph.system import AtomGraph

#: Name in model files of the shortest distances of the training set [elements, elements], Å; 0 where none was found.
SHORTEST: Final = "aux.domain.shortest"
#: Of the shortest distance of the training set; below it predictions are refused.
LEAST_OF_TRAINED = 0.7
#: Of the sum of covalent radii; the same for pairs that the training set lacks or has only unbonded, farther than this sum: at
#: what distance they bond is then not known.
LEAST_OF_RADII = 0.5
#: Relative; what is equal to the shortest distance but for rounding is not below it.
ROUNDING = 1e-6
#: Structures with so many atoms, nine of ten with a neighbour nearer than this part of what is usual, are not in Å.
ENOUGH_ATOMS = 3
TENTH = 0.2
#: The same for Å that were converted from Bohr although they were Å before: 0.53.
BOHR_RANGE = (0.45, 0.62)

_NUMBERS = len(chemical_symbols)


def shortest_distances(graphs: Iterable[Data], elements: Sequence[int]) -> Tensor:
    """The shortest distance of each pair of elements [elements, elements], float64 Å; 0 where no edge joins them.

    Args:
        graphs: structures with their edges.
        elements: atomic numbers, all that occur.
    """
    index, number = _index(elements), len(elements)
    shortest = torch.full((number * number,), torch.inf, dtype=torch.float64)
    for graph in graphs:
        senders, receivers = graph.edge_index
        kinds = index[graph.atomic_numbers]
        pairs = kinds[receivers] * number + kinds[senders]
        shortest.scatter_reduce_(0, pairs, torch.linalg.vector_norm(edge_vectors(graph), dim=1), "amin")
    return fill_gaps(shortest.reshape(number, number))


def fill_gaps(shortest: Tensor) -> Tensor:
    """The same table of distances [elements, elements], the same for both orders of a pair, with 0 in place of infinity."""
    least = torch.minimum(shortest, shortest.mT)
    return torch.where(torch.isfinite(least), least, 0.0)


def check_shortest(table: Tensor, number: int) -> None:
    """Refuse what is no table of distances of so many elements.

    Raises:
        InputError: another type or shape, or values that are negative, not finite or not symmetric.
    """
    if table.dtype != torch.float64 or tuple(table.shape) != (number, number):
        raise InputError(
            f"tensor {SHORTEST!r} is {table.dtype} {list(table.shape)}, not torch.float64 {[number, number]}"
        )
    if not bool(torch.isfinite(table).all() and (table >= 0).all() and torch.equal(table, table.mT)):
        raise InputError(f"tensor {SHORTEST!r} must hold distances, symmetric, finite and not negative")


class CloseContacts:
    """The guard of predictions: says and refuses what is too close.

    Below the shortest distance that the training set has of a pair of elements, a warning is given, once per pair. Below 0.7 of
    it, or 0.5 of the sum of covalent radii (Cordero et al., Dalton Trans. 2832 (2008)) for pairs that the training set lacks or
    has only farther apart than that sum, the structure is refused, unless the model was asked to have a repulsion of nuclei; the
    one that training adds by itself keeps atoms apart, and is no prediction. A structure whose distances are mostly a tenth of
    what is usual is refused in any case: it is in other units.

    Args:
        elements: atomic numbers that occur.
        shortest: [elements, elements] Å, see :func:`shortest_distances`; None where they are not known.
        repulsion: whether the model has one for close contacts.
        mode: "stop", or "warn" to refuse nothing.

    Raises:
        InputError: an unknown mode.
    """

    def __init__(
        self, elements: Sequence[int], shortest: Tensor | None, repulsion: bool = False, mode: str = "stop"
    ) -> None:
        self.mode = check_mode(mode, "close_contacts")
        self._repulsion = repulsion
        self._index = _index(elements)
        self._number = len(elements)
        radii = torch.tensor([float(covalent_radii[z]) for z in elements], dtype=torch.float64)
        bonds = radii[:, None] + radii
        trained = torch.zeros_like(bonds) if shortest is None else shortest
        seen = trained > 0
        self._trained = trained.flatten()
        self._usual = torch.where(seen, trained, bonds).flatten()
        bonded = seen & (trained <= bonds)
        self._least = torch.where(bonded, LEAST_OF_TRAINED * trained, LEAST_OF_RADII * bonds).flatten()
        self._said_below = torch.maximum(self._least, (1 - ROUNDING) * self._trained)
        self._reach = float(self._said_below.max())
        self._said: set[int] = set()

    def check(self, graph: AtomGraph, lengths: Tensor) -> None:
        """Warn of, or refuse, one structure.

        Args:
            graph: its elements are known.
            lengths: [E] Å, of the edges.

        Raises:
            InputError: atoms that are too close.
        """
        near = torch.nonzero(lengths < self._reach).squeeze(-1)
        if len(near) == 0:
            return
        pairs = self._pairs(graph, near)
        lengths_near = lengths[near]
        below = lengths_near < self._said_below[pairs]
        if not bool(below.any()):
            return
        broken = lengths_near < self._least[pairs]
        if self.mode == "stop" and bool(broken.any()):
            typical = self._typical(graph, lengths)
            if typical < TENTH or not self._repulsion:
                worst = int((lengths_near / self._usual[pairs]).argmin())
                sentence = self._describe(graph, int(near[worst]), float(lengths_near[worst]))
                raise InputError(f"{sentence}; {_advice(typical)}")
        for kind in torch.unique(pairs[below]).tolist():
            if kind not in self._said:
                first, second = divmod(kind, self._number)
                self._said |= {kind, second * self._number + first}
                worst = int(torch.where(pairs == kind, lengths_near, torch.inf).argmin())
                sentence = self._describe(graph, int(near[worst]), float(lengths_near[worst]))
                warnings.warn(f"{sentence}; the prediction is an extrapolation (said once for this pair)", stacklevel=2)

    def _pairs(self, graph: AtomGraph, edges: Tensor) -> Tensor:
        """Which entry of the tables each of some edges has."""
        kinds = self._index[graph.atomic_numbers[graph.edge_index[:, edges]]]
        return kinds[1] * self._number + kinds[0]

    def _describe(self, graph: AtomGraph, edge: int, length: float) -> str:
        first, second = sorted(graph.edge_index[:, edge].tolist())
        symbols = [chemical_symbols[int(graph.atomic_numbers[atom])] for atom in (first, second)]
        trained = float(self._trained[self._pairs(graph, torch.tensor([edge]))])
        pair = "-".join(symbols)
        known = f"the shortest distance {pair} of the training set is {trained:.3f} Å"
        if not trained:
            radii = sum(float(covalent_radii[int(graph.atomic_numbers[atom])]) for atom in (first, second))
            known = f"the sum of the covalent radii of {pair} is {radii:.2f} Å"
        image = " (a periodic image of itself)" if first == second else ""
        return f"{name_atoms(graph, first, second)}{image} are {length:.3g} Å apart, while {known}"

    def _typical(self, graph: AtomGraph, lengths: Tensor) -> float:
        """The part of the usual distance at which nine of ten atoms have a neighbour; 1 for very few atoms."""
        ratios = lengths / self._usual[self._pairs(graph, torch.arange(len(lengths)))]
        nearest = torch.full((graph.num_nodes,), torch.inf, dtype=ratios.dtype)
        nearest.scatter_reduce_(0, graph.edge_index[1], ratios, "amin")
        nearest = nearest[torch.isfinite(nearest)]
        if len(nearest) < ENOUGH_ATOMS:
            return 1.0
        return float(nearest.kthvalue(math.ceil(0.9 * len(nearest))).values)


def _advice(typical: float) -> str:
    """What to do about a structure that is refused."""
    most = f"most distances are about {typical:.2g} of the usual ones, as when"
    if typical < TENTH:
        return f"{most} coordinates are in nm (multiply them by 10) or are fractional; give them in Å"
    if BOHR_RANGE[0] < typical < BOHR_RANGE[1]:
        return f"{most} Å were converted from Bohr once too often (divide them by 0.529); give coordinates in Å"
    return "correct the structure, or predict it nevertheless with close_contacts='warn' (predict.py: --close-contacts warn)"


def _index(elements: Sequence[int]) -> Tensor:
    """The place of each atomic number among the elements."""
    index = torch.zeros(_NUMBERS, dtype=torch.int64)
    index[torch.tensor(list(elements))] = torch.arange(len(elements))
    return index

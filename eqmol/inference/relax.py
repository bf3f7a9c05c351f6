"""Relaxations of many structures, whose forces are computed in one graph.

Each structure has an optimiser of its own, stops by itself, and makes room for the next. Fixed atoms and coordinates (ASE's
constraints) stay where they are; so does the cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian
from numpy.typing import NDArray

from eqmol.errors import InputError
from eqmol.graph import AtomGraph, NeighborList
from eqmol.graph.electronic import StateGuard
from eqmol.inference.batches import batches
from eqmol.inference.evaluate import close_contacts, evaluate_graphs, graph_of
from eqmol.inference.extxyz import move_mask
from eqmol.inference.optimizers import MAX_STEP, OPTIMIZERS, Optimizer
from eqmol.models import Potential

Start = tuple[ase.Atoms, str]  #: structure, "path, frame 17"
SKIN = 0.5  #: Å, of neighbour lists


@dataclass(frozen=True)
class Settings:
    """How to relax.

    Args:
        optimizer: "lbfgs" or "fire", see :mod:`eqmol.inference.optimizers`.
        fmax: eV/Å; a structure is relaxed when no movable atom feels a larger force.
        steps: most steps of a structure.
        max_step: Å, see the optimisers.
        batch_size: most structures in one graph.
    """

    optimizer: str = "lbfgs"
    fmax: float = 0.05
    steps: int = 500
    max_step: float = MAX_STEP
    batch_size: int = 16


@dataclass(eq=False)
class Relaxation:
    """A structure on its way.

    Args:
        number: its place in the input, from 0.
        atoms: at its present positions.
        source: where it comes from, for messages.
        optimizer: with all that it remembers.
        neighbors: a list that is kept between steps.
        steps: that it has taken.
        largest: eV/Å, largest force on a movable atom, before the last step.
        result: of the model at the present positions, once it is finished.
        problem: why it cannot go on, or "".
    """

    number: int
    atoms: ase.Atoms
    source: str
    optimizer: Optimizer
    neighbors: NeighborList
    steps: int = 0
    largest: float = float("inf")
    result: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    def converged(self, fmax: float) -> bool:
        """Return whether it is relaxed."""
        return not self.problem and self.largest < fmax


class Relaxer:
    """Takes one step of all structures at a time: ``while fill(starts): evaluate(); advance()``.

    Args:
        model: a potential in evaluation mode.
        settings: how to relax.
        contacts: "stop" or "warn", see :class:`eqmol.graph.contacts.CloseContacts`.
        states: guard of charges and spins.
        active: structures that are on their way already.
        begun: number of structures of the input that were begun.
    """

    def __init__(
        self,
        model: Potential,
        settings: Settings,
        contacts: str,
        states: StateGuard,
        active: Sequence[Relaxation] = (),
        begun: int = 0,
    ) -> None:
        self.model = model
        self.settings = settings
        self.active = list(active)
        self.begun = begun
        self._contacts = close_contacts(model, contacts)
        self._states = states

    def fill(self, starts: Iterator[Start]) -> bool:
        """Begin as many further structures as there is room for; return whether any is on its way."""
        while len(self.active) < self.settings.batch_size and (start := next(starts, None)) is not None:
            self.active.append(self.begin(*start))
        return bool(self.active)

    def begin(self, atoms: ase.Atoms, source: str) -> Relaxation:
        """Return the next structure of the input, before its first step."""
        optimizer = OPTIMIZERS[self.settings.optimizer](self.settings.max_step)
        self.begun += 1
        return Relaxation(self.begun - 1, atoms, source, optimizer, NeighborList(self.model.cutoff, SKIN))

    def evaluate(self) -> None:
        """Compute the forces of all structures; what cannot be computed is the problem of its structure alone."""
        for batch in batches(self._graphs(), self.settings.batch_size):
            graphs = [graph for _, graph in batch]
            try:
                results: list[dict[str, Any] | str] = [*evaluate_graphs(self.model, graphs)]
            except InputError:  # one of them is not finite
                results = [self._alone(graph) for graph in graphs]
            for (one, _), result in zip(batch, results, strict=True):
                if isinstance(result, str):
                    one.problem = result
                else:
                    one.result = result
                    one.largest = float(np.linalg.norm(_free_forces(one), axis=1).max())

    def advance(self) -> list[Relaxation]:
        """Let the structures that were evaluated take a step; return those that are finished, which make room."""
        finished = [one for one in self.active if self._is_finished(one)]
        self.active = [one for one in self.active if not self._is_finished(one)]
        for one in self.active:
            one.atoms.positions += one.optimizer.step(one.atoms.positions, _free_forces(one))
            one.steps += 1
        return finished

    def _is_finished(self, one: Relaxation) -> bool:
        return bool(one.problem) or one.largest < self.settings.fmax or one.steps >= self.settings.steps

    def _graphs(self) -> Iterator[tuple[Relaxation, AtomGraph]]:
        for one in self.active:
            try:
                if one.steps == 0:
                    self._states.check(one.atoms, one.source)
                    check_constraints(one.atoms, one.source)
                graph = graph_of(self.model, one.atoms, one.source, one.neighbors, self._contacts)
            except InputError as error:
                one.problem = str(error)
            else:
                yield one, graph

    def _alone(self, graph: AtomGraph) -> dict[str, Any] | str:
        try:
            return evaluate_graphs(self.model, [graph])[0]
        except InputError as error:
            return str(error)


def check_constraints(atoms: ase.Atoms, source: str) -> None:
    """Refuse constraints other than fixed atoms and fixed coordinates.

    Raises:
        InputError: there is one.
    """
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms | FixCartesian):
            raise InputError(
                f"{source} has the constraint {type(constraint).__name__}; only FixAtoms and FixCartesian are known, remove it"
            )


def _free_forces(one: Relaxation) -> NDArray[np.float64]:
    """Return the forces [N, 3] (eV/Å) with those on fixed coordinates set to zero."""
    mask = move_mask(one.atoms)
    forces: NDArray[np.float64] = np.where(mask if mask.ndim == 2 else mask[:, None], one.result["forces"], 0.0)
    return forces

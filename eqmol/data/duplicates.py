"""The same structure in several places: in training and test sets, or twice with different labels."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES

#: Å; structures whose atoms, in their order, and cells differ by less are one, but for the rounding of files.
SAME = 1e-4
#: eV per atom and eV/Å; labels of one structure that differ by more contradict each other.
ENERGY_DIFFERENCE, FORCE_DIFFERENCE = 1e-3, 0.05


class Frame(NamedTuple):
    """One structure of a set."""

    name: str
    graph: AtomGraph


def repeated(sets: Mapping[str, Sequence[AtomGraph]]) -> list[tuple[Frame, Frame]]:
    """Pairs of frames with the same atoms at the same places, translation aside where nothing is periodic.

    Coordinates are projected on one direction and sorted: the same structures then stand side by side.
    """
    groups: dict[tuple[bytes, bytes], list[Frame]] = defaultdict(list)
    for name, graphs in sets.items():
        for graph in graphs:
            groups[graph.atomic_numbers.numpy().tobytes(), graph.pbc.numpy().tobytes()].append(Frame(name, graph))
    return [pair for frames in groups.values() if len(frames) > 1 for pair in _pairs(frames)]


def _pairs(frames: Sequence[Frame]) -> Iterator[tuple[Frame, Frame]]:
    places = np.stack([_place(frame.graph) for frame in frames])
    direction = np.random.default_rng(0).normal(size=places.shape[1])
    height = places @ (direction / np.linalg.norm(direction))
    order = np.argsort(height, kind="stable")
    reach = SAME * np.sqrt(places.shape[1])  # no projection of a smaller difference is longer
    for rank, first in enumerate(order):
        for second in order[rank + 1 :]:
            if height[second] - height[first] > reach:
                break
            if np.abs(places[first] - places[second]).max() < SAME:
                a, b = sorted((int(first), int(second)))
                yield frames[a], frames[b]


def _place(graph: AtomGraph) -> NDArray[np.float64]:
    """Coordinates and cell as one vector."""
    positions, cell = graph.pos.numpy(), graph.cell.numpy().ravel()
    if not graph.pbc.any():
        positions, cell = positions - positions.mean(axis=0), 0.0 * cell
    return np.concatenate([positions.ravel(), cell])


def notes(sets: Mapping[str, Sequence[AtomGraph]], training: str = "train") -> list[str]:
    """Sentences about frames that stand in the training set and in another one, and about labels that contradict each other."""
    shared: dict[str, list[tuple[Frame, Frame]]] = defaultdict(list)
    contradictions = []
    for first, second in repeated(sets):
        names = {first.name, second.name}
        if training in names and len(names) == 2:
            shared[(names - {training}).pop()].append((first, second))
        if difference := _difference(first.graph, second.graph):
            contradictions.append((first, second, difference))
    found = [
        f"{len(pairs)} pairs of frames are the same in '{training}' and '{name}' (first: {pairs[0][0].graph.source} and "
        f"{pairs[0][1].graph.source}): errors on '{name}' are too low; remove them from one of the sets"
        for name, pairs in ((name, shared[name]) for name in sets if name in shared)
    ]
    if contradictions:
        first, second, difference = contradictions[0]
        found.append(
            f"{len(contradictions)} pairs of frames have the same structure and different labels (first: "
            f"{first.graph.source} and {second.graph.source}, {difference}); keep one of them"
        )
    return found


def _difference(a: AtomGraph, b: AtomGraph) -> str:
    """How the labels of one structure differ, "" where they agree or are absent."""
    if ENERGY in a and ENERGY in b:
        energy = abs(float(a.energy) - float(b.energy))
        if energy > ENERGY_DIFFERENCE * a.num_nodes:
            return f"{energy:.3g} eV apart"
    if FORCES in a and FORCES in b:
        force = float((a.forces - b.forces).abs().max())
        if force > FORCE_DIFFERENCE:
            return f"forces {force:.3g} eV/Å apart"
    return ""

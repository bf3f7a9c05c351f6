"""The same structure in several places: in training and test sets, or twice with different labels."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from eqmol.data.checks.finding import TRAIN, Finding, Sets, about, share
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY, FORCES

#: Å; structures whose atoms, in their order, and cells differ by less are one, but for the rounding of files.
SAME = 1e-4
#: Å; the same where it is only said that they are alike.
NEAR = 0.02
#: Random directions; standard deviations of a projection that none exceeds (2e-9).
DIRECTIONS, SURE = 6, 6.0
#: Frames of a set that are compared with nearly the same ones of another.
MOST = 2000
#: Distances of a structure that are compared: all of some twenty atoms.
COMPARED = 300
#: eV per atom and eV/Å; labels of one structure that differ by more contradict each other.
ENERGY_DIFFERENCE, FORCE_DIFFERENCE = 1e-3, 0.05


class Frame(NamedTuple):
    """One structure of a set."""

    name: str
    graph: AtomGraph


def repeated(
    sets: Sets, vector: Callable[[AtomGraph], NDArray[np.float64]] | None = None, reach: float = SAME
) -> list[tuple[Frame, Frame]]:
    """Pairs of frames with the same atoms at the same places, translation aside where nothing is periodic.

    Vectors are projected on a few random directions, where the same structures stand side by side.

    Args:
        sets: structures by the name of their set.
        vector: what makes a structure, Å; None for positions and cell.
        reach: Å, below which components are the same.
    """
    groups: dict[tuple[bytes, bytes], list[Frame]] = defaultdict(list)
    for name, graphs in sets.items():
        for graph in graphs:
            groups[graph.atomic_numbers.numpy().tobytes(), graph.pbc.numpy().tobytes()].append(Frame(name, graph))
    return [pair for frames in groups.values() if len(frames) > 1 for pair in _pairs(frames, vector or _place, reach)]


def _pairs(
    frames: Sequence[Frame], vector: Callable[[AtomGraph], NDArray[np.float64]], reach: float
) -> Iterator[tuple[Frame, Frame]]:
    places = np.stack([vector(frame.graph) for frame in frames])
    directions, _ = np.linalg.qr(
        np.random.default_rng(0).normal(size=(places.shape[1], min(places.shape[1], DIRECTIONS)))
    )
    # on a random direction a difference is as long as its components are large; beyond so many times that, it never is
    apart = reach * min(np.sqrt(places.shape[1]), SURE)
    found = cKDTree(places @ directions).query_pairs(apart, p=np.inf, output_type="ndarray")
    for a, b in found[np.lexsort(found.T[::-1])].tolist():
        if np.abs(places[a] - places[b]).max() < reach:
            yield frames[a], frames[b]


def _place(graph: AtomGraph) -> NDArray[np.float64]:
    """Coordinates and cell as one vector."""
    positions, cell = graph.pos.numpy(), graph.cell.numpy().ravel()
    if not graph.pbc.any():
        positions, cell = positions - positions.mean(axis=0), 0.0 * cell
    return np.concatenate([positions.ravel(), cell])


def _shape(graph: AtomGraph) -> NDArray[np.float64]:
    """Distances, of large molecules some, which rotations do not change; of periodic structures positions and cell."""
    if graph.pbc.any():
        return _place(graph)
    positions = graph.pos.numpy()
    rows, columns = np.triu_indices(len(positions), 1)
    chosen = slice(None, None, max(1, len(rows) // COMPARED))
    rows, columns = rows[chosen], columns[chosen]
    return np.linalg.norm(positions[rows] - positions[columns], axis=1)


def duplicates(sets: Sets) -> list[Finding]:
    """Findings about frames that stand in several sets, labels that contradict each other, and frames that are nearly the same.

    Frames within one set that are the same count as one frame too many; between two sets, of which one trains and the other
    judges, they make the errors too low.
    """
    pairs = repeated(sets)
    return [*_shared(sets, pairs), *_contradictions(pairs), *_repeats(sets, pairs), *_near(sets, pairs)]


def _shared(sets: Sets, pairs: Sequence[tuple[Frame, Frame]]) -> list[Finding]:
    """The same frames in two sets: in the training set and another one, or in any two where none trains."""
    shared: dict[tuple[str, str], list[tuple[Frame, Frame]]] = defaultdict(list)
    places = list(sets)
    for first, second in pairs:
        names = sorted({first.name, second.name}, key=lambda name: (name != TRAIN, places.index(name)))
        if len(names) == 2 and (TRAIN in names or TRAIN not in sets):
            shared[names[0], names[1]].append((first, second))
    found = []
    for (one, other), same in sorted(shared.items(), key=lambda item: [places.index(name) for name in item[0]]):
        graphs = [frame.graph for pair in same for frame in pair if frame.name == other]
        errors = (
            f"errors on '{other}' are too low" if one == TRAIN else "errors on one are too low where the other trains"
        )
        words = (
            f"{len(same)} pairs of frames are the same in '{one}' and '{other}' (first: {same[0][0].graph.source} and "
            f"{same[0][1].graph.source}): {errors}; remove them from one of the sets"
        )
        found.append(about("leakage", words, graphs))
    return found


def _contradictions(pairs: Sequence[tuple[Frame, Frame]]) -> list[Finding]:
    different = [(a, b, words) for a, b in pairs if (words := _difference(a.graph, b.graph))]
    if not different:
        return []
    first, second, difference = different[0]
    words = (
        f"{len(different)} pairs of frames have the same structure and different labels (first: {first.graph.source} and "
        f"{second.graph.source}, {difference}); keep one of them"
    )
    return [about("contradictions", words, [frame.graph for pair in different for frame in pair[:2]])]


def _repeats(sets: Sets, pairs: Sequence[tuple[Frame, Frame]]) -> list[Finding]:
    """The same frames within one set."""
    found = []
    for name in sets:
        second = {id(b.graph): b.graph for a, b in pairs if a.name == b.name == name}
        if second:
            graphs = list(second.values())
            words = f"{len(graphs)} frames of '{name}' repeat an earlier one (first: {graphs[0].source})"
            found.append(about("duplicates", words, graphs, culprit=False))
    return found


def _some(graphs: Sequence[AtomGraph]) -> Sequence[AtomGraph]:
    """At most :data:`MOST` or nearly twice as many, evenly spread."""
    return graphs[:: max(1, len(graphs) // MOST)]


def _near(sets: Sets, pairs: Sequence[tuple[Frame, Frame]]) -> list[Finding]:
    """Frames of other sets that are nearly, or but for a rotation, those of the training set."""
    if TRAIN not in sets:
        return []
    same = {id(frame.graph) for pair in pairs for frame in pair}
    found = []
    for name in sets:
        if name == TRAIN:
            continue
        both = {part: _some(sets[part]) for part in (TRAIN, name)}
        near = {
            id(frame.graph): frame.graph
            for pair in repeated(both, _shape, NEAR)
            if {pair[0].name, pair[1].name} == {TRAIN, name}
            for frame in pair
            if frame.name == name and id(frame.graph) not in same
        }
        if near:
            words = (
                f"{share(len(near), len(both[name]), name)} are within {NEAR:g} Å of one of '{TRAIN}', or turned copies (first: "
                f"{next(iter(near.values())).source}): the errors on '{name}' are those of frames that are nearly known"
            )
            found.append(about("near duplicates", words, list(near.values()), culprit=False))
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

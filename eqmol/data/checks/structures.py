"""What is wrong with structures: units of lengths, atoms that are too close, cells, elements."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii
from ase.formula import Formula
from numpy.typing import NDArray

from eqmol.data.checks.finding import TRAIN, Finding, Sets, about, share
from eqmol.data.checks.pairs import NOBLE
from eqmol.graph import AtomGraph, edge_vectors
from eqmol.graph.contacts import BOHR_RANGE, LEAST_OF_RADII, TENTH

#: Of the sum of covalent radii; neighbours that are farther in the median are as coordinates in Bohr have them.
FAR = 1.5
#: Atoms whose neighbours tell the unit of lengths.
ENOUGH_ATOMS = 3
#: Frames of a training set in which an element should occur, where the set has ten times as many.
FEW = 5

_RADII = torch.tensor(covalent_radii)


def lengths(sets: Sets) -> list[Finding]:
    """Findings about the unit of coordinates and about atoms that are too close."""
    found = []
    for name, graphs in sets.items():
        nearest = [_nearest(graph) for graph in graphs]
        typical = [
            near[np.isfinite(near)]
            for graph, near in zip(graphs, nearest, strict=True)
            if graph.num_nodes >= ENOUGH_ATOMS and not np.isin(graph.atomic_numbers.numpy(), NOBLE).all()
        ]
        median = float(np.median(np.concatenate(typical))) if any(len(near) for near in typical) else 1.0
        if unit := _unit(median):
            evidence = (
                f"'{name}': atoms have their nearest neighbours at {median:.2g} times the sum of their covalent radii"
            )
            found.append(about("lengths", f"{evidence}, as {unit}", graphs))
            continue
        close = [graph for graph, near in zip(graphs, nearest, strict=True) if near.min(initial=1.0) < LEAST_OF_RADII]
        if close:
            worst = min(close, key=lambda graph: float(_nearest(graph).min()))
            where = share(len(close), len(graphs), name)
            words = f"atoms are closer than {LEAST_OF_RADII} of the sum of their covalent radii in {where}"
            found.append(about("close atoms", f"{words} (worst: {_closest(worst)}); correct or remove them", close))
    return found


def _nearest(graph: AtomGraph) -> NDArray[np.float64]:
    """Distance of each atom's nearest neighbour [N] over the sum of their covalent radii; infinite without neighbours."""
    ratios = _ratios(graph)
    nearest = torch.full((graph.num_nodes,), torch.inf, dtype=torch.float64)
    return nearest.scatter_reduce_(0, graph.edge_index[1], ratios, "amin").numpy()


def _ratios(graph: AtomGraph) -> torch.Tensor:
    """Length of each edge [E] over the sum of the covalent radii."""
    radii = _RADII[graph.atomic_numbers]
    return torch.linalg.vector_norm(edge_vectors(graph), dim=1) / radii[graph.edge_index].sum(dim=0)


def _closest(graph: AtomGraph) -> str:
    """The closest pair of atoms of a structure, in words."""
    edge = int(_ratios(graph).argmin())
    length = float(torch.linalg.vector_norm(edge_vectors(graph)[edge]))
    first, second = sorted(graph.edge_index[:, edge].tolist())
    symbols = [chemical_symbols[int(graph.atomic_numbers[atom])] for atom in (first, second)]
    return f"{graph.source}, atoms {first} ({symbols[0]}) and {second} ({symbols[1]}), {length:.3g} Å apart"


def _unit(median: float) -> str:
    """What a typical distance says about the unit of lengths, "" if it is Å."""
    if median < TENTH:
        return "coordinates in nm (multiply them by 10) or fractional ones have it; give them in Å"
    if BOHR_RANGE[0] < median < BOHR_RANGE[1]:
        return "Å have it that were converted from Bohr once too often; divide them by 0.529177"
    if median > FAR:
        return "coordinates in Bohr have it (1.9); multiply them by 0.529177, or look at what the structures are"
    return ""


def cells(sets: Sets) -> list[Finding]:
    """Findings about frames of one composition that are periodic in some places and not in others."""
    found = []
    for name, graphs in sets.items():
        directions: dict[str, dict[tuple[bool, ...], list[AtomGraph]]] = defaultdict(lambda: defaultdict(list))
        for graph in graphs:
            directions[formula(graph)][tuple(graph.pbc[0].tolist())].append(graph)
        for composition, kinds in directions.items():
            if len(kinds) > 1:
                (_, many), *rest = sorted(kinds.items(), key=lambda item: -len(item[1]))
                few = [graph for _, part in rest for graph in part]
                words = (
                    f"frames of {composition} in '{name}' are periodic in different directions: {len(many)} as {many[0].source} "
                    f"and {len(few)} as {few[0].source}; give all of one kind the same pbc and cell"
                )
                found.append(about("cells", words, few))
    return found


def elements(sets: Sets) -> list[Finding]:
    """Findings about elements that the training set lacks, or has in few frames."""
    if TRAIN not in sets:
        return []
    frames: dict[int, int] = defaultdict(int)
    for graph in sets[TRAIN]:
        for number in _numbers(graph):
            frames[number] += 1
    found = []
    for name, graphs in sets.items():
        unknown = [graph for graph in graphs if any(number not in frames for number in _numbers(graph))]
        if unknown:
            symbols = sorted({chemical_symbols[z] for graph in unknown for z in _numbers(graph) if z not in frames})
            words = f"'{TRAIN}' lacks {', '.join(symbols)}, which {share(len(unknown), len(graphs), name)} have"
            found.append(about("elements", f"{words}; train on such frames too, or leave them out", unknown))
    total = len(sets[TRAIN])
    few = {chemical_symbols[z]: number for z, number in sorted(frames.items()) if number < FEW and total >= 10 * FEW}
    if few:
        counts = ", ".join(f"{symbol} in {number}" for symbol, number in few.items())
        words = f"few of the {total} frames of '{TRAIN}' have some elements ({counts}): expect large errors with them"
        found.append(Finding("elements", words, False))
    return found


def formula(graph: AtomGraph) -> str:
    """Composition in Hill's order."""
    return Formula.from_list([chemical_symbols[z] for z in graph.atomic_numbers.tolist()]).format("hill")


def _numbers(graph: AtomGraph) -> Sequence[int]:
    return graph.atomic_numbers.unique().tolist()

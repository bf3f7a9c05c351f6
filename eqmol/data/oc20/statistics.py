"""Statistics of a training set of OC20."""

from collections.abc import Mapping

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqmol.data.atomic_energies import FreeAtom
from eqmol.data.oc20.graphs import FrameGraphs
from eqmol.data.statistics import Measured, Statistics

#: Frames that give the scale of forces and the mean number of neighbours.
MEASURED = 500


def measure(
    train: FrameGraphs, elements: NDArray[np.int64], known: Mapping[int, FreeAtom], source: str, implausible: str
) -> Statistics:
    """Return the statistics of a training set: element energies from all its frames, the rest from some.

    Args:
        train: the training set.
        elements: atomic numbers, ascending.
        known: energies of elements that need no fit.
        implausible: see :class:`eqmol.data.statistics.Measured`.
        source: where the frames come from, for messages.
    """
    library = train.library
    systems, place, sizes = np.unique(library.system[train.indices], return_inverse=True, return_counts=True)
    energy = train.energy[train.indices]
    means = np.bincount(place, energy) / sizes
    some = train.spread(MEASURED)
    graphs = [some[i] for i in range(len(some))]
    measured = Measured(
        elements.tolist(),
        library.composition[systems][:, elements].astype(np.float64),
        means,
        forces=some.free_forces(),
        avg_num_neighbors=sum(graph.edge_index.shape[1] for graph in graphs) / sum(g.num_nodes for g in graphs),
        sources=[f"{source}, {library.systems[system]}" for system in systems],
        implausible=implausible,
        weights=sizes.astype(np.float64),
        within=np.bincount(place, np.square(energy - means[place])) / sizes,
    )
    return measured.statistics(known)


def no_references() -> dict[int, FreeAtom]:
    """Return the per-element energies of adsorption energies."""
    return {z: FreeAtom(0.0, "adsorption energies: 0") for z in range(1, len(chemical_symbols))}

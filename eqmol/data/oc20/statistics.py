"""Statistics of a training set of OC20."""

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqmol.data.oc20.graphs import FrameGraphs
from eqmol.data.statistics import FreeAtom, Statistics, summarise
from eqmol.errors import InputError
from eqmol.files import read_npz

#: Frames that give the scale of forces and the mean number of neighbours, and that stand for the training set in the
#: final table.
MEASURED = 500


def measure(
    train: FrameGraphs, elements: NDArray[np.int64], adsorption: bool, references: str | Path | None, source: str
) -> Statistics:
    """Return the statistics of a training set: element energies from all its frames, the rest from some.

    Args:
        train: the training set.
        elements: atomic numbers, ascending.
        adsorption: its energies are adsorption energies.
        references: a file of energies of the elements, for total energies; None to fit them.
        source: where the frames come from, for messages.
    """
    library = train.library
    systems, place, sizes = np.unique(library.system[train.indices], return_inverse=True, return_counts=True)
    energy = train.energy[train.indices]
    means = np.bincount(place, energy) / sizes
    some = train.spread(MEASURED)
    graphs = [some[i] for i in range(len(some))]
    given = {} if references is None else read_references(Path(references))
    return summarise(
        elements.tolist(),
        library.composition[systems][:, elements].astype(np.float64),
        means,
        no_references() if adsorption else given,
        forces=some.free_forces(),
        avg_num_neighbors=sum(graph.edge_index.shape[1] for graph in graphs) / sum(g.num_nodes for g in graphs),
        source=source,
        weights=sizes.astype(np.float64),
        within=np.bincount(place, np.square(energy - means[place])) / sizes,
    )


def read_references(path: Path) -> dict[int, FreeAtom]:
    """Return per-element energies from an ``.npz`` with ``coeff``, whose index is the atomic number (eV).

    Raises:
        InputError: not such a file.
    """
    try:
        energies = np.asarray(read_npz(path)["coeff"], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no .npz with per-element energies 'coeff' ({error})") from error
    if energies.ndim != 1 or not np.isfinite(energies).all():
        raise InputError(
            f"{path}: 'coeff' has shape {list(energies.shape)}; it should hold an energy per atomic number"
        )
    last = min(len(energies), len(chemical_symbols))
    return {z: FreeAtom(float(energies[z]), path.name) for z in range(1, last)}


def no_references() -> dict[int, FreeAtom]:
    """Return the per-element energies of adsorption energies."""
    return {z: FreeAtom(0.0, "adsorption energies: 0") for z in range(1, len(chemical_symbols))}

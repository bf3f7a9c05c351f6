"""What a structure is to the models: a graph of atoms."""

import itertools
from collections.abc import Sequence
from copy import copy
from typing import Any

import ase
import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from eqmol.errors import InputError, at, short
from eqmol.graph.contacts import CloseContacts
from eqmol.graph.edges import vectors_and_lengths
from eqmol.graph.geometric import Batch, Data
from eqmol.graph.neighbors import (
    MAX_EXTENT_IN_CUTOFFS,
    NeighborList,
    complete_cell,
    estimate_edges,
    extent,
    max_edges,
    move_back,
)

#: Å; coordinates must be small enough for float64 to resolve it.
RESOLUTION = 1e-6
#: Å; periodic vectors whose parallelepiped is flatter than this have no usable lattice.
FLAT_CELL = 0.1


class AtomGraph(Data):  # type: ignore[misc]
    """One structure, or after :func:`collate` several, with edges and, where known, labels.

    N atoms, E edges, G graphs (one before batching). Lengths are in Å, energies in eV; numbers are float64 unless said otherwise.

    Attributes:
        pos: [N, 3]; atoms many periodic cells away are moved back by whole cells.
        atomic_numbers: [N] int64.
        cell: [G, 3, 3], rows are the lattice vectors, zeros where there is none.
        pbc: [G, 3] bool, periodic directions.
        edge_index: [2, E] int64, row 0 senders, row 1 receivers, sorted by receiver; for vectors see :mod:`eqmol.graph.edges`.
        shifts: [E, 3], integers, lattice translations of the sender.
        config_type: [G] text, the group in error tables, "" where the frame names none.
        source: [G] text, "path, frame 17", for messages.
        batch: [N] int64, the graph of each atom; only in a batch.
        energy: [G] eV, NaN where the frame carries none; absent where no frame does, as are the next two.
        forces: [N, 3] eV/Å, NaN where the frame carries none.
        stress: [G, 3, 3] eV/Å³, +dE/dstrain/V, NaN where absent or not periodic in three directions.
        tags: [N] int64, 0 below the surface, 1 surface, 2 adsorbate; only where the data carry them.
        fixed: [N] bool, atoms held in place when the data were made; only where the data carry them.
        displacement: [N, 3] Å, from here to the relaxed position, NaN where it is not known; only of initial structures (IS2RE).
        features: [N, features], further inputs; where a model reads them.
    """

    pos: Tensor
    atomic_numbers: Tensor
    cell: Tensor
    pbc: Tensor
    shifts: Tensor
    config_type: str
    source: str


def from_atoms(
    atoms: ase.Atoms,
    cutoff: float,
    *,
    energy: float | None = None,
    forces: ArrayLike | None = None,
    stress: ArrayLike | None = None,
    tags: ArrayLike | None = None,
    fixed: ArrayLike | None = None,
    source: str = "",
    neighbors: NeighborList | None = None,
    contacts: CloseContacts | None = None,
) -> AtomGraph:
    """Turn an ASE structure into a graph.

    >>> water = ase.Atoms("OHH", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    >>> from_atoms(water, cutoff=1.2).edge_index  # row 0 senders, row 1 receivers: the two bonds, in both directions
    tensor([[1, 2, 0, 0],
            [0, 0, 1, 2]])

    Args:
        atoms: structure in Å; constraints and calculators are ignored.
        cutoff: Å.
        energy: eV.
        forces: [N, 3] eV/Å.
        stress: [3, 3] eV/Å³, +dE/dstrain/V.
        tags: [N] integers, 0 below the surface, 1 surface, 2 adsorbate.
        fixed: [N] bool, atoms that were held in place.
        source: where the structure comes from, for messages: "path, frame 17".
        neighbors: a list with the same cutoff that is kept between calls.
        contacts: a guard that says or refuses what is too close.

    Atoms many cells outside of a periodic cell are moved back by whole cells, so that distances are as exact as within it.

    Raises:
        InputError: no atoms, an atomic number of no element, positions or cell not finite, a singular cell with a periodic
            direction, atoms at the same place or absurdly far apart, more edges than fit into memory.
    """
    positions = np.asarray(atoms.positions, dtype=np.float64)
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    pbc = np.asarray(atoms.pbc, dtype=bool)
    numbers = check_numbers(atoms.numbers, source)
    _check_values(atoms, positions, cell, pbc, source)
    positions, _ = move_back(positions, complete_cell(cell, pbc), pbc)
    if neighbors is None:
        neighbors = NeighborList(cutoff)
    assert neighbors.cutoff == cutoff
    if not neighbors.holds(positions, cell, pbc):
        _check_size(atoms, positions, cell, pbc, neighbors, source)
    edge_index, shifts = neighbors(positions, cell, pbc)
    graph = AtomGraph(
        pos=torch.tensor(positions),
        atomic_numbers=torch.tensor(numbers),
        cell=torch.tensor(cell)[None],
        pbc=torch.tensor(pbc)[None],
        edge_index=edge_index,
        shifts=shifts,
        config_type=str(atoms.info.get("config_type", "")),
        source=source,
    )
    _, lengths = vectors_and_lengths(graph)
    if contacts is not None:
        contacts.check(graph, lengths)
    if energy is not None:
        graph.energy = torch.tensor([energy], dtype=torch.float64)
    if forces is not None:
        graph.forces = torch.tensor(np.asarray(forces, dtype=np.float64).reshape(len(atoms), 3))
    if stress is not None:
        graph.stress = torch.tensor(np.asarray(stress, dtype=np.float64).reshape(1, 3, 3))
    if tags is not None:
        graph.tags = torch.tensor(np.asarray(tags), dtype=torch.int64)
    if fixed is not None:
        graph.fixed = torch.tensor(np.asarray(fixed), dtype=torch.bool)
    return graph


def collate(graphs: Sequence[AtomGraph]) -> Batch:
    """Join graphs with the same fields into one graph with ``batch`` [N], ``ptr`` [G+1] and ``num_graphs``.

    The same as ``Batch.from_data_list``, in half the time where all fields are texts and tensors of rows.
    """
    first = graphs[0]
    fields = first.to_dict()
    if not all(isinstance(value, str) or _has_rows(value) for value in fields.values()):
        return Batch.from_data_list(list(graphs))
    nodes = [graph.num_nodes for graph in graphs]
    none, each = torch.zeros(len(nodes), dtype=torch.int64), _starts([1] * len(nodes))
    ptr = _starts(nodes)
    batch = Batch(_base_cls=type(first)).stores_as(first)
    batch._num_graphs, batch._slice_dict, batch._inc_dict = len(nodes), {}, {}
    for name in fields:
        values: Any = [graph[name] for graph in graphs]
        slices, increments = each, none
        if isinstance(values[0], Tensor):
            axis = first.__cat_dim__(name, values[0])
            slices = _starts([value.shape[axis] for value in values])
            if first.__inc__(name, values[0]):  # indices of atoms
                increments = ptr[:-1]
                values = [value + int(start) for value, start in zip(values, increments, strict=True)]
            values = torch.cat(values, axis)
        batch[name], batch._slice_dict[name], batch._inc_dict[name] = values, slices, increments
    batch.batch, batch.ptr = torch.repeat_interleave(torch.tensor(nodes)), ptr
    return batch


def _has_rows(value: object) -> bool:
    return type(value) is Tensor and value.dim() > 0 and value.layout == torch.strided and value.device.type == "cpu"


def _starts(sizes: Sequence[int]) -> Tensor:
    """[G + 1] of parts one after another."""
    return torch.tensor([0, *itertools.accumulate(sizes)])


def moved(batch: Batch, positions: Tensor, cutoff: float) -> Batch:
    """Return the structures of a batch with their atoms elsewhere, and with the edges that they have there.

    Args:
        batch: as of :func:`collate`; it stays as it is.
        positions: [N, 3] Å.
        cutoff: Å.
    """
    neighbors, starts = NeighborList(cutoff), batch.ptr.tolist()
    points, cells, pbc = (t.detach().cpu().numpy() for t in (positions, batch.cell, batch.pbc))
    found = [neighbors(points[a:b], cells[i], pbc[i]) for i, (a, b) in enumerate(itertools.pairwise(starts))]
    result = copy(batch)
    result.pos = positions
    edges = [edge_index + start for (edge_index, _), start in zip(found, starts[:-1], strict=True)]
    result.edge_index = torch.cat(edges, 1).to(positions.device)
    result.shifts = torch.cat([shifts for _, shifts in found]).to(positions)
    return result


def check_numbers(numbers: ArrayLike, source: str = "") -> NDArray[np.int64]:
    """Return atomic numbers [N] as integers.

    Args:
        numbers: of any type; numbers with a fraction of zero, as OC20 stores them, are integers.
        source: where the structure comes from, for messages.

    Raises:
        InputError: one that no element has; names the first.
    """
    given = np.asarray(numbers)
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise InputError(f"{at(source)}the atomic numbers are {short(given.tolist())}, not a list of integers")
    wrong = (given < 1) | (given >= len(chemical_symbols))
    if given.dtype.kind == "f":
        wrong |= given != np.rint(given)
    if not wrong.any():
        return given.astype(np.int64)
    index, number = wrong.argmax(), given[wrong.argmax()]
    kind = "is a dummy or ghost atom (X, atomic number 0)" if number == 0 else f"has the atomic number {number}"
    raise InputError(
        f"{at(source)}atom {index} {kind}, which is no element (they are 1 to {len(chemical_symbols) - 1}); correct "
        "or remove it"
    )


def _check_values(
    atoms: ase.Atoms, positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], source: str
) -> None:
    """Refuse positions and cells that mean nothing."""
    if len(atoms) == 0:
        raise InputError(f"{at(source)}the structure has no atoms")
    broken = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(broken) > 0:
        i = broken[0]
        raise InputError(f"{at(source)}the position of {_name(atoms, i)} is not finite: {positions[i].tolist()}")
    if not np.isfinite(cell).all():
        raise InputError(f"{at(source)}the cell is not finite: {cell.tolist()}")
    if pbc.any() and (height := lowest_height(cell[pbc])) < FLAT_CELL:
        raise InputError(
            f"{at(source)}the cell {cell.tolist()} is singular along its periodic directions {pbc.tolist()} "
            f"(lowest height {height:.3g} Å); give independent lattice vectors, reduced if they are very oblique, or switch the "
            "periodic directions off"
        )
    coarse = np.spacing(np.abs(positions).max(axis=1)) > RESOLUTION
    if coarse.any():
        i = int(coarse.argmax())
        raise InputError(
            f"{at(source)}{_name(atoms, i)} is at [{', '.join(f'{x:.6g}' for x in positions[i])}] Å, too far from the origin "
            f"for distances to be exact to {RESOLUTION:g} Å; move the structure to the origin"
        )


def _check_size(
    atoms: ase.Atoms,
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    neighbors: NeighborList,
    source: str,
) -> None:
    """Refuse what has no neighbour list, or one that does not fit into memory."""
    cutoff = neighbors.cutoff
    if (length := extent(positions, cell, pbc)) > MAX_EXTENT_IN_CUTOFFS * cutoff:
        far = np.linalg.norm(positions - np.median(positions, axis=0), axis=1).argmax()
        raise InputError(
            f"{at(source)}the structure extends over {length:.3g} Å, more than {MAX_EXTENT_IN_CUTOFFS:.0f} times "
            f"the cutoff of {cutoff} Å; look at the cell and {_name(atoms, far)} at {positions[far].tolist()}"
        )
    reach = cutoff + neighbors.skin
    if (number := estimate_edges(positions, complete_cell(cell, pbc), pbc, reach)) > max_edges():
        raise InputError(
            f"{at(source)}the {len(atoms)} atoms have about {number:.1e} pairs within {reach:g} Å, more than the "
            f"{max_edges():.1e} that a quarter of this machine's memory holds; see whether the coordinates are in Å and "
            "the cell is right, or give a smaller structure"
        )


def lowest_height(vectors: NDArray[np.float64]) -> float:
    """Return the lowest height (Å) of the parallelepiped of [K, 3] vectors: 1 / the longest reciprocal vector."""
    if np.linalg.matrix_rank(vectors) < len(vectors):
        return 0.0
    return float(1.0 / np.linalg.norm(np.linalg.pinv(vectors), axis=0).max())


def _name(atoms: ase.Atoms, index: int) -> str:
    """Return "atom 3 (C)"."""
    return f"atom {index} ({chemical_symbols[int(atoms.numbers[index])]})"

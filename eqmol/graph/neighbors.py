"""The only neighbour list of the project."""

import itertools
import math
import os
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from vesin import NeighborList as VesinNeighborList

from eqmol.threads import each_slice

#: What is larger is taken for damaged.
MAX_EXTENT_IN_CUTOFFS = 1e4
#: vesin reduces more cells than 1e5 in the ratio of the extents, which leaves none in the short directions of flat and thin
#: structures (it divides by their number: SIGFPE), and where some directions are periodic it visits all cells of the open ones
#: from each cell.
_VESIN_CELLS = 9e4
#: Atoms are moved back by multiples of so many cells: those of a simulation, which drift by a few, stay where they are, and the
#: kept pairs stay valid.
FAR = 64
_NEGLIGIBLE = 1e6  # edges; fewer need no better estimate
#: What the list of one edge needs while it is made, bytes, and the part of the machine's memory that lists may need.
EDGE_BYTES = 250
MEMORY_SHARE = 1 / 4
#: Edges at a time, which threads take in turns once they are found.
CHUNK = 1 << 14
SPHERE = 4 / 3 * math.pi


class _Pairs(NamedTuple):
    """The pairs of a structure, and what they were found for.

    Attributes:
        points: [N, 3] Å.
        box, periodic: see :func:`complete_cell`.
        edge_index: [2, E] senders and receivers.
        shifts: [E, 3].
    """

    points: NDArray[np.float64]
    box: NDArray[np.float64]
    periodic: NDArray[np.bool_]
    edge_index: NDArray[np.int64]
    shifts: NDArray[np.float64]

    def hold(
        self, points: NDArray[np.float64], box: NDArray[np.float64], periodic: NDArray[np.bool_], skin: float
    ) -> bool:
        """Whether no atom has moved half of a skin, in the same cell."""
        if points.shape != self.points.shape or not np.array_equal(periodic, self.periodic):
            return False
        if not np.array_equal(box, self.box):
            return False
        moves = points - self.points
        return bool(4 * np.einsum("ij,ij->i", moves, moves).max(initial=0.0) < skin**2)

    def within(self, points: NDArray[np.float64], cutoff: float) -> NDArray[np.bool_]:
        """Which pairs are closer than a cutoff now [E]."""
        near = np.empty(len(self.shifts), dtype=bool)
        is_periodic = bool(self.periodic.any())

        def measure(part: slice) -> None:
            vectors = points.take(self.edge_index[0, part], 0) - points.take(self.edge_index[1, part], 0)
            if is_periodic:
                vectors += self.shifts[part] @ self.box
            np.less(np.einsum("ij,ij->i", vectors, vectors), cutoff**2, out=near[part])

        each_slice(measure, len(near), CHUNK)
        return near

    def chosen(self, which: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Edges [2, E] and shifts [E, 3] of some pairs."""
        edges, shifts = np.empty((2, len(which)), np.int64), np.empty((len(which), 3))

        def put(part: slice) -> None:
            for row in range(2):
                self.edge_index[row].take(which[part], out=edges[row, part], mode="clip")
            self.shifts.take(which[part], 0, out=shifts[part], mode="clip")

        each_slice(put, len(which), CHUNK)
        return edges, shifts


class NeighborList:
    """All pairs closer than a cutoff, periodic images and self-images included, by vesin's cell list.

    Very large or sparse structures go through a k-d tree.

    A positive ``skin`` keeps the pairs within ``cutoff + skin`` between calls and recomputes them only when an atom has
    moved more than ``skin / 2`` or the cell has changed (Verlet, Phys. Rev. 159, 98 (1967)). The result is the same.

    Args:
        cutoff: Å, positive.
        skin: Å, zero or positive.
    """

    def __init__(self, cutoff: float, skin: float = 0.0) -> None:
        assert cutoff > 0, cutoff
        assert skin >= 0, skin
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self._reach = self.cutoff + self.skin
        # one thread: data workers and shared machines suffer from more
        self._vesin = VesinNeighborList(cutoff=self._reach, full_list=True, n_threads=1)
        self._kept: _Pairs | None = None

    def __call__(self, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> tuple[Tensor, Tensor]:
        """Return the pairs of one structure.

        Args:
            positions: [N, 3] Å, finite; atoms may lie any number of cells outside the cell.
            cell: [3, 3] Å, rows are vectors; rows of directions that are not periodic are ignored.
            pbc: [3] bool.

        Returns:
            ``edge_index`` [2, E] int64 (row 0 senders, row 1 receivers, sorted by receiver, then by sender and shift)
            and ``shifts`` [E, 3] float64, in the convention of :mod:`eqmol.graph.edges`.
        """
        points, box, periodic = _arrays(positions, cell, pbc)
        points, cells = move_back(points, box, periodic)
        pairs = self._kept
        if pairs is None or not pairs.hold(points, box, periodic, self.skin):
            assert extent(points, box, periodic) <= MAX_EXTENT_IN_CUTOFFS * self.cutoff
            pairs = self._search(points, box, periodic)
            self._kept = pairs if self.skin else None
        edge_index, shifts = pairs.edge_index, pairs.shifts
        if self.skin:
            edge_index, shifts = pairs.chosen(np.flatnonzero(pairs.within(points, self.cutoff)))
        if cells.any():
            shifts = shifts + cells[edge_index[1]] - cells[edge_index[0]]
        return torch.from_numpy(edge_index), torch.from_numpy(shifts)

    def holds(self, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> bool:
        """Whether no pairs would be searched for these: no atom has moved much since they were."""
        if self._kept is None:
            return False
        points, box, periodic = _arrays(positions, cell, pbc)
        return self._kept.hold(move_back(points, box, periodic)[0], box, periodic, self.skin)

    def _search(self, points: NDArray[np.float64], box: NDArray[np.float64], periodic: NDArray[np.bool_]) -> "_Pairs":
        if _suits_vesin(points, box, periodic, self._reach):
            receivers, senders, shifts = self._vesin.compute(points, box, periodic, quantities="ijS")
        else:
            receivers, senders, shifts = tree_pairs(points, box, periodic, self._reach)
        order = _sorting_order(receivers, senders, shifts, len(points))
        edges, translations = np.empty((2, len(order)), np.int64), np.empty((len(order), 3))

        def put(part: slice) -> None:
            edges[:, part], translations[part] = (senders[order[part]], receivers[order[part]]), shifts[order[part]]

        each_slice(put, len(order), CHUNK)
        return _Pairs(points.copy(), box.copy(), periodic.copy(), edges, translations)

    def __reduce__(self) -> tuple[type["NeighborList"], tuple[float, float]]:
        """Copy and pickle the settings, not the pairs."""
        return type(self), (self.cutoff, self.skin)


def neighbor_list(positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return all pairs closer than ``cutoff`` Å; see :meth:`NeighborList.__call__`.

    One atom in a cubic cell of 3 Å has six images nearer than 4 Å:

    >>> edges, shifts = neighbor_list([[0, 0, 0]], 3 * np.eye(3), [True, True, True], cutoff=4.0)
    >>> edges.shape, shifts.norm(dim=1).tolist()
    (torch.Size([2, 6]), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    """
    return NeighborList(cutoff)(positions, cell, pbc)


def _arrays(
    positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Positions, the completed cell, and periodic directions."""
    periodic = np.asarray(pbc, dtype=bool)
    box = complete_cell(np.asarray(cell, dtype=np.float64), periodic)
    return np.ascontiguousarray(positions, dtype=np.float64), box, periodic


def tree_pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return receivers [E], senders [E] and shifts [E, 3] of all pairs closer than a cutoff, by a k-d tree of atoms and images.

    Args:
        positions: [N, 3] Å.
        cell: [3, 3] Å, see :func:`complete_cell`.
        pbc: [3] bool.
        cutoff: Å.
    """
    from scipy.spatial import cKDTree  # a tenth of a second, which most programs need not wait

    inverse = np.linalg.inv(cell)
    margin = np.where(pbc, cutoff * np.linalg.norm(inverse, axis=0), 0.0)  # of images outside the cell, as a part of it
    fractional = positions @ inverse
    cells = np.where(pbc, np.floor(fractional), 0.0)
    fractional -= cells
    images, shifts = [], []
    for shift in itertools.product(*(np.arange(-n, n + 1) for n in np.ceil(margin))):
        moved = fractional + shift
        (near,) = np.nonzero(((moved >= -margin) & (moved <= 1 + margin) | ~pbc).all(axis=1))
        images.append(near)
        shifts.append(np.broadcast_to(shift, (len(near), 3)))
    atoms, shift_of = np.concatenate(images), np.concatenate(shifts)
    inside = cKDTree(fractional @ cell)
    pairs = inside.sparse_distance_matrix(cKDTree((fractional[atoms] + shift_of) @ cell), cutoff, output_type="ndarray")
    receivers, senders, translations = pairs["i"], atoms[pairs["j"]], shift_of[pairs["j"]]
    other = (receivers != senders) | translations.any(axis=1)
    receivers, senders, translations = receivers[other], senders[other], translations[other]
    return receivers, senders, translations + cells[receivers] - cells[senders]


def complete_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Replace the rows of open directions by unit vectors perpendicular to all others.

    Args:
        cell: [3, 3] Å; its periodic rows are linearly independent.
        pbc: [3] bool.

    Returns:
        [3, 3] Å, invertible, with the periodic rows unchanged.
    """
    if pbc.all():
        return np.ascontiguousarray(cell)
    if not pbc.any():
        return np.eye(3)
    complete = np.array(cell)
    # the last right-singular vectors span the complement of the periodic rows
    complete[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    return complete


def move_back(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same structure with the atoms that are many cells away nearer to the cell, and by how many they were moved.

    Args:
        positions: [N, 3] Å.
        cell: [3, 3] Å, see :func:`complete_cell`.
        pbc: [3] bool.

    Returns:
        positions [N, 3] and whole numbers of cells [N, 3], multiples of 64 along periodic directions: the old positions are
        ``positions + cells @ cell``.
    """
    if not pbc.any():
        return positions, np.zeros_like(positions)
    cells = np.where(pbc, FAR * np.rint(positions @ np.linalg.inv(cell) / FAR), 0.0)
    return (positions - cells @ cell if cells.any() else positions), cells


def estimate_edges(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], reach: float
) -> float:
    """Return about how many pairs are closer than ``reach`` Å, images included; at most a few times too many.

    Atoms are counted in cubes of that size; where heights of the cell are smaller, they are counted once for each image.

    Args:
        positions: [N, 3] Å.
        cell: [3, 3] Å, see :func:`complete_cell`.
        pbc: [3] bool.
        reach: Å.
    """
    inverse = np.linalg.inv(cell)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    images = float(np.prod(np.maximum(1.0, reach / heights[pbc])))
    most = SPHERE * len(positions) ** 2 * images
    if most < _NEGLIGIBLE:
        return most
    fractional = positions @ inverse
    fractional[:, pbc] %= 1.0
    cubes = np.floor(fractional @ cell / reach).astype(np.int64)
    cubes -= cubes.min(axis=0)
    widths = cubes.max(axis=0) + 1
    _, counts = np.unique((cubes[:, 0] * widths[1] + cubes[:, 1]) * widths[2] + cubes[:, 2], return_counts=True)
    pairs = SPHERE * float(np.square(counts, dtype=np.float64).sum())
    return min(pairs, len(positions) ** 2) if images == 1.0 else pairs * images


@cache
def max_edges() -> int:
    """Return how many edges of one structure fit into the share of this machine's memory that lists may need."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows does not say
        memory = 8 * 2**30
    return int(MEMORY_SHARE * memory / EDGE_BYTES)


def extent(positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> float:
    """Return the largest length (Å) to be divided: of a periodic vector, or of the structure in an open direction.

    Args:
        positions: [N, 3] Å.
        cell: [3, 3] Å.
        pbc: [3] bool.
    """
    complete = complete_cell(cell, pbc)
    lengths = np.linalg.norm(complete[pbc], axis=1)
    if len(positions) > 0:
        lengths = np.append(lengths, np.ptp(positions @ complete[~pbc].T, axis=0))
    return float(lengths.max(initial=0.0))


def _suits_vesin(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> bool:
    """Return whether vesin's cells are few enough."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if len(positions) > 0:
        heights = np.where(pbc, heights, np.ptp(positions @ cell.T, axis=0))
    cells = np.maximum(1.0, np.floor(heights / cutoff))
    visited = float(cells[~pbc].prod()) if pbc.any() else 1.0
    return float(cells.prod()) * visited <= _VESIN_CELLS


def _sorting_order(
    receivers: NDArray[np.integer], senders: NDArray[np.integer], shifts: NDArray[np.number], num_atoms: int
) -> NDArray[np.int64]:
    """Return the permutation that sorts edges by receiver, sender, shift: one integer key per edge."""
    if len(receivers) == 0:
        return np.zeros(0, dtype=np.int64)
    # column by column, which is ten times as fast
    lowest = [int(column.min()) for column in shifts.T]
    widths = [int(column.max()) - low + 1 for column, low in zip(shifts.T, lowest, strict=True)]
    if num_atoms**2 * float(np.prod(widths, dtype=np.float64)) >= 2**63:  # no room for one key
        return np.lexsort((*shifts.T[::-1], senders, receivers))
    key = np.empty(len(receivers), np.int64)

    def make(part: slice) -> None:
        own = receivers[part].astype(np.int64) * num_atoms + senders[part].astype(np.int64)
        for axis in range(3):
            own = own * widths[axis] + (shifts[part, axis].astype(np.int64) - lowest[axis])
        key[part] = own

    each_slice(make, len(key), CHUNK)
    return np.argsort(key, kind="stable")  # vesin's pairs lie in stretches that are in order

"""The only neighbour list of the project."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from vesin import NeighborList as VesinNeighborList

#: vesin divides space into cells of one cutoff; beyond some 10^5 of them in a row its index arithmetic fails.
MAX_EXTENT_IN_CUTOFFS = 1e4


class NeighborList:
    """All pairs closer than a cutoff, periodic images and self-images included, by vesin's cell list.

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
        # one thread: data workers and shared machines suffer from more
        self._vesin = VesinNeighborList(cutoff=self.cutoff, full_list=True, skin=self.skin, n_threads=1)

    def __call__(self, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> tuple[Tensor, Tensor]:
        """Return the pairs of one structure.

        Args:
            positions: [N, 3] Å, finite; atoms may lie outside the cell.
            cell: [3, 3] Å, rows are vectors; rows of directions that are not periodic are ignored.
            pbc: [3] bool.

        Returns:
            ``edge_index`` [2, E] int64 (row 0 senders, row 1 receivers, sorted by receiver, then by sender and shift)
            and ``shifts`` [E, 3] float64, in the convention of :mod:`eqmol.graph.keys`.
        """
        points = np.ascontiguousarray(positions, dtype=np.float64)
        periodic = np.asarray(pbc, dtype=bool)
        box = complete_cell(np.asarray(cell, dtype=np.float64), periodic)
        assert extent(points, box, periodic) <= MAX_EXTENT_IN_CUTOFFS * self.cutoff
        receivers, senders, shifts = self._vesin.compute(points, box, periodic, quantities="ijS")
        receivers, senders, shifts = receivers.astype(np.int64), senders.astype(np.int64), shifts.astype(np.int64)
        order = _sorting_order(receivers, senders, shifts, len(points))
        edge_index = torch.from_numpy(np.stack([senders[order], receivers[order]]))
        return edge_index, torch.from_numpy(shifts[order].astype(np.float64))

    def __reduce__(self) -> tuple[type["NeighborList"], tuple[float, float]]:
        """Copy and pickle the settings: the cached pairs live in C memory."""
        return type(self), (self.cutoff, self.skin)


def neighbor_list(positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return all pairs closer than ``cutoff`` Å; see :meth:`NeighborList.__call__`."""
    return NeighborList(cutoff)(positions, cell, pbc)


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
    complete = np.array(cell)
    # the last right-singular vectors span the complement of the periodic rows
    complete[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    return complete


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


def _sorting_order(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], shifts: NDArray[np.int64], num_atoms: int
) -> NDArray[np.int64]:
    """Return the permutation that sorts edges by receiver, sender, shift: one integer key per edge."""
    if len(receivers) == 0:
        return np.zeros(0, dtype=np.int64)
    lowest = shifts.min(axis=0)
    widths = shifts.max(axis=0) - lowest + 1
    assert num_atoms**2 * float(np.prod(widths, dtype=np.float64)) < 2**63
    key = receivers * num_atoms + senders
    for axis in range(3):
        key = key * widths[axis] + (shifts[:, axis] - lowest[axis])
    return np.argsort(key)

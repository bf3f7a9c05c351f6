"""The edges of a graph, or of a batch of graphs, as vectors.

One convention, written here and nowhere else: edge e goes from its sender to its receiver, and its vector points from the
receiver to the sender's image,

    vector[e] = pos[sender] + shifts[e] @ cell - pos[receiver].

Shapes: N atoms, E edges, G graphs.
"""

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from eqmol.errors import InputError
from eqmol.graph.geometric import Data
from eqmol.threads import each_slice

#: Å; two atoms closer than this, images included, are one atom written twice.
COINCIDENT = 1e-3
#: Å; what an edge and its way back may differ by.
ROUNDING = 1e-5
#: Edges at a time, which threads take in turns.
CHUNK = 1 << 14


def owners(graph: Data) -> Tensor:
    """Return the graph of each atom [N]."""
    batch: Tensor | None = graph.batch
    if batch is not None:
        return batch
    return torch.zeros(len(graph.pos), dtype=torch.int64, device=graph.pos.device)


def edge_vectors(graph: Data) -> Tensor:
    """Return the vectors [E, 3] (float64, Å) of all edges, from each receiver to its sender's image.

    Raises:
        InputError: two atoms at the same place, or positions that are not finite.
    """
    return vectors_and_lengths(graph)[0]


def vectors_and_lengths(graph: Data) -> tuple[Tensor, Tensor]:
    """Return :func:`edge_vectors` and their lengths [E], which have no derivatives.

    Raises:
        InputError: as :func:`edge_vectors`.
    """
    positions, shifts = graph.pos, graph.shifts
    if len(shifts) <= CHUNK or positions.device.type != "cpu" or positions.requires_grad or graph.cell.requires_grad:
        vectors = _vectors(graph, slice(None))
        lengths = torch.linalg.vector_norm(vectors.detach(), dim=-1)
    else:
        vectors, lengths = torch.empty_like(shifts), shifts.new_empty(len(shifts))

        def make(part: slice) -> None:
            vectors[part] = _vectors(graph, part)
            torch.linalg.vector_norm(vectors[part], dim=-1, out=lengths[part])

        each_slice(make, len(shifts), CHUNK)
    if len(lengths) and not float(lengths.amin()) >= COINCIDENT:
        edge = int(lengths.nan_to_num(-1.0).argmin())
        pair = name_atoms(graph, *sorted(graph.edge_index[:, edge].tolist()))
        if not bool(lengths[edge].isfinite()):
            raise InputError(f"the distance of {pair} is not finite; correct their positions")
        raise InputError(
            f"{pair} are at the same place ({float(lengths[edge]):.2g} Å apart, periodic images included); remove one of them"
        )
    return vectors, lengths


def _vectors(graph: Data, part: slice) -> Tensor:
    """Vectors of a slice of the edges."""
    positions, shifts = graph.pos, graph.shifts[part]
    senders, receivers = graph.edge_index[:, part]
    if len(graph.cell) == 1:
        offsets = shifts @ graph.cell[0]
    else:
        cells = graph.cell.index_select(0, owners(graph).index_select(0, receivers))
        offsets = torch.bmm(shifts.unsqueeze(1), cells).squeeze(1)
    vectors: Tensor = positions.index_select(0, senders) + offsets - positions.index_select(0, receivers)
    return vectors


def mirror_images(vectors: Tensor, senders: Tensor, receivers: Tensor) -> Tensor | None:
    """Edges in pairs of one and its way back [E / 2, 2], whose vectors are opposite; None where some edge has no way back.

    Args:
        vectors: [E, 3] Å.
        senders, receivers: [E].
    """
    v, s, r = (t.detach().cpu().numpy() for t in (vectors, senders, receivers))
    if len(v) % 2:
        return None
    # images of an atom differ along a direction that no lattice has
    along = v @ np.array([0.5437, 0.7187, 0.4331], dtype=v.dtype)
    along = np.where(s < r, along, np.where(s > r, -along, abs(along)))
    pairs = np.lexsort((along, np.maximum(s, r), np.minimum(s, r))).reshape(-1, 2)
    first, second = pairs.T
    is_back = (s[first] == r[second]) & (r[first] == s[second])
    if not is_back.all() or not (np.abs(v[first] + v[second]) < ROUNDING).all():
        return None
    return torch.from_numpy(pairs).to(vectors.device)


def name_atoms(graph: Data, *atoms: int) -> str:
    """Name atoms of one structure for a message: "water.xyz, frame 3: atom 0 (O) and atom 2 (H)"."""
    frame, first, source = 0, 0, graph.source if "source" in graph else ""
    if graph.batch is not None:
        frame = int(graph.batch[atoms[0]])
        first, source = int(graph.ptr[frame]), source[frame] if source else f"structure {frame}"
    names = [f"atom {atom - first} ({_symbol(int(graph.atomic_numbers[atom]))})" for atom in atoms]
    return f"{source}{': ' if source else ''}{' and '.join(names)}"


def _symbol(number: int) -> str:
    return chemical_symbols[number] if 0 <= number < len(chemical_symbols) else f"atomic number {number}"

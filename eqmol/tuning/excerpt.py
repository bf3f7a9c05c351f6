"""A small part of a batch that is still a batch: for comparisons that should cost nothing."""

from typing import Any

import torch

from eqmol.graph import AtomGraph, collate
from eqmol.graph.geometric import Batch, Data

EDGES = 2000  #: of an excerpt


def excerpt(graph: Data) -> Data:
    """The smallest structures of a batch that have edges, at most 2,000 edges together.

    If even the smallest structure has more, its first 2,000 edges and the atoms at their ends.

    Args:
        graph: one structure or a batch.
    """
    structures = graph.to_data_list() if isinstance(graph, Batch) else [graph]
    structures = sorted((s for s in structures if s.num_edges), key=lambda s: s.num_edges)
    if not structures:
        return graph
    chosen: list[Any] = []
    for structure in structures:
        if sum(s.num_edges for s in chosen) + structure.num_edges > EDGES:
            break
        chosen.append(structure)
    return collate(chosen) if chosen else _first_edges(structures[0])


def _first_edges(graph: Data) -> AtomGraph:
    ends = graph.edge_index[:, :EDGES]
    atoms, renumbered = torch.unique(ends, return_inverse=True)  # ascending: edges stay sorted by receiver
    chosen = {"head": graph.head} if "head" in graph else {}
    return AtomGraph(
        **chosen,
        pos=graph.pos[atoms],
        atomic_numbers=graph.atomic_numbers[atoms],
        cell=graph.cell,
        pbc=graph.pbc,
        edge_index=renumbered,
        shifts=graph.shifts[:EDGES],
        source=graph.source if "source" in graph else "",
    )

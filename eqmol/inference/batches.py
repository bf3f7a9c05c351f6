"""Which structures are evaluated together."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from eqmol.graph import AtomGraph

Item = TypeVar("Item")

MAX_EDGES = 200_000  #: in a batch of several structures; bounds the memory, which grows with the edges


def batches(items: Iterable[tuple[Item, AtomGraph]], size: int) -> Iterator[list[tuple[Item, AtomGraph]]]:
    """Items with their graphs, as many at a time as fit, in their order; one batch is in memory.

    Args:
        items: a structure's own data, and its graph.
        size: most structures of a batch. It has no more than MAX_EDGES edges, unless one structure has.
    """
    batch: list[tuple[Item, AtomGraph]] = []
    edges = 0
    for item, graph in items:
        if batch and (len(batch) == size or edges + graph.num_edges > MAX_EDGES):
            yield batch
            batch, edges = [], 0
        batch.append((item, graph))
        edges += graph.num_edges
    if batch:
        yield batch

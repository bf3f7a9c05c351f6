"""What an atomistic system is."""

from eqmol.graph.edges import edge_vectors, owners
from eqmol.graph.neighbors import NeighborList, neighbor_list
from eqmol.graph.system import AtomGraph, check_numbers, collate, from_atoms, moved

__all__ = [
    "AtomGraph",
    "NeighborList",
    "check_numbers",
    "collate",
    "edge_vectors",
    "from_atoms",
    "moved",
    "neighbor_list",
    "owners",
]

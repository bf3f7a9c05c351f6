"""Every field of a graph and of a batch of graphs: name, shape, unit, meaning.

N atoms, E edges, G graphs (one before batching). Lengths are in Å, energies in eV.

One convention for edges, written here and nowhere else: edge e goes from its sender to its receiver, and its vector
points from the receiver to the sender's image,

    vector[e] = pos[sender] + shifts[e] @ cell - pos[receiver].
"""

from typing import Final

POSITIONS: Final = "pos"  #: [N, 3] float64, Å; atoms many periodic cells away are moved back by whole cells
ATOMIC_NUMBERS: Final = "atomic_numbers"  #: [N] int64
CELL: Final = "cell"  #: [G, 3, 3] float64, Å; rows are the lattice vectors, zeros where there is none
PBC: Final = "pbc"  #: [G, 3] bool, periodic directions
EDGE_INDEX: Final = "edge_index"  #: [2, E] int64; row 0 senders, row 1 receivers, sorted by receiver
SHIFTS: Final = "shifts"  #: [E, 3] float64 holding integers, lattice translations of the sender
TAGS: Final = "tags"  #: [N] int64, 0 below the surface, 1 surface, 2 adsorbate; only where the data carry them
FIXED: Final = "fixed"  #: [N] bool, atoms held in place when the data were made; only where the data carry them
BATCH: Final = "batch"  #: [N] int64, the graph of each atom; only in a batch

ENERGY: Final = "energy"  #: [G] float64, eV; NaN where the frame carries none
FORCES: Final = "forces"  #: [N, 3] float64, eV/Å; NaN where the frame carries none
STRESS: Final = "stress"  #: [G, 3, 3] float64, eV/Å³, +dE/dstrain/V; NaN where absent or not periodic in 3 directions
CONFIG_TYPE: Final = "config_type"  #: [G] str, the frame's group in error tables, "" where it names none
SOURCE: Final = "source"  #: [G] str, "path, frame 17", for messages

LABELS: Final = (ENERGY, FORCES, STRESS)
FEATURES: Final = "features"  #: [N, features] float64, further inputs; where a model reads them

"""Small structures and models shared by the tests of assembled models."""

from functools import cache

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from eqmol.graph import AtomGraph, from_atoms
from eqmol.models import Potential
from eqmol.ops.registry import ALGORITHMS, can_run
from tests.recipes import seeded

ELEMENTS = [1, 6, 8]
E0 = [-13.5, -1030.25, -2041.75]
CUTOFF = 3.0

FAMILIES = [(family, backend) for family in ("coupled", "gaunt") for backend in ALGORITHMS if can_run(backend, family)]


@cache
def structures() -> dict[str, Atoms]:
    ethanol = molecule("CH3CH2OH")
    diamond = bulk("C", cubic=True)
    slab = bulk("C", cubic=True)
    slab.set_pbc((True, True, False))
    triclinic = Atoms("COH", cell=[[2.4, 0.1, 0], [-0.9, 2.6, 0.3], [0.4, 0.7, -2.5]], pbc=True)
    triclinic.set_scaled_positions([[0, 0.1, 0], [0.45, 0.5, 0.4], [0.7, 0.1, 0.8]])
    systems = {"molecule": ethanol, "bulk": diamond, "slab": slab, "triclinic": triclinic}
    for atoms in systems.values():
        atoms.rattle(0.05, seed=4)
    return systems


def graph_of(atoms: Atoms) -> AtomGraph:
    return from_atoms(atoms, CUTOFF)


#: Models that the laws are tested on, by name.
VARIANTS: dict[str, dict] = {
    "mace": {"widen": 2},
    "mace-density": {"first_residual": False, "density": True, "distance_transform": "agnesi"},
    "equiformer": {},
    "equiformer-gate": {"feedforward": "gate", "norm": "rms"},
    "equiformer-nonlinear": {"messages": "nonlinear", "selfmix": True},
}
#: Models whose messages mix channels, which are of the coupled family.
MIXING = {
    "equiformer-so2": {"messages": "so2", "feedforward": "gate"},
    "mace-so2": {"messages": "so2"},
    "equiformer-v2": {
        "messages": "so2",
        "activation": "s2",
        "order_factors": True,
        "feedforward": "grid",
        "basis": "gaussian",
        "element_channels": 3,
    },
}
COMMON = {"degree": 1, "filter_degree": 2, "channels": 4, "layers": 2, "avg_num_neighbors": 8.0, "num_bessel": 4}


def make_model(
    backend: str | dict[str, str] = "cg",
    family: str | dict[str, str] = "coupled",
    parity: str = "o3",
    variant: str = "mace",
    seed: int = 0,
    zbl: bool = False,
    forces: str = "conservative",
    **backbone,
) -> Potential:
    """A tiny model with random parameters in the default dtype, in evaluation mode."""
    sizes = COMMON | {"degree_out": int(forces == "direct")} | (VARIANTS | MIXING)[variant] | backbone
    is_mace = variant.startswith("mace")
    if is_mace:
        sizes = {"correlation": 2, "fields": 1, "radial_hidden": [8]} | sizes
    else:
        sizes = {"heads": 2, "alpha_channels": 4, "radial_hidden": [8, 8]} | sizes
    products = {"backend": backend, "family": family, "parity": parity}
    target = f"eqmol.models.{'MACE' if is_mace else 'Equiformer'}"
    own = {"_target_": target, "cutoff": CUTOFF, "elements": ELEMENTS} | products | sizes
    read = {"elements": ELEMENTS, "e0": E0, "scale": 1.5, "zbl": zbl, "forces": forces}
    return seeded({"_target_": "eqmol.models.Potential", "backbone": own} | read, seed)


def random_rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def transformed(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    """Every position and lattice vector v becomes v @ matrix."""
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ matrix)
    result.positions = atoms.positions @ matrix
    return result

"""Small files in every form of OC20, all with the same frames."""

import lzma
import pickle
from pathlib import Path
from typing import Any

import ase
import ase.db
import numpy as np
import torch
from ase.build import fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory
from torch_geometric.data import Data

FRAMES = 4
REFERENCE = -30.0


def relaxation(metal: str = "Cu", adsorbate: str = "CO", seed: int = 0, frames: int = FRAMES) -> list[ase.Atoms]:
    """Rattled frames of an adsorbate on a slab, with invented labels."""
    rng = np.random.default_rng(seed)
    slab = fcc111(metal, (2, 2, 2), a=3.6, vacuum=5.0, periodic=True)
    slab.set_tags(slab.get_tags() == 1)
    guest = ase.Atoms(adsorbate, positions=[[1.0, 1.0, 8.6 + 1.2 * i] for i in range(len(ase.Atoms(adsorbate)))])
    guest.set_tags(2)
    steps = []
    for _ in range(frames):
        atoms = slab + guest
        atoms.positions[4:] += rng.normal(0, 0.05, (len(atoms) - 4, 3))
        atoms.set_constraint(FixAtoms(range(4)))
        energy, forces = REFERENCE + rng.normal(), rng.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=forces)
        steps.append(atoms)
    return steps


def changed(atoms: ase.Atoms, **results: Any) -> ase.Atoms:
    """The frame with other results of its calculator; None removes one."""
    atoms.calc.results |= results
    return atoms


def write_s2ef(folder: Path, systems: dict[str, list[ase.Atoms]], name: str = "0") -> Path:
    """Write the files of a published shard."""
    text, lines = [], []
    for system, frames in systems.items():
        for number, atoms in enumerate(frames):
            free = np.ones(len(atoms), bool)
            free[atoms.constraints[0].index] = False
            results = atoms.calc.results
            cell = " ".join(map(str, atoms.cell.array.flat))
            text.append(
                f'{len(atoms)}\nLattice="{cell}" Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3'
            )
            text[-1] += f' free_energy={results["energy"]} energy={results["energy"]} pbc="T T T"\n'
            rows = zip(atoms.symbols, atoms.positions, free, atoms.get_tags(), results["forces"], strict=True)
            for symbol, position, mask, tag, force in rows:
                numbers = [*map(repr, position.tolist()), "FT"[int(mask)], str(tag), *map(repr, force.tolist())]
                text.append(" ".join([symbol, *numbers]) + "\n")
            lines.append(f"{system},frame{number},{REFERENCE}\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.extxyz.xz").write_bytes(lzma.compress("".join(text).encode()))
    (folder / f"{name}.txt").write_text("".join(lines))
    return folder / f"{name}.extxyz.xz"


def write_trajectories(folder: Path, systems: dict[str, list[ase.Atoms]]) -> Path:
    """Write one trajectory per system."""
    folder.mkdir(parents=True, exist_ok=True)
    for system, frames in systems.items():
        with Trajectory(folder / f"{system}.traj", "w") as file:
            for atoms in frames:
                file.write(atoms)
    return folder / f"{next(iter(systems))}.traj"


def write_database(folder: Path, systems: dict[str, list[ase.Atoms]]) -> Path:
    """Write an ASE database whose rows name their system and frame."""
    folder.mkdir(parents=True, exist_ok=True)
    with ase.db.connect(folder / "frames.db") as rows:
        for system, frames in systems.items():
            for number, atoms in enumerate(frames):
                rows.write(atoms, data={"sid": system, "fid": number})
    return folder / "frames.db"


def record(atoms: ase.Atoms, system: str, number: int, **extra: Any) -> Data:
    """The object that fairchem's scripts store; its energy has the reference subtracted."""
    fixed = torch.zeros(len(atoms))
    fixed[torch.as_tensor(atoms.constraints[0].index)] = 1
    results = atoms.calc.results
    return Data(
        pos=torch.tensor(atoms.positions),
        cell=torch.tensor(atoms.cell.array)[None],
        atomic_numbers=torch.tensor(atoms.numbers).float(),
        natoms=len(atoms),
        tags=torch.tensor(atoms.get_tags()),
        fixed=fixed,
        y=results["energy"] - REFERENCE,
        force=torch.tensor(results["forces"]),
        sid=int(system.removeprefix("random")),
        fid=number,
        **extra,
    )


def write_lmdb(folder: Path, entries: dict[bytes, bytes], name: str = "data.0000.lmdb") -> Path:
    """Write keys and values."""
    import lmdb

    folder.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(str(folder / name), subdir=False, map_size=2**24, lock=False) as file,
        file.begin(write=True) as writer,
    ):
        for key, value in entries.items():
            writer.put(key, value)
    return folder / name


def write_pickled(folder: Path, systems: dict[str, list[ase.Atoms]], protocol: int = 4) -> Path:
    """Write an LMDB of pickled objects, as fairchem's scripts do."""
    frames = [(atoms, system, i) for system, steps in systems.items() for i, atoms in enumerate(steps)]
    entries = {str(i).encode(): pickle.dumps(record(*frame), protocol) for i, frame in enumerate(frames)}
    return write_lmdb(folder, entries | {b"length": pickle.dumps(len(frames), protocol)})


def write_ase_lmdb(folder: Path, systems: dict[str, list[ase.Atoms]]) -> Path:
    """Write rows as ase-db-backends does: compressed JSON under their ids, and the next id."""
    import zlib

    from ase.db.row import AtomsRow
    from ase.io.jsonio import encode

    entries, index = {}, 0
    for system, frames in systems.items():
        for number, atoms in enumerate(frames):
            row, index = AtomsRow(atoms), index + 1
            content = {key: row[key] for key in row.__dict__ if key[0] != "_" and key not in (*row._keys, "id")}
            content["constraints"] = [constraint.todict() for constraint in row.constraints]
            content |= {"cell": np.asarray(row.cell), "data": {"sid": system, "fid": number}}
            entries[str(index).encode()] = zlib.compress(encode(content).encode())
    return write_lmdb(folder, entries | {b"nextid": zlib.compress(str(index + 1).encode())}, "data.aselmdb")


WRITERS = {
    "s2ef": write_s2ef,
    "traj": write_trajectories,
    "db": write_database,
    "lmdb": write_pickled,
    "aselmdb": write_ase_lmdb,
}

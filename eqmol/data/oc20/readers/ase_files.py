"""ASE's trajectories and databases: total energies, constraints, and tags that may be missing."""

import itertools
import math
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import ase
import ase.db
import numpy as np
from ase.constraints import FixAtoms
from ase.db.row import AtomsRow
from ase.io.jsonio import decode
from ase.io.trajectory import Trajectory

from eqmol.data.oc20.frame import Frame, Reading, check, infer_tags, integers, system_name
from eqmol.data.oc20.readers.lmdb_files import Entries
from eqmol.errors import InputError, reason_of
from eqmol.files import bounded_memory, check_database, decompress
from eqmol.graph import check_numbers


def read_trajectory(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read an ASE trajectory; the file is the system."""
    size = path.stat().st_size
    with bounded_memory(size, str(path)):
        frames = Trajectory(path)
    with frames:
        for number in range(start, len(frames) if stop is None else min(stop, len(frames))):
            source = f"{path}, frame {number}"
            with bounded_memory(size, source):
                atoms = frames[number]
            yield check(_from_atoms(atoms, path.name, path.stem, number, how, source), source), source


def read_database(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read an ASE database (``.db``)."""
    check_database(path)
    size = path.stat().st_size
    with ase.db.connect(path) as rows:
        found = rows.select(limit=None if stop is None else stop - start, offset=start)
        for index in itertools.count(start):
            source = f"{path}, frame {index}"
            try:
                with bounded_memory(size, source):
                    row = next(found, None)
                    frame = None if row is None else _from_row(row, path, index, how)
            except InputError:
                raise
            except Exception as error:  # SQLite, and JSON of any content
                raise InputError(f"{source} cannot be read: {reason_of(error)}; is the file damaged?") from error
            if frame is None:
                return
            yield frame


def read_ase_lmdb(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read an ASE LMDB (``.aselmdb``): rows as compressed JSON."""
    with Entries(path) as entries:
        for index in range(len(entries.keys))[start:stop]:
            key = entries.keys[index].decode()
            try:
                value = entries.value(index)
                with bounded_memory(len(value), f"{path}, row {key}"):
                    content = decompress(value)
                    row = AtomsRow(decode(content.decode()) | {"id": int(key)})
                    frame = _from_row(row, path, index, how)
            except InputError:
                raise
            except Exception as error:  # JSON of any content
                raise InputError(f"{path}, row {key} cannot be read: {reason_of(error)}") from error
            yield frame


def _from_row(row: AtomsRow, path: Path, index: int, how: Reading) -> tuple[Frame, str]:
    """Return the frame of a database's row. A row that names no system belongs to that of its composition and cell: a
    split by frames would put neighbouring frames of a trajectory on both sides.
    """
    atoms, source = row.toatoms(), f"{path}, frame {index}"
    named = {**row.data, **row.key_value_pairs}
    digest = sha256(atoms.numbers.tobytes() + np.round(atoms.cell.array, 6).tobytes()).hexdigest()[:12]
    system = system_name(named.get("sid", f"{path.stem}-{digest}"))
    frame = _from_atoms(atoms, path.name, system, int(named.get("fid", index)), how, source)
    return check(frame, source), source


def _from_atoms(atoms: ase.Atoms, file: str, system: str, number: int, how: Reading, source: str) -> Frame:
    """Return the frame of an ASE structure; its energy is a total energy."""
    results = {} if atoms.calc is None else atoms.calc.results
    energy, forces = results.get("energy"), results.get("forces")  # get_forces() would set those of fixed atoms to zero
    for label, value in (("energy", energy), ("forces", forces)):
        if how.labels and value is None:
            raise InputError(f"{source} has no {label}; OC20's frames carry energy and forces")
    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
    numbers = check_numbers(atoms.numbers, source).astype(np.uint8)
    tags = how.tags.get(file, integers(atoms.get_tags(), -128, 127, "tag", source).astype(np.int8))
    return Frame(
        system=system,
        number=number,
        numbers=numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=np.asarray(atoms.pbc, bool),
        tags=infer_tags(numbers, fixed) if how.infer_tags and not tags.any() else tags,
        fixed=fixed,
        energy=math.nan if energy is None else float(energy),
        reference=math.nan,
        forces=None if forces is None else np.asarray(forces, np.float64),
    )

"""``torch_geometric`` objects in LMDBs and in files of ``torch.save``, without unpickling."""

import math
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from eqmol.data.oc20 import unpickle
from eqmol.data.oc20.frames import Frame, check
from eqmol.data.oc20.known import KNOWN
from eqmol.data.oc20.lmdb_files import open_lmdb
from eqmol.data.oc20.reading import Reading, system_name
from eqmol.errors import InputError
from eqmol.graph import check_numbers


def read_lmdb(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read an LMDB of pickled ``torch_geometric`` objects, without unpickling."""
    with open_lmdb(path) as (get, keys):
        for key in keys[start:stop]:
            source = f"{path}, frame {key.decode()}"
            yield from _from_record(_record(BytesIO(get(key)), None, source), how, source)


def read_torch(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read ``torch_geometric`` objects from a file of ``torch.save``, without unpickling."""
    try:
        archive = zipfile.ZipFile(path)
        root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
    except (zipfile.BadZipFile, StopIteration) as error:
        raise InputError(f"{path} is truncated, or no file of torch.save ({error})") from error

    def storage(reference: tuple[Any, ...]) -> NDArray[Any]:
        content = archive.read(f"{root}data/{reference[2]}")
        return np.frombuffer(content, unpickle.require(reference[1], np.dtype))

    with archive:
        value = _record(BytesIO(archive.read(f"{root}data.pkl")), storage, str(path))
    for index, record in enumerate(value if isinstance(value, list) else [value]):
        yield from _from_record(record, how, f"{path}, entry {index}")


def _record(file: IO[bytes], storage: Callable[[Any], Any] | None, source: str) -> Any:
    try:
        return unpickle.load(file, KNOWN, storage)
    except InputError as error:
        raise type(error)(f"{source}: {error}") from error


def _from_record(record: Any, how: Reading, source: str) -> Iterator[tuple[Frame, str]]:
    """Yield the frames of a ``Data``, or of a ``Batch`` of them."""
    fields = record.fields() if isinstance(record, unpickle.Record) else {}
    missing = [name for name in ("pos", "cell", "atomic_numbers", "tags", "fixed", "sid") if name not in fields]
    if missing:
        raise InputError(f"{source} has no {', '.join(missing)}; its fields are {', '.join(fields) or 'none'}")
    label = next((name for name in ("y_relaxed", "y", "energy") if name in fields), None)
    forces = next((fields[name] for name in ("force", "forces") if name in fields), None)
    if how.labels and (label is None or (label != "y_relaxed" and forces is None)):
        raise InputError(
            f"{source} has no {'energy' if label is None else 'forces'}; its fields are {', '.join(fields)}"
        )
    counts = np.atleast_1d(fields.get("natoms", len(fields["pos"]))).astype(int)
    ends, cells = np.cumsum(counts), np.reshape(fields["cell"], (-1, 3, 3)).astype(np.float64)
    ids, numbers = (np.atleast_1d(fields.get(name, 0)) for name in ("sid", "fid"))
    energies = np.full(len(counts), math.nan) if label is None else np.atleast_1d(fields[label])
    if len(cells) != len(counts) or ends[-1] != len(fields["pos"]):
        raise InputError(f"{source} has {len(cells)} cells and {len(fields['pos'])} atoms for natoms {counts.tolist()}")
    for i, (end, count) in enumerate(zip(ends, counts, strict=True)):
        atoms = slice(end - count, end)
        place = source if len(counts) == 1 else f"{source}, structure {i}"
        frame = Frame(
            system=system_name(ids[i].item()),
            number=int(np.resize(numbers, len(counts))[i]),
            numbers=check_numbers(fields["atomic_numbers"][atoms], place).astype(np.uint8),
            positions=np.asarray(fields["pos"][atoms], np.float64),
            cell=cells[i],
            pbc=np.ones(3, bool),
            tags=np.asarray(fields["tags"][atoms]).astype(np.int8),
            fixed=np.asarray(fields["fixed"][atoms]).astype(bool),
            energy=float(energies[i]),
            reference=math.nan if how.total else 0.0,
            forces=None if label == "y_relaxed" or forces is None else np.asarray(forces[atoms], np.float64),
        )
        yield check(frame, place), place

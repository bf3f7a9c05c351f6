"""``torch_geometric`` objects in LMDBs and in files of ``torch.save``, without unpickling."""

import math
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqmol.data.oc20.frame import Frame, Reading, check, integers, system_name
from eqmol.data.oc20.readers.lmdb_files import Entries
from eqmol.errors import InputError, printable, reason_of
from eqmol.graph import check_numbers
from eqmol.pickles import machine
from eqmol.pickles.archive import read_archive
from eqmol.pickles.machine import Record
from eqmol.pickles.tensors import TENSORS

_GEOMETRIC = (
    "data.data.Data", "data.data.DataEdgeAttr", "data.data.DataTensorAttr", "data.batch.Batch", "data.batch.DataBatch",
    "data.batch.DynamicInheritanceGetter", "data.storage.BaseStorage", "data.storage.GlobalStorage",
)  # fmt: skip
#: What OC20's files name: tensors, and ``torch_geometric`` objects of every version.
KNOWN: Mapping[str, Any] = TENSORS | {
    "builtins.object": Record,
    "__builtin__.object": Record,
    "copyreg._reconstructor": lambda *_: Record(),
    "copy_reg._reconstructor": lambda *_: Record(),
    **{f"torch_geometric.{name}": Record for name in _GEOMETRIC},
}


def read_lmdb(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read an LMDB of pickled ``torch_geometric`` objects, without unpickling."""
    with Entries(path) as entries:
        for index in range(len(entries.keys))[start:stop]:
            source = f"{path}, frame {entries.keys[index].decode()}"
            yield from _from_record(_record(BytesIO(entries.value(index)), source), how, source)


def read_torch(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read ``torch_geometric`` objects from a file of ``torch.save``, without unpickling."""
    value = read_archive(path, KNOWN)
    for index, record in enumerate(value if isinstance(value, list) else [value]):
        yield from _from_record(record, how, f"{path}, entry {index}")


def _record(file: BytesIO, source: str) -> Any:
    try:
        return machine.load(file, KNOWN)
    except InputError as error:
        raise type(error)(f"{source}: {error}") from error


def _from_record(record: Any, how: Reading, source: str) -> list[tuple[Frame, str]]:
    """Return the frames of a ``Data``, or of a ``Batch`` of them."""
    try:
        return list(_frames_of(record, how, source))
    except InputError:
        raise
    except Exception as error:  # arrays of any shape and type
        raise InputError(f"{source} cannot be read: {reason_of(error)}") from error


def _frames_of(record: Any, how: Reading, source: str) -> Iterator[tuple[Frame, str]]:
    fields = record.fields() if isinstance(record, Record) else {}
    named = printable(", ".join(list(fields)[:50])) or "none"
    missing = [name for name in ("pos", "cell", "atomic_numbers", "tags", "fixed", "sid") if name not in fields]
    if missing:
        raise InputError(f"{source} has no {', '.join(missing)}; its fields are {named}")
    label = next((name for name in ("y_relaxed", "y", "energy") if name in fields), None)
    force = next((name for name in ("force", "forces") if name in fields), None)
    if how.labels and (label is None or (label != "y_relaxed" and force is None)):
        raise InputError(f"{source} has no {'energy' if label is None else 'forces'}; its fields are {named}")

    def numbers(name: str, *shape: int) -> NDArray[np.float64]:
        return _numbers(fields[name], name, source).reshape(-1, *shape)

    def whole(name: str, low: int, high: int) -> NDArray[np.int64]:
        return integers(numbers(name), low, high, name, source)

    positions, cells = numbers("pos", 3), numbers("cell", 3, 3)
    atoms = len(positions)
    counts = whole("natoms", 1, max(atoms, 1)) if "natoms" in fields else np.array([atoms])
    arrays = {
        "atomic_numbers": check_numbers(numbers("atomic_numbers"), source),
        "tags": whole("tags", -128, 127),
        "fixed": whole("fixed", 0, 1),
    }
    forces = None if label == "y_relaxed" or force is None else numbers(force, 3)
    relaxed = numbers("pos_relaxed", 3) if "pos_relaxed" in fields else None
    # OC22 (Tran et al., ACS Catal. 13, 3066 (2023)) marks its records, whose energies are totals
    total = how.total or ("oc22" in fields and bool(whole("oc22", 0, 1).any()))
    energies = np.full(len(counts), math.nan) if label is None else numbers(label)
    frame_numbers = whole("fid", -(2**53), 2**53) if "fid" in fields else np.zeros(1, np.int64)
    ids = _names(fields["sid"], source)
    if len(cells) != len(counts) or counts.sum() != atoms or any(len(array) != atoms for array in arrays.values()):
        sizes = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise InputError(
            f"{source} has {len(cells)} cells, {atoms} atoms and {sizes} for natoms {printable(str(counts[:20].tolist()))}"
        )
    if len(ids) != len(counts) or len(energies) != len(counts):
        raise InputError(f"{source} has {len(ids)} sid and {len(energies)} energies for {len(counts)} structures")
    for i, (end, count) in enumerate(zip(np.cumsum(counts), counts, strict=True)):
        rows = slice(end - count, end)
        place = source if len(counts) == 1 else f"{source}, structure {i}"
        frame = Frame(
            system=system_name(ids[i]),
            number=int(np.resize(frame_numbers, len(counts))[i]),
            numbers=arrays["atomic_numbers"][rows].astype(np.uint8),
            positions=positions[rows],
            cell=cells[i],
            pbc=np.ones(3, bool),
            tags=arrays["tags"][rows].astype(np.int8),
            fixed=arrays["fixed"][rows].astype(bool),
            energy=float(energies[i]),
            reference=math.nan if total else 0.0,
            forces=None if forces is None else forces[rows],
            relaxed=None if relaxed is None else relaxed[rows],
        )
        yield check(frame, place), place


def _plain(value: Any, name: str, source: str) -> NDArray[Any]:
    """Return an array, one number or text, or a list of them as an array of one dimension or more."""
    items = value if isinstance(value, list | tuple) else [value]
    if not (isinstance(value, np.ndarray) or all(isinstance(item, int | float | str | np.generic) for item in items)):
        raise InputError(f"{source}: {name} is no array of numbers")
    return np.atleast_1d(np.asarray(value))


def _numbers(value: Any, name: str, source: str) -> NDArray[np.float64]:
    array = _plain(value, name, source)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{source}: {name} is no array of numbers")
    return array.astype(np.float64)


def _names(value: Any, source: str) -> list[Any]:
    """Return the ids of systems: whole numbers, or short names."""
    array = _plain(value, "sid", source).reshape(-1)
    if array.dtype.kind in "biuf":
        return list(integers(array, 0, 2**53, "sid", source).tolist())
    names = array.tolist()
    if any(not isinstance(name, str) or len(name) > 200 for name in names):
        raise InputError(f"{source}: sid is no number or name")
    return names

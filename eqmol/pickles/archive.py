"""Files of ``torch.save``: a zip archive with one pickle and the bytes of the tensors' storages."""

import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqmol.errors import InputError, reason_of
from eqmol.pickles.machine import load
from eqmol.pickles.tensors import storage_of


def read_archive(path: Path, known: Mapping[str, Any], most: int | None = None) -> Any:
    """What a file of ``torch.save`` holds; tensors are arrays. Memory is a small multiple of the file's size.

    Args:
        path: the file.
        known: as the table of :func:`eqmol.pickles.machine.load`.
        most: operations that the pickle may have.

    Raises:
        InputError: another kind of file, a damaged one, or one that asks for more than data; names the path.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, known, most)
    except InputError as error:
        raise type(error)(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except Exception as error:  # zipfile raises many, for a file of any content
        raise InputError(f"{path} is truncated, or no file of torch.save ({reason_of(error)})") from error


def _read(archive: zipfile.ZipFile, path: Path, known: Mapping[str, Any], most: int | None) -> Any:
    """Interpret the pickle; members of the archive are stored as they are, each in a place of its own."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise InputError(f"{path} has compressed or encrypted members, which torch.save does not write; save it again")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(f"{path} is damaged: its members overlap")
    sizes = {member.filename: member.file_size for member in members}
    root = next((name for name in sizes if name.endswith("data.pkl")), None)
    if root is None or len(sizes) < len(members):
        raise InputError(f"{path} is no file of torch.save")
    root = root.removesuffix("data.pkl")
    if f"{root}byteorder" in sizes and archive.read(f"{root}byteorder") != b"little":
        raise InputError(f"{path} was written by a big-endian machine; save it again on another one")
    storages: dict[str, NDArray[Any]] = {}

    def storage(reference: Any) -> NDArray[Any]:
        dtype, key, count = storage_of(reference)
        if key not in storages:
            storages[key] = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
        if len(storages[key]) != count or storages[key].dtype != dtype:
            raise InputError(f"a tensor announces {count} numbers of type {dtype} and the file has others")
        return storages[key]

    # a tensor is copied out of its storage, which several may share
    return load(BytesIO(archive.read(f"{root}data.pkl")), known, storage, 2 * sum(sizes.values()), most)

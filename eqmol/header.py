"""The header of a model file: read and checked without touching the tensors, let alone running anything.

A model file is a safetensors file whose metadata holds one JSON document under the key ``eqmol``::

    {"format": 1, "eqmol": "0.1.0", "recipe": {...}, "elements": [...], "units": {...}, "convention": "...",
     "metrics": {...}}
"""

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eqmol.errors import InputError
from eqmol.so3.layout import CONVENTION

FORMAT = 1
UNITS = {"energy": "eV", "length": "Å"}
#: Format number -> the function that turns a document of that format into one of the next.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_MAX_HEADER = 16 * 2**20  # bytes; a model of a thousand tensors needs a hundredth of it
_EXPECTED = "give the model.safetensors of a training run"
_KEYS = {
    "format": int,
    "eqmol": str,
    "recipe": dict,
    "elements": list,
    "units": dict,
    "convention": str,
    "metrics": dict,
}
_STORED_DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "BOOL": torch.bool}


class Header(NamedTuple):
    """What a model file says about itself, read without touching its tensors.

    Attributes:
        document: the JSON document, upgraded to the present format.
        shapes: tensor name -> (dtype, shape).
    """

    document: dict[str, Any]
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights: float32 if any tensor is, since a few tables are float64 in every model."""
        return torch.float32 if any(dtype == torch.float32 for dtype, _ in self.shapes.values()) else torch.float64


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a model file.

    Raises:
        InputError: a missing, foreign, truncated or damaged file, or one made by a newer eqmol.
    """
    path = Path(path)
    header = _parse_header(path)
    metadata = header.pop("__metadata__", {})
    text = metadata.get("eqmol") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{path} is a safetensors file but not an eqmol model: its metadata has no key 'eqmol'")
    document = _parse_json(text, f"{path}: the metadata 'eqmol'")
    return Header(_check_document(document, path), _check_tensors(header, path))


def _parse_header(path: Path) -> dict[str, Any]:
    """The safetensors header: 8 bytes of length, little endian, then JSON; the tensors' bytes follow."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            content = file.read(length) if length <= _MAX_HEADER else b""
    except OSError as error:
        raise InputError(f"cannot read the model file {path}: {error.strerror}") from None
    if (content[:1] != b"{" and start[:1] == b"\x80") or start[:4] == b"PK\x03\x04":
        raise InputError(f"{path} is a pickle, like last.ckpt, which could run code and is not opened; {_EXPECTED}")
    if content[:1] != b"{":
        raise InputError(f"{path} is not a model file; {_EXPECTED}")
    if len(content) < length:
        raise InputError(f"{path} is truncated: its header needs {8 + length} bytes, the file has {size}")
    header = _parse_json(content.decode(errors="replace"), f"{path}: the header")
    ends = [
        entry["data_offsets"][1]
        for name, entry in header.items()
        if name != "__metadata__" and isinstance(entry, dict) and _is_size_list(entry.get("data_offsets"), 2)
    ]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        word = "truncated" if size < expected else "damaged"
        raise InputError(f"{path} is {word}: its header asks for {expected} bytes, the file has {size}")
    return header


def _parse_json(text: str, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not a number")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{where} is not valid JSON: {reason}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON object")
    return value


def _check_document(document: dict[str, Any], path: Path) -> dict[str, Any]:
    number = document.get("format")
    if type(number) is not int or number < 1:
        raise InputError(f"{path}: format {number!r} is unknown; this eqmol reads formats 1 to {FORMAT}")
    if number > FORMAT:
        raise InputError(f"{path} was made by a newer eqmol (format {number}, this one reads {FORMAT}); update eqmol")
    while document["format"] < FORMAT:
        document = UPGRADES[document["format"]](document)
    if document.keys() != _KEYS.keys():
        odd = sorted(document.keys() ^ _KEYS.keys())[0]
        raise InputError(f"{path}: metadata key {odd!r} is {'missing' if odd in _KEYS else 'unknown'}")
    for key, kind in _KEYS.items():
        if type(document[key]) is not kind:
            raise InputError(f"{path}: metadata key {key!r} must be of type {kind.__name__}")
    required = {"units": UNITS, "convention": CONVENTION, "elements": document["recipe"].get("elements")}
    for key, expected in required.items():
        if document[key] != expected:
            raise InputError(f"{path}: metadata key {key!r} is {document[key]!r}, expected {expected!r}")
    return document


def _check_tensors(header: Mapping[str, Any], path: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    shapes = {}
    for name, entry in header.items():
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("dtype"), str)
            and entry["dtype"] in _STORED_DTYPES
            and _is_size_list(entry.get("shape"))
            and _is_size_list(entry.get("data_offsets"), 2)
        ):
            raise InputError(f"{path}: the header's entry of tensor {name!r} is not one that eqmol writes")
        dtype, shape = _STORED_DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise InputError(f"{path}: tensor {name!r} of shape {list(shape)} has {end - begin} bytes, which is wrong")
        shapes[name] = dtype, shape
    return shapes


def _is_size_list(value: Any, length: int | None = None) -> bool:
    return (
        isinstance(value, list)
        and all(type(item) is int and 0 <= item < 2**48 for item in value)
        and len(value) <= 8
        and (length is None or len(value) == length)
    )

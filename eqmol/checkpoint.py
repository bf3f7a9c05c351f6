"""Model files: tensors and a recipe, readable without running anything that the file says.

A model file is a safetensors file whose metadata holds one JSON document under the key ``eqmol``::

    {"format": 1, "eqmol": "0.1.0", "recipe": {...}, "elements": [...], "units": {...}, "convention": "...",
     "metrics": {...}}

The recipe is the resolved ``predictor`` configuration (:mod:`eqmol.recipe`). The tensors' names, shapes and types are
compared with a model built on the meta device before any is read.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from eqmol import __version__
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.models import Potential
from eqmol.recipe import build
from eqmol.so3.layout import CONVENTION

__all__ = ["build", "load", "prepare", "save"]

FORMAT = 1
UNITS = {"energy": "eV", "length": "Å"}
#: Format number -> the function that turns a document of that format into one of the next.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

DTYPES = {"float32": torch.float32, "float64": torch.float64}
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


def save(
    model: Potential,
    path: str | os.PathLike[str],
    *,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file; an existing file is replaced only when the new one is complete.

    Args:
        model: its weights are written as they are, so average them first if averages are wanted.
        path: ``.safetensors`` by custom.
        recipe: taken from ``model.recipe`` if not given.
        metrics: errors to remember with the model; non-finite numbers become null.

    Raises:
        InputError: non-finite weights, a model without a recipe, or a path that cannot be written.
    """
    recipe = model.recipe if recipe is None else recipe
    if not recipe:
        raise InputError("the model has no recipe; build it with eqmol.checkpoint.build or pass recipe=")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_finite(tensors, "the model")
    document = {
        "format": FORMAT,
        "eqmol": __version__,
        "recipe": recipe,
        "elements": list(model.elements),
        "units": UNITS,
        "convention": CONVENTION,
        "metrics": plain(metrics or {}),
    }
    text = json.dumps(document, allow_nan=False)
    with replacing(path, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={"eqmol": text}))


def load(
    path: str | os.PathLike[str],
    backend: str | Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
) -> Potential:
    """Read a model file, ready to predict (evaluation mode). Runs nothing that the file contains.

    Args:
        path: what :func:`save` or a training run wrote.
        backend: algorithm of the tensor products; None keeps the one it was trained with.
        device: ``"cpu"``, ``"cuda"``, ...
        dtype: ``"float32"`` or ``"float64"``; None keeps the stored one.

    Raises:
        InputError: not a model file, damaged, made by a newer eqmol, a recipe that cannot be built or does not fit the
            tensors, non-finite weights, or a backend that cannot compute the model's family.
    """
    path = Path(path)
    header = read_header(path)
    target, dtype = as_device(device), header.dtype if dtype is None else as_dtype(dtype)
    recipe = header.document["recipe"]
    if backend is not None:
        recipe = _with_backend(recipe, backend)
    try:
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"), default_dtype(header.dtype):
                skeleton = build(recipe)
            _compare(skeleton, header)
            tensors = _read_tensors(path)
            return _filled(recipe, tensors, target, dtype)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def prepare(
    path_or_model: str | os.PathLike[str] | Potential,
    backend: str | Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
) -> Potential:
    """A private, frozen copy of a model for prediction, from its file or from itself; arguments as in :func:`load`."""
    if isinstance(path_or_model, Potential):
        model = path_or_model
        recipe = model.recipe if backend is None else _with_backend(model.recipe, backend)
        tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        with torch.random.fork_rng(devices=[]):
            model = _filled(recipe, tensors, as_device(device), model.dtype if dtype is None else as_dtype(dtype))
    else:
        model = load(path_or_model, backend, device, dtype)
    return model.requires_grad_(False)


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


def plain(value: Any) -> Any:
    """``value`` fit for JSON: numbers of NumPy and torch as Python's, tuples as lists, non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """``"float32"`` or ``"float64"``, or the torch dtype itself.

    Raises:
        InputError: any other.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype {name!r} is unknown; choose float32 or float64")
    return DTYPES[name]


def as_device(device: str | torch.device) -> torch.device:
    """The torch device of a name.

    Raises:
        InputError: an unknown name, or a device that this machine does not have.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"device {str(device)!r} is not available here; choose cpu, or cuda with a GPU") from None
    return found


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in ``dtype``; their tables are then exact to its precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _filled(
    recipe: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Potential:
    with default_dtype(dtype):
        model = build(recipe)
    model.load_state_dict(dict(tensors))  # casts to the model's types
    return model.to(device).eval()


def _with_backend(recipe: Mapping[str, Any], backend: str | Mapping[str, str]) -> dict[str, Any]:
    backbone = recipe.get("backbone")
    if not isinstance(backbone, Mapping):
        raise InputError("recipe.backbone is missing")
    return {**recipe, "backbone": {**backbone, "backend": backend if isinstance(backend, str) else dict(backend)}}


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


def _compare(skeleton: Potential, header: Header) -> None:
    expected = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in skeleton.state_dict().items()}
    for name in sorted(expected.keys() | header.shapes.keys()):
        if name not in header.shapes:
            raise InputError(f"tensor {name!r}, which the recipe asks for, is not in the file")
        if name not in expected:
            raise InputError(f"tensor {name!r} has no place in the model of the recipe")
        if expected[name] != header.shapes[name]:
            (dtype, shape), (found_dtype, found_shape) = expected[name], header.shapes[name]
            raise InputError(
                f"tensor {name!r} is {found_dtype} {list(found_shape)}, but the recipe makes it {dtype} {list(shape)}"
            )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"the file is damaged: {error}") from None
    _check_finite(tensors, "the file")
    return tensors


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"tensor {name!r} of {where} holds NaN or infinity; such a model predicts nothing")

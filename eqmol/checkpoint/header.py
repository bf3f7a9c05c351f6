"""Model files: how one is laid out, and its header, read and checked without running anything.

A model file is a safetensors file: the model's state dict, further tensors whose names begin with ``aux.``, and metadata that
hold one JSON document under the key ``eqmol``. Format 2::

    {
      "format": 2,
      "eqmol": "0.1.0",                               version that wrote it
      "recipe": {"_target_": "eqmol.models.Potential", "elements": [1, 8], ..., "backbone": {...}},
      "elements": [1, 8],                             atomic numbers, as in the recipe
      "units": {"energy": "eV", "length": "Å"},
      "convention": "y-polar/...",                    of the harmonics and couplings
      "metrics": {"epoch": 7, "val_loss": 0.1},       errors to remember
      "digest": "sha256:4f0c...",                     of everything else, see `digest`
      "domain": {"structures": 450}                   a section
    }

Each section is optional and a JSON object of at most 256 items per list; what is longer is a tensor ``aux.<section>.<name>``:

- ``labels``: label ("energy", "forces", "stress" or a target) -> its key in the training files, for a stress in another unit
  "stress [kbar]";
- ``targets``: what is predicted: kinds, shapes and units;
- ``domain``: what the training set of the last run covers. ``structures``: how many it has; ``aux.domain.shortest`` float64
  [elements, elements]: shortest distance (Å) of each pair of elements, 0 where none was within the cutoff;
  ``charge`` (e) and ``spin`` (number of unpaired electrons, or "lowest") of all structures, null where they differ, see
  :mod:`eqmol.graph.electronic`;
- ``dispersion``: what the labels of the training set were lessened by and predictions add, see :mod:`eqmol.graph.dispersion`;
- ``uncertainty``: of potentials, see :mod:`eqmol.models.uncertainty`; ``aux.uncertainty.structures`` and
  ``aux.uncertainty.atoms`` are float64 [F, F], F the number of last weights, ``aux.uncertainty.means`` [elements, F];
- ``heads``: of a model with several, their ``names``, as in the recipe.

Any other key is refused, whereas keys inside of a section and its tensors are kept as they are, so that a section may grow.
Format 1 had neither sections nor a digest; :data:`UPGRADES` turns its document into one of format 2.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from eqmol.errors import InputError
from eqmol.so3.layout import CONVENTION

FORMAT = 2
UNITS = {"energy": "eV", "length": "Å"}
SECTIONS = ("labels", "targets", "domain", "uncertainty", "dispersion", "heads")
AUX = "aux."

_MAX_HEADER = 16 * 2**20  # bytes; a model of a thousand tensors needs a hundredth of it
_MAX_AUX = 64  # tensors
_MAX_AUX_BYTES = 2**28
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
_OPTIONAL = {"digest": str, **dict.fromkeys(SECTIONS, dict)}
_STORED_DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "BOOL": torch.bool}

#: Kind and unit of the properties that format 1 knew by their names, QM9's.
_FORMAT_1_UNITS = {
    **dict.fromkeys(("U0", "U", "H", "G", "zpve", "U0_atom", "U_atom", "H_atom", "G_atom"), ("extensive", "eV")),
    **dict.fromkeys(("homo", "lumo", "gap"), ("intensive", "eV")),
    **dict.fromkeys(("A", "B", "C"), ("intensive", "GHz")),
    **{"mu": ("dipole_norm", "D"), "alpha": ("extensive", "a0³"), "r2": ("extent", "a0²")},
    "Cv": ("extensive", "cal/(mol K)"),
}


def _from_format_1(document: dict[str, Any]) -> dict[str, Any]:
    """Name the pooling, and kinds and units of properties, and the size of a molecule's errors from that of its atoms (18 in
    QM9's mean).
    """
    recipe = document.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(statistics := recipe.get("statistics"), dict):
        return document | {"format": 2}
    upgraded = {}
    for name, entry in statistics.items():
        if name not in _FORMAT_1_UNITS or not isinstance(entry, dict) or type(entry.get("scale")) not in (int, float):
            raise InputError(f"the statistics of the property {name[:80]!r} are not those of a file of format 1")
        kind, unit = _FORMAT_1_UNITS[name]
        spread = entry["scale"] * (18**0.5 if kind in ("extensive", "extent") else 1.0)
        upgraded[name] = {**entry, "kind": kind, "unit": unit, "spread": spread}
    return document | {"format": 2, "recipe": {"pooling": "mean", **recipe, "statistics": upgraded}}


#: Format number -> the function that turns a document of that format into one of the next.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_format_1}

Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class Header(NamedTuple):
    """What a model file says about itself, read without touching its tensors.

    Attributes:
        document: the JSON document, upgraded to the present format.
        shapes: name -> (dtype, shape) of the tensors of the state dict.
        aux: the same of the tensors that belong to sections.
    """

    document: dict[str, Any]
    shapes: Shapes
    aux: Shapes

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights: float32 if any tensor is, since a few tables are float64 in every model."""
        return torch.float32 if any(dtype == torch.float32 for dtype, _ in self.shapes.values()) else torch.float64


class ModelFile:
    """An open model file: its header, checked, and its tensors when they are asked for.

    Args:
        path: of the file, which may be replaced by another meanwhile; ``~`` is the home folder.

    Attributes:
        header: see :class:`Header`.

    Raises:
        InputError: a missing, foreign, truncated or damaged file, or one made by a newer eqmol.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(path)
        self._file = _open(self.path)
        text = (self._file.metadata() or {}).get("eqmol")
        if text is None:
            raise InputError(
                f"{path} is a safetensors file but not an eqmol model: its metadata has no key 'eqmol'; {_EXPECTED}"
            )
        self._document = _parse_json(text, f"{path}: the metadata 'eqmol'")
        document = _check_document(self._document, self.path)
        shapes = {name: self._shape(name) for name in self._file.keys()}  # noqa: SIM118 (not a dict)
        aux = {name: shapes.pop(name) for name in list(shapes) if name.startswith(AUX)}
        _check_aux(aux, document, self.path)
        self.header = Header(document, shapes, aux)

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors by name; they share memory with the file.

        Raises:
            InputError: the file is not what was written: its digest is another.
        """
        tensors: dict[str, Tensor] = {name: self._file.get_tensor(name) for name in self._file.keys()}  # noqa: SIM118
        expected = self._document.get("digest")
        if expected is not None and digest(self._document, tensors) != expected:
            raise InputError(
                "the file is damaged or was edited: its content does not fit its digest; copy it again from where it was "
                "trained, and change a model by loading it in Python and writing it with eqmol.save"
            )
        return tensors

    def _shape(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        entry = self._file.get_slice(name)
        if entry.get_dtype() not in _STORED_DTYPES:
            raise InputError(
                f"{self.path}: tensor {name[:80]!r} has the type {entry.get_dtype()}, which eqmol never writes"
            )
        return _STORED_DTYPES[entry.get_dtype()], tuple(entry.get_shape())


def as_path(path: object) -> Path:
    """A path as a user gives it.

    Raises:
        InputError: it is none.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or not os.fspath(path):
        raise InputError(f"a model is given by the path of its file or as a model itself, not as {path!r:.80}")
    return Path(os.path.expanduser(os.fspath(path)))


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a model file.

    Raises:
        InputError: see :class:`ModelFile`.
    """
    return ModelFile(path).header


def digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The checksum of a model file: "sha256:" and the sha256 of its document and its tensors.

    Hashed are the document without ``digest`` as JSON with sorted keys and without spaces, then for each tensor, in the order
    of their names, the JSON list of name, type and shape, and its bytes (little endian).

    Args:
        document: as it stands in the file.
        tensors: all of the file, on the CPU, contiguous.
    """
    signed = {key: value for key, value in document.items() if key != "digest"}
    found = hashlib.sha256(json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.update(json.dumps([name, dtype, list(tensor.shape)], separators=(",", ":")).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{found.hexdigest()}"


def _open(path: Path) -> Any:
    """The file, opened by safetensors, which checks names, types, shapes and offsets against one another and its size."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read the model file {path}: {error.strerror}") from None
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    if (start[8:] != b"{" and start[:1] == b"\x80") or start[:4] == b"PK\x03\x04":
        raise InputError(f"{path} is a pickle, like last.ckpt, which could run code and is not opened; {_EXPECTED}")
    if start[8:] != b"{" or length > _MAX_HEADER:
        raise InputError(f"{path} is not a model file; {_EXPECTED}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")[:200]
        raise InputError(
            f"{path} is truncated or damaged ({reason}); copy it again from where it was trained"
        ) from None


def _parse_json(text: str, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"{number[:40]} is not a number of ordinary size")
        return float(number)

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=finite, parse_float=finite)
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
    known = _KEYS if number == 1 else _KEYS | _OPTIONAL
    required = _KEYS.keys() if number == 1 else {*_KEYS, "digest"}
    for key in sorted(document.keys() | required):
        if key not in document or key not in known:
            raise InputError(f"{path}: metadata key {key[:80]!r} is {'unknown' if key in document else 'missing'}")
        if type(document[key]) is not known[key]:
            raise InputError(f"{path}: metadata key {key!r} must be of type {known[key].__name__}")
    while document["format"] < FORMAT:
        document = UPGRADES[document["format"]](document)
    constants = {"units": UNITS, "convention": CONVENTION, "elements": document["recipe"].get("elements")}
    for key, expected in constants.items():
        if document[key] != expected:
            raise InputError(f"{path}: metadata key {key!r} is {document[key]!r}, expected {expected!r}")
    return document


def _check_aux(shapes: Shapes, document: Mapping[str, Any], path: Path) -> None:
    """Refuse tensors beside the weights that belong to no section, or are more than sections need."""
    for name in shapes:
        if name.split(".")[1] not in SECTIONS or name.split(".")[1] not in document:
            raise InputError(f"{path}: tensor {name[:80]!r} belongs to no section of the metadata")
    size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in shapes.values())
    if len(shapes) > _MAX_AUX or size > _MAX_AUX_BYTES:
        raise InputError(
            f"{path}: {len(shapes)} tensors of {size} bytes stand beside the weights; at most {_MAX_AUX} of together "
            f"{_MAX_AUX_BYTES} bytes may"
        )

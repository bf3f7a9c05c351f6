"""The project's own files: arrays without pickles, mapped into memory, with a checksum each.

A shard is a safetensors file. F frames, A atoms of all frames: ``ptr`` [F+1] int64 (first atom of each frame),
``numbers`` [A] uint8, ``tags`` [A] int8, ``fixed`` [A] bool, ``positions`` and ``forces`` [A, 3] float64 (Å, eV/Å; in shards of
kind "is2re" instead of forces ``relaxed``, Å, NaN where it is not known), ``cell`` [F, 3, 3] float64, ``pbc`` [F, 3] bool,
``energy`` and ``reference`` [F] float64 (eV), ``system`` [F] int32 (index into the names of the header) and ``number`` [F] int64
(frame of the system).
``index.json`` beside the shards lists them with their sha256.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eqmol.data.oc20.frame import Frame
from eqmol.errors import InputError
from eqmol.files import replacing

FORMAT = 1
INDEX = "index.json"
S2EF, IS2RE = "s2ef", "is2re"  #: structure to energy and forces; initial structure to relaxed energy


@dataclass(frozen=True)
class Entry:
    """A shard in the index.

    Args:
        file: below the folder of shards.
        source: what it was made from, below the folder of raw files.
        kind: "s2ef" or "is2re".
        frames: how many.
        bytes: size of the file.
        sha256: of the file.
        dropped: [place, reason] of each frame that was left out.
    """

    file: str
    source: str
    kind: str
    frames: int
    bytes: int
    sha256: str
    dropped: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Index:
    """All shards of a folder.

    Args:
        shards: in the order of their sources.
        sources: size and time of change (ns) of each raw file, by which it is known to be unchanged.
        options: what the readers were told.
    """

    shards: list[Entry]
    sources: dict[str, list[int]]
    options: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Replace the folder's index."""
        with replacing(folder / INDEX) as file:
            json.dump({"format": FORMAT, **asdict(self)}, file, indent=1)

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read a folder's index.

        Raises:
            InputError: damaged, or of another version.
        """
        path = folder / INDEX
        try:
            content = json.loads(path.read_text())
            if content.pop("format") != FORMAT:
                raise InputError(f"{path} is of another version of eqmol; remove the folder to have it made again")
            return cls([Entry(**entry) for entry in content.pop("shards")], **content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to have it made again") from error

    def verify(self, folder: Path, checksums: bool = True) -> None:
        """Compare all shards with the index.

        Raises:
            InputError: one is missing, truncated or changed.
        """
        for entry in self.shards:
            path = folder / entry.file
            if not path.is_file():
                raise InputError(f"the shard {path} is missing; {_REMEDY}")
            if (size := path.stat().st_size) != entry.bytes:
                raise InputError(f"the shard {path} is truncated: it has {size} of its {entry.bytes} bytes; {_REMEDY}")
            if checksums and (found := file_hash(path)) != entry.sha256:
                raise InputError(f"the shard {path} is damaged: its sha256 is {found}, not {entry.sha256}; {_REMEDY}")


_REMEDY = "remove it and run eqmol prepare again"


def file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(frames: list[Frame], header: dict[str, Any]) -> bytes:
    """Return the bytes of a shard; the same frames give the same bytes.

    Args:
        frames: all with forces, or all without.
        header: plain values; "systems" and "kind" are added.
    """
    names = sorted({frame.system for frame in frames})
    place = {name: i for i, name in enumerate(names)}
    kind = IS2RE if frames and frames[0].forces is None else S2EF
    arrays: dict[str, NDArray[Any]] = {
        "ptr": np.cumsum([0, *(len(frame.numbers) for frame in frames)], dtype=np.int64),
        "numbers": _join([frame.numbers for frame in frames], np.uint8),
        "tags": _join([frame.tags for frame in frames], np.int8),
        "fixed": _join([frame.fixed for frame in frames], np.bool_),
        "positions": _join([frame.positions for frame in frames], np.float64, 3),
        "cell": np.array([frame.cell for frame in frames], np.float64).reshape(-1, 3, 3),
        "pbc": np.array([frame.pbc for frame in frames], np.bool_).reshape(-1, 3),
        "energy": np.array([frame.energy for frame in frames], np.float64),
        "reference": np.array([frame.reference for frame in frames], np.float64),
        "system": np.array([place[frame.system] for frame in frames], np.int32),
        "number": np.array([frame.number for frame in frames], np.int64),
    }
    if kind == S2EF:
        arrays["forces"] = _join([frame.forces for frame in frames], np.float64, 3)
    else:
        unknown = [
            np.full(frame.positions.shape, np.nan) if frame.relaxed is None else frame.relaxed for frame in frames
        ]
        arrays["relaxed"] = _join(unknown, np.float64, 3)
    # one entry: safetensors writes several in an order of its own
    return save(arrays, {"eqmol": json.dumps({**header, "kind": kind, "systems": names})})


def _join(arrays: list[Any], dtype: Any, *tail: int) -> NDArray[Any]:
    return np.concatenate([np.zeros((0, *tail), dtype), *arrays]).astype(dtype)


class Shard:
    """One file of frames; opened when first used, in every process for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._header: dict[str, Any] = {}
        self._ptr: NDArray[np.int64] = np.zeros(0, np.int64)

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path]]:
        return type(self), (self.path,)

    @property
    def header(self) -> dict[str, Any]:
        """What the shard was made from, its kind and its systems."""
        self._open()
        return self._header

    def array(self, name: str) -> NDArray[Any]:
        """Return a whole array."""
        return self._open().get_tensor(name)

    def frame(self, row: int) -> Frame:
        """Return one frame, by its place in this shard."""
        file = self._open()
        begin, end = (int(i) for i in self._ptr[row : row + 2])
        atoms = {name: file.get_slice(name)[begin:end] for name in ("numbers", "positions", "tags", "fixed")}
        values = {name: file.get_slice(name)[row : row + 1][0] for name in ("cell", "pbc", "energy", "reference")}
        system, number = (int(file.get_slice(name)[row : row + 1][0]) for name in ("system", "number"))
        forces = file.get_slice("forces")[begin:end] if self._header["kind"] == S2EF else None
        relaxed = file.get_slice("relaxed")[begin:end] if "relaxed" in file.keys() else None  # noqa: SIM118
        system_name = self._header["systems"][system]
        return Frame(system=system_name, number=number, forces=forces, relaxed=relaxed, **atoms, **values)

    def _open(self) -> Any:
        if self._file is None:
            try:
                self._file = safe_open(self.path, framework="np")
                self._header = json.loads(self._file.metadata()["eqmol"])
                self._ptr = self._file.get_tensor("ptr")
                self._check_shapes()
            except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
                raise InputError(f"the shard {self.path} cannot be read ({error}); {_REMEDY}") from error
        return self._file

    def _check_shapes(self) -> None:
        """Refuse arrays of different lengths, and what points outside of them."""
        frames, atoms = len(self._ptr) - 1, int(self._ptr[-1])
        names = self._header["systems"]
        shapes: dict[str, list[int]] = {name: [atoms] for name in ("numbers", "tags", "fixed")}
        shapes |= {name: [frames] for name in ("energy", "reference", "system", "number")}
        shapes |= {"positions": [atoms, 3], "cell": [frames, 3, 3], "pbc": [frames, 3]}
        shapes |= {"forces": [atoms, 3]} if self._header["kind"] == S2EF else {}
        shapes |= {"relaxed": [atoms, 3]} if "relaxed" in self._file.keys() else {}  # noqa: SIM118
        for name, shape in shapes.items():
            if (found := self._file.get_slice(name).get_shape()) != shape:
                raise ValueError(f"{name} has the shape {found}, not {shape}")
        system = self._file.get_tensor("system")
        if self._ptr[0] != 0 or (np.diff(self._ptr) < 0).any() or not ((system >= 0) & (system < len(names))).all():
            raise ValueError("frames lie outside of its arrays")

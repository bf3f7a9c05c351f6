"""Which files of a folder hold OC20, and who reads them."""

from dataclasses import dataclass
from pathlib import Path

from eqmol.data.oc20.frame import Reader
from eqmol.data.oc20.readers.ase_files import read_ase_lmdb, read_database, read_trajectory
from eqmol.data.oc20.readers.geometric import read_lmdb, read_torch
from eqmol.data.oc20.readers.lmdb_files import Entries
from eqmol.data.oc20.readers.s2ef import labels_of, read_s2ef
from eqmol.errors import InputError

READERS: dict[str, Reader] = {
    ".extxyz.xz": read_s2ef,
    ".extxyz": read_s2ef,
    ".traj": read_trajectory,
    ".db": read_database,
    ".aselmdb": read_ase_lmdb,
    ".lmdb": read_lmdb,
    ".pt": read_torch,
}
FORMATS = ", ".join(f"*{ending}" for ending in READERS)
#: Entries of an LMDB that go into one shard.
ENTRIES = 5000


@dataclass(frozen=True)
class Unit:
    """What becomes one shard.

    Args:
        source: path below the folder, with forward slashes.
        start: first entry.
        stop: entry after the last; None for all.
    """

    source: str
    start: int = 0
    stop: int | None = None

    @property
    def shard(self) -> str:
        """Path of the shard below the folder of shards."""
        part = "" if self.stop is None else f".{self.start}"
        return f"{self.source}{part}.safetensors"


def find(folder: Path, files: str = "**/*") -> list[str]:
    """Return the paths of the data files below a folder, sorted; an ``.extxyz`` counts only with its ``.txt``.

    Args:
        folder: searched with everything in it.
        files: pattern that the paths must match.

    Raises:
        InputError: no pattern for paths below a folder.
    """
    try:
        found = sorted(folder.glob(files))
    except (NotImplementedError, ValueError):
        raise InputError(f"the pattern {files!r} is none for paths below {folder}; give one like '**/*.lmdb'") from None
    paths = [path for path in found if path.is_file() and _ending(path)]
    paths = [path for path in paths if path.suffix != ".extxyz" or labels_of(path)]
    return [path.relative_to(folder).as_posix() for path in paths]


def parts(folder: Path, source: str) -> list[Path]:
    """Return the files that a source consists of."""
    path = folder / source
    labels = labels_of(path) if reader(source) is read_s2ef else None
    return [path] if labels is None else [path, labels]


def units(folder: Path, source: str) -> list[Unit]:
    """Return the shards that a source becomes: one, or several of a large LMDB."""
    if reader(source) not in (read_lmdb, read_ase_lmdb):
        return [Unit(source)]
    with Entries(folder / source) as entries:
        count = len(entries.keys)
    return [Unit(source, start, min(start + ENTRIES, count)) for start in range(0, count, ENTRIES)]


def reader(source: str) -> Reader:
    """Return who reads a file."""
    return READERS[_ending(Path(source))]


def _ending(path: Path) -> str:
    """Return the ending by which a file is known, or ""."""
    return next((ending for ending in READERS if path.name.endswith(ending)), "")

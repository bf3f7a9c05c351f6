"""Files of strangers within bounds: what they may grow to, and what memory a library may take for them.

Compressed files may become :data:`RATIO` times their size, which coordinates never do: 85 kB can otherwise hold a line of
600 MB.
"""

import bz2
import gzip
import io
import lzma
import re
import sqlite3
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from eqmol.errors import InputError, reason_of

#: A compressed file may become this many times its size, and so many bytes besides.
RATIO, FREE = 50, 2**20
#: Bytes that a library may take for a file, and times its size besides.
MEMORY, FACTOR = 2**29, 64
COMPRESSED = (".gz", ".bz2", ".xz")
_XZ_MEMORY = 2**28  #: of its dictionary; the largest preset takes 65 MiB


def check_expansion(path: Path) -> None:
    """Refuse a compressed file that grows without bound, before a library reads it.

    Raises:
        InputError: it does.
    """
    if path.suffix.lower() in COMPRESSED:
        with open_bounded(path) as file:
            while file.read(2**20):
                pass


def decompress(content: bytes) -> bytes:
    """Decompress what zlib has compressed.

    Raises:
        InputError: truncated, damaged, or it grows without bound.
    """
    most = RATIO * len(content) + FREE
    decoder = zlib.decompressobj()
    try:
        result = decoder.decompress(content, most)
    except zlib.error as error:
        raise InputError(f"it is damaged ({reason_of(error)})") from None
    if not decoder.eof:
        raise InputError(_grows("it") if len(result) == most else "it is truncated")
    return result


def read_npz(path: Path, most: int = 2**24) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz``.

    Args:
        path: the file.
        most: bytes that the arrays may have, together.

    Raises:
        InputError: no such file, damaged, or with other things than arrays of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            announced = sum(entry.file_size for entry in archive.infolist())
            if announced > most:
                raise InputError(
                    f"{path} announces {announced} bytes of numbers, more than the {most} that can be meant"
                )
        with bounded_memory(most, str(path)), np.load(path) as content:
            return {name: content[name] for name in content.files}
    except InputError:
        raise
    except Exception as error:  # zip and numpy's headers, of any content
        raise InputError(f"{path} is no .npz of numbers, or damaged ({reason_of(error)})") from None


def check_database(path: Path) -> None:
    """Refuse an SQLite file that holds programs (views, triggers, computed columns) beside its tables.

    Raises:
        InputError: it does, or it is no SQLite file.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master LIMIT 1000").fetchall()
    except sqlite3.Error as error:
        raise InputError(f"{path} is damaged or no database ({reason_of(error)})") from None
    for kind, name, sql in rows:
        if kind not in ("table", "index") or re.search(r"\b(virtual|generated)\b|\bas\s*\(", sql, re.IGNORECASE):
            raise InputError(f"{path} holds the {kind} {str(name)[:40]!r}, which computes; databases of ASE only store")


@contextmanager
def bounded_memory(size: int, source: str) -> Iterator[None]:
    """Let a library that trusts the numbers in a file take memory in proportion to its size; on Linux.

    Args:
        size: of the file, bytes.
        source: the file, for the message.

    Raises:
        InputError: it asked for more.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    allowed = MEMORY + FACTOR * size
    ceilings = [limit for limit in (used + allowed, *limits) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(ceilings), limits[1]))
    try:
        yield
    except MemoryError:
        raise InputError(f"{source} asks for more than {allowed} bytes of memory; is the file damaged?") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class _Bounded(io.RawIOBase):
    """Bytes of a file, at most so many."""

    def __init__(self, path: Path, file: Any, most: int) -> None:
        self._path, self._file, self._left = path, file, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise InputError(_grows(str(self._path)))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Xz:
    """An ``.xz`` file, of one stream or several, whose dictionary has a bounded size."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  closed by close()
        self._decoder: lzma.LZMADecompressor | None = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        self.close = self._file.close

    def read(self, size: int) -> bytes:
        while self._decoder is not None:
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._file.read(2**16)
                while rest and not (rest := rest.lstrip(b"\0")):  # padding
                    rest = self._file.read(2**16)
                self._file.seek(-len(rest), 1)
                self._decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY) if rest else None
                continue
            content = self._file.read(2**16) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not content:
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if result := self._decoder.decompress(content, size):
                return result
        return b""


def open_bounded(path: Path) -> io.BufferedReader:
    """Open a file, decompressed by its ending."""
    openers: dict[str, Any] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": _Xz}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        return open(path, "rb")
    return io.BufferedReader(_Bounded(path, opener(path), RATIO * path.stat().st_size + FREE))


def _grows(what: str) -> str:
    return (
        f"{what} becomes more than {RATIO} times as large when it is decompressed, as no structures do; it was not read"
    )

"""Files: written so that nobody ever sees half of one, and read within bounds where strangers made them.

Compressed files may become :data:`RATIO` times their size, which coordinates never do: 85 kB can otherwise hold a line of
600 MB.
"""

import bz2
import codecs
import errno
import glob
import gzip
import io
import lzma
import os
import platform
import re
import sqlite3
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from eqmol.errors import InputError, NoRoomError, reason_of

PACKAGE = Path(__file__).parent
#: What is shipped: its place in the checkout, and inside an installed package.
_SHIPPED = {"conf": "conf", "data": "_data"}


def shipped(name: str) -> Path:
    """The folder "conf" of the configuration or "data" of the embedded data, of a checkout or of an installed package."""
    installed = PACKAGE / _SHIPPED[name]
    return installed if installed.is_dir() else PACKAGE.parent / name


def cache_folder() -> Path:
    """Where things are kept that can be made again: ``$EQMOL_CACHE``, or ``eqmol`` in the user's cache."""
    base = os.environ.get("EQMOL_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eqmol"


def expand_paths(given: object, option: str, folder: str | os.PathLike[str] = "", folders: bool = False) -> list[Path]:
    """Return the files that an option names.

    Args:
        given: a path, or a pattern for which its files stand in the order of their names (``*``, ``?``, ``[ab]``, and ``**`` for
            folders of any depth), or several of them, also joined by commas. ``~`` is the home folder; what exists as it is
            written is neither a pattern nor several.
        option: name of the option, for messages.
        folder: where relative paths begin.
        folders: whether a pattern also stands for folders.

    Raises:
        InputError: what :func:`named_files` refuses, a pattern without files, or a file that is named twice.
    """
    paths = [path for text in named_files(given, option) for path in _expand(text, option, Path(folder), folders)]
    known: set[Path] = set()
    for path in paths:
        if (place := path.resolve()) in known:
            raise InputError(f"{option} names {path} twice; give every file once")
        known.add(place)
    return paths


def named_files(given: object, option: str) -> list[str]:
    """Return the paths and patterns that an option names, as they are written.

    Raises:
        InputError: something else, or nothing.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    entries: list[Any] = list(given) if several else [given]  # type: ignore[call-overload]
    if not entries:
        raise InputError(f"{option}=[] names no file; give a path, or several: [a.xyz, b.xyz]")
    if not all(isinstance(entry, str | os.PathLike) and os.fspath(entry) for entry in entries):
        text = {"None": "null", "True": "true", "False": "false"}.get(repr(given), repr(given))
        raise InputError(f"{option}={text} must be the path of a file, or several: [a.xyz, b.xyz]")
    return [str(os.fspath(entry)) for entry in entries]


def _expand(text: str, option: str, folder: Path, folders: bool) -> list[Path]:
    found = _existing(text, folder, folders)
    if not found and "," in text:
        parts = [_existing(part.strip(), folder, folders) for part in text.split(",")]
        found = [path for part in parts for path in part] if all(parts) else []
    if not found and glob.has_magic(text):
        raise InputError(f"{option}: no file matches {text!r}")
    return found or [folder / os.path.expanduser(text)]


def _existing(text: str, folder: Path, folders: bool) -> list[Path]:
    """Return the file of that name, or those that it matches as a pattern."""
    text = os.path.expanduser(text)
    path = folder / text
    if os.path.exists(path):  # which a text that is too long for a name does not stop
        return [path] if text else []
    if not glob.has_magic(text):
        return []
    root = "" if path == Path(text) else glob.escape(str(folder))
    for pattern in (text, text.replace("[", "[[]")):  # brackets beside a star may be meant as they are
        pattern = os.path.join(root, pattern)
        found = [Path(name) for name in glob.glob(pattern, recursive=True)]
        if found := [path for path in found if path.is_file() or (folders and path.is_dir())]:
            return sorted(found)
    return []


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; move it there when the block succeeds, remove it when the block fails.

    Temporary files that killed processes of this machine left are removed.

    Args:
        path: the file to write or replace; ``~`` is the home folder.
        mode: ``"w"`` (UTF-8 text) or ``"wb"``.

    Raises:
        InputError: the folder does not exist or cannot be written, or ``path`` is a folder.
        NoRoomError: the disk is full.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give the name of a file")
    clear_temporaries(path)
    temporary = _temporary(path, os.getpid())
    try:
        file = open(temporary, mode, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        if no_room(error):
            raise _full(path, error) from None
        raise InputError(f"cannot write {path}: {error.strerror}; check the folder and its permissions") from None
    try:
        with file:
            yield file
            to_disk(file)
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too must leave nothing behind
        temporary.unlink(missing_ok=True)
        if no_room(error):
            raise _full(path, error) from None
        raise


def append(path: Path, text: str) -> None:
    """Add lines to a text file (UTF-8), all of them or none.

    Raises:
        NoRoomError: the disk is full.
    """
    with open(path, "ab") as file:
        size = file.tell()
        try:
            file.write(text.encode())
            to_disk(file)
        except OSError as error:
            file.truncate(size)
            if no_room(error):
                raise _full(path, error) from None
            raise


def to_disk(*files: IO[Any]) -> None:
    """Write all that was given to some open files: where one of several has no room, none of them is then replaced."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())


def no_room(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _full(path: Path, error: BaseException) -> NoRoomError:
    assert isinstance(error, OSError)
    return NoRoomError(f"cannot write {path}: {error.strerror}; make room, or write to another disk")


def _temporary(path: Path, process: int | str) -> Path:
    """Where a process of this machine writes what will be ``path``."""
    return path.with_name(f".{path.name}.{platform.node()}-{process}.tmp")


def clear_temporaries(path: Path, of_others: bool = False) -> None:
    """Remove the temporary files beside ``path`` of processes that live no more.

    Args:
        path: the file that they would have become.
        of_others: also those of other machines, whose processes are known to be gone.
    """
    before, _, after = _temporary(path, "*").name.partition("*")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        is_own = leftover.name.startswith(before)
        process = leftover.name.removeprefix(before).removesuffix(after)
        if not _lives(int(process)) if is_own and process.isdecimal() else of_others:
            leftover.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if sys.platform == "win32":  # where this would stop it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or a number that no process has
        return True
    return True


#: Characters of a line.
MAX_LINE = 2**22
#: A compressed file may become this many times its size, and so many bytes besides.
RATIO, FREE = 50, 2**20
#: Bytes that a library may take for a file, and times its size besides.
MEMORY, FACTOR = 2**29, 64
COMPRESSED = (".gz", ".bz2", ".xz")
_XZ_MEMORY = 2**28  #: of its dictionary; the largest preset takes 65 MiB
_SHORTEST_ATOM = len("H 0 0 0\n")


#: How a file begins that a program packed or compressed.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
_PROGRAMS = dict(zip(COMPRESSED, ("gzip", "bzip2", "xz"), strict=True))
_BLOCK_OR_END = (b"1AY&SY", b"\x17rE8P\x90")  #: what follows in a file of bzip2
_TAR = (".tar", ".tgz", ".tbz2", ".txz")


def ending(path: Path) -> str:
    """What a file is by its name, in small letters: ".sdf" of A.SDF and of A.sdf.gz."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def check_file(path: Path) -> None:
    """Refuse what is no file, empty, an archive, or compressed otherwise than its name says.

    Raises:
        InputError: it is.
    """
    if not path.is_file():
        wrong = f"is a folder; give its files: {path / '*'}" if path.is_dir() else "is no file"
        raise InputError(f"{path} {wrong if path.exists() else 'does not exist'}")
    try:
        with open(path, "rb") as file:
            start = file.read(10)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise InputError(f"{path} is empty")
    if ending(path) in _TAR:
        raise InputError(f"{path} is an archive, which is not opened; unpack it first (tar -xf)")
    named = _PROGRAMS.get(path.suffix.lower(), "")
    found = next((program for mark, program in _PACKED.items() if start.startswith(mark)), "")
    if found == "bzip2" and start[4:] not in _BLOCK_OR_END:
        found = ""
    if found == named:
        return
    if found and found not in _PROGRAMS.values():
        raise InputError(f"{path} is packed by {found}, which is not read; unpack it first, or compress it by gzip")
    if found:
        suffix = next(suffix for suffix, program in _PROGRAMS.items() if program == found)
        raise InputError(f"{path} is compressed by {found}, which its name does not say; rename it, to end in {suffix}")
    raise InputError(f"{path} is not compressed by {named}, as its name says; rename it, or copy it again")


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    """Decode what is no UTF-8 as Latin-1: names of old programs."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("eqmol.latin-1", _as_latin_1)


class Text:
    """A text file, compressed or not, read line by line; a context manager.

    UTF-8 and UTF-16 with their marks are known; bytes that are no UTF-8 are read as Latin-1; all ends of lines become "\\n".

    Args:
        path: its ending tells the compression (:data:`COMPRESSED`).

    Raises:
        InputError: from every method: the file cannot be read, has too long a line, NUL bytes, or grows without bound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = _open_bounded(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        try:
            mark = self._bytes.peek(2)[:2]
        except Exception as error:  # compressed bytes of any content
            self._bytes.close()
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path} cannot be read: {reason_of(error)}; is it truncated or of another format?"
            ) from None
        encoding = "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        self._file = io.TextIOWrapper(cast(IO[bytes], self._bytes), encoding, "eqmol.latin-1")
        self._size = path.stat().st_size
        self.line = 0  #: number of the last line, from 1

    def __enter__(self) -> "Text":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readline, "")

    def readline(self) -> str:
        """Return the next line with its end, "" after the last."""
        line, problem = self.record_line()
        if problem:
            raise InputError(f"{self.path}, line {self.line} {problem}")
        return line

    def record_line(self) -> tuple[str, str]:
        """Return the next line, and why it cannot be used, or ""; then the next one still can be read."""
        line = self._file.readline(MAX_LINE)
        self.line += 1
        if len(line) == MAX_LINE and not line.endswith("\n"):
            while (rest := self._file.readline(MAX_LINE)) and not rest.endswith("\n"):
                pass
            return line[:80], f"has more than {MAX_LINE} characters; is the file damaged or of another format?"
        if "\0" in line:
            return line, "has NUL bytes, which text has not; is the file damaged, or UTF-16 without its mark?"
        return line, ""

    def announced(self, atoms: int, source: str) -> None:
        """Refuse a number of atoms that cannot be in the file."""
        most = RATIO * self._size + FREE if self.path.suffix.lower() in COMPRESSED else self._size
        if atoms * _SHORTEST_ATOM > most:
            raise InputError(
                f"{source} is truncated: it announces {atoms} atoms, which the {self._size} bytes of the file cannot hold"
            )


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without their ends, see :class:`Text`."""
    with Text(path) as file:
        return [line.rstrip("\n") for line in file]


def check_expansion(path: Path) -> None:
    """Refuse a compressed file that grows without bound, before a library reads it.

    Raises:
        InputError: it does.
    """
    if path.suffix.lower() in COMPRESSED:
        with _open_bounded(path) as file:
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


def _open_bounded(path: Path) -> io.BufferedReader:
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

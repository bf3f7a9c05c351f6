"""Text files of any encoding, compressed or not, read line by line."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from eqmol.errors import InputError, reason_of
from eqmol.files.bounds import COMPRESSED, FREE, RATIO, open_bounded

#: Characters of a line.
MAX_LINE = 2**22
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
            self._bytes = open_bounded(path)
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

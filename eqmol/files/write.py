"""Files written so that nobody ever sees half of one."""

import errno
import glob
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from eqmol.errors import InputError, NoRoomError


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

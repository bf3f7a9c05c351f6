"""Compiled libraries in ``<cache>/kernels``. What lies there is executed, so nobody else may write there.

Folder and files must belong to the user, be writable by nobody else and be no links; a library is opened only if its SHA-256 is the
recorded one. Where the folder is not safe or cannot be written, libraries are made in a private temporary folder, which is
removed when the process ends.
"""

import atexit
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from eqmol.errors import InputError
from eqmol.files import cache_folder, replacing

LOCK_SECONDS = 300.0  #: to wait for another process that makes the same library
_log = logging.getLogger(__name__)


class UnsafeError(Exception):
    """A folder or file that others could have written; the message says which and why."""


def library(key: str, make: Callable[[Path], None]) -> Path:
    """The library of a key, made if it is not there.

    Args:
        key: a SHA-256 of all that the library depends on.
        make: writes it to a path; its exceptions are passed on.

    Raises:
        OSError: it can be written nowhere.
    """
    folder = cache_folder() / "kernels"
    try:
        _prepare(folder)
        return _in_folder(folder, key, make)
    except (UnsafeError, InputError, OSError) as error:
        reason = f"{folder} cannot be used ({error.strerror or error})" if isinstance(error, OSError) else error
        _say(f"compiled kernels are not kept: {reason}; they are made in a temporary folder")
        return _in_folder(_private(os.getpid()), key, make)


def _in_folder(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    path, record = folder / f"{key}.so", folder / f"{key}.sha256"
    if _is_sound(path, record):
        return path
    lock = FileLock(folder / f"{key}.lock", timeout=LOCK_SECONDS)
    with suppress(Timeout):
        lock.acquire()
    try:
        if _is_sound(path, record):  # another process made it meanwhile
            return path
        temporary = folder / f".{key}.{os.getpid()}.so"
        try:
            make(temporary)
            os.chmod(temporary, 0o700)
            with open(temporary, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
                os.fsync(file.fileno())
            with replacing(record) as text:
                text.write(digest)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    finally:
        lock.release()
    return path


def _is_sound(path: Path, record: Path) -> bool:
    """Whether a library is there and is what was recorded.

    Raises:
        UnsafeError: somebody else may have written it.
    """
    library, recorded = _read(path), _read(record)
    if library is None or recorded is None:
        return False
    return hashlib.sha256(library).hexdigest() == recorded.decode("ascii", "replace").strip()


def _read(path: Path) -> bytes | None:
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    except OSError:  # a link
        raise UnsafeError(f"{path} is a link or cannot be read") from None
    with open(number, "rb") as file:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeError(f"{path} is not a file")
        _check_owner(path, status)
        return file.read()


def _prepare(folder: Path) -> None:
    """Make the folder, or check the one that is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeError(f"{folder} is no folder but a link or file")
    _check_owner(folder, status)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if os.name != "posix":
        return
    if status.st_uid != os.geteuid():
        raise UnsafeError(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeError(f"others may write {path} (chmod go-w makes it safe)")


@lru_cache(maxsize=1)
def _private(_process: int) -> Path:
    """A folder of this process alone; a forked child gets its own."""
    folder = Path(tempfile.mkdtemp(prefix="eqmol-kernels-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


@lru_cache(maxsize=64)
def _say(message: str) -> None:
    """Once per process."""
    _log.warning(message)

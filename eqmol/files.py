"""Writing files so that nobody ever sees half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from eqmol.errors import InputError

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


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; move it there when the block succeeds, remove it when the block fails.

    Args:
        path: the file to write or replace.
        mode: ``"w"`` (UTF-8 text) or ``"wb"``.

    Raises:
        InputError: the folder does not exist or cannot be written, or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give the name of a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file = open(temporary, mode, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; check the folder and its permissions") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too must leave nothing behind
        temporary.unlink(missing_ok=True)
        raise

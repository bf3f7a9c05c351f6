"""Where files are: those that options name, those that are shipped, those that can be made again."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eqmol.errors import InputError

PACKAGE = Path(__file__).parents[1]
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

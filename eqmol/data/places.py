"""Where data sets lie: below ``$EQMOL_DATA``, ``data`` of the current folder, or ``data`` of the checkout or package."""

import os
from collections.abc import Iterable
from pathlib import Path

from eqmol.errors import InputError
from eqmol.files import shipped


def folders(name: str) -> list[Path]:
    """Return where a data set may lie, the most specific first."""
    roots = [Path(root).expanduser() for root in [os.environ.get("EQMOL_DATA", "")] if root]
    return [root / name for root in dict.fromkeys([*roots, Path("data"), shipped("data")])]


def find(name: str, files: Iterable[str]) -> Path | None:
    """Return the first folder that holds all files, or None."""
    files = tuple(files)
    return next((folder for folder in folders(name) if all((folder / file).is_file() for file in files)), None)


def not_found(name: str, advice: str) -> InputError:
    """Return the error for a data set that is nowhere."""
    places = ", ".join(str(folder) for folder in folders(name))
    return InputError(f"the data set {name} is in none of {places}; {advice}")

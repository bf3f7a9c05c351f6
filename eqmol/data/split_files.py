"""Files that say which molecules train, validate and test, by their numbers."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from eqmol.errors import InputError
from eqmol.files import replacing

SPLITS: Final = ("train", "val", "test")


def write_split(path: Path, numbers: Mapping[str, Sequence[int]]) -> None:
    """Write the numbers of the molecules of each split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        json.dump(numbers, file)


def read_split(path: Path, known: Collection[int]) -> dict[str, list[int]]:
    """Return the numbers of the molecules of each split.

    Args:
        path: as :func:`write_split` writes it.
        known: all molecules that there are.

    Raises:
        InputError: another file, a molecule that there is not, or one that is in two splits.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: [int(number) for number in content[name]] for name in SPLITS}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise InputError(f"{path} must be JSON with lists of molecules for train, val and test; remove it") from None
    known, seen = set(known), set()
    for name, part in numbers.items():
        for number in part:
            if number not in known:
                raise InputError(
                    f"{path}: molecule {number} of '{name}' is not in the data set; give the split of this set"
                )
            if number in seen:
                raise InputError(f"{path}: molecule {number} is in two splits; a molecule may be in one only")
            seen.add(number)
    return numbers

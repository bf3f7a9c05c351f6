"""Checks of the options of data sets: what is wrong with one is said in a sentence with its name and its value."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eqmol.errors import InputError

_WORDS = {None: "null", True: "true", False: "false"}


def wrong(name: str, value: object, wanted: str) -> InputError:
    """Return the error for an option that is not what it must be."""
    given = _WORDS[value] if value is None or isinstance(value, bool) else repr(value)
    return InputError(f"data.{name}={given} must be {wanted}")


def check_integers(lowest: int, null: bool = False, **options: Any) -> None:
    """Refuse options that are no integers or too low; with ``null`` they may be that."""
    for name, value in options.items():
        if null and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise wrong(name, value, f"an integer of at least {lowest}")


def check_lengths(**options: Any) -> None:
    """Refuse options that are no positive numbers of Å."""
    for name, value in options.items():
        if not _is_number(value) or not 0 < value < math.inf:
            raise wrong(name, value, "a positive number of Å")


def check_fractions(closed: bool = False, **options: Any) -> None:
    """Refuse options that are no numbers between 0 and 1; with ``closed`` they may be 0 and 1."""
    for name, value in options.items():
        if not _is_number(value) or not (0 <= value <= 1 if closed else 0 < value < 1):
            raise wrong(name, value, "a number between 0 and 1")


def check_names(**options: Any) -> None:
    """Refuse options that are no text or an empty one."""
    for name, value in options.items():
        if not isinstance(value, str) or not value.strip():
            raise wrong(name, value, "a name")


def check_flags(**options: Any) -> None:
    """Refuse options that are neither true nor false."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise wrong(name, value, "true or false")


def check_choices(choices: Sequence[str], **options: Any) -> None:
    """Refuse options that are none of the choices."""
    for name, value in options.items():
        if not isinstance(value, str) or value not in choices:
            raise wrong(name, value, f"one of {', '.join(choices)}")


def check_lists(**options: Any) -> None:
    """Refuse options that are no lists of names."""
    for name, value in options.items():
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not is_list or not all(isinstance(entry, str) and entry for entry in value):
            raise wrong(name, value, "a list of names, as in [A, B]")


def path(name: str, value: Any) -> Path:
    """Return the path that an option names; ``~`` is the home folder."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise wrong(name, value, "a path")
    return Path(os.path.expanduser(value))


def optional_path(name: str, value: Any) -> Path | None:
    """Return the path that an option names, None for null."""
    return None if value is None else path(name, value)


def by_name(name: str, value: Any, example: str) -> dict[str, Any]:
    """Return an option that gives names to what it has, as in the example; nothing for null."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(str(key).strip() for key in value):
        raise wrong(name, value, f"names with their values, as in {example}")
    return {str(key): node for key, node in value.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

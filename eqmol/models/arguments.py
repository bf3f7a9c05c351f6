"""Checks of constructor arguments, which may come from a file that nobody trusts: plain JSON types within sane bounds.

Every check raises InputError with the name, the value and what is allowed, before anything is allocated.
"""

import math
from collections.abc import Mapping, Sequence

from ase.data import chemical_symbols

from eqmol.errors import InputError, short


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """An integer between two bounds, both included."""
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{name}={short(value)} must be an integer from {low} to {high}")
    return value


def check_number(name: str, value: object, low: float, high: float) -> float:
    """A finite number between two bounds, both included."""
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        raise InputError(f"{name}={short(value)} must be a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]


def check_flag(name: str, value: object) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise InputError(f"{name}={short(value)} must be true or false")
    return value


def check_list(name: str, value: object, longest: int) -> list:
    """A list or tuple with at least one and at most ``longest`` items."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not 1 <= len(value) <= longest:
        raise InputError(f"{name}={short(value)} must be a list of 1 to {longest} items")
    return list(value)


def check_widths(name: str, value: object, multiple_of: int = 1) -> list[int]:
    """Widths of the hidden layers of a network; the last is a multiple of the number of heads."""
    widths = [check_integer(f"each of {name}", width, 1, 2048) for width in check_list(name, value, 8)]
    if widths[-1] % multiple_of:
        raise InputError(f"{name}={short(widths)} must end in a multiple of heads={multiple_of}")
    return widths


def check_backend(value: object) -> None:
    """A name, or a name per operation; which names exist is up to :func:`eqmol.ops.registry.create`."""
    if not isinstance(value, str | Mapping):
        raise InputError(f"backend={short(value)} must be a name, or one name per operation")


def check_elements(value: object) -> list[int]:
    """Different atomic numbers."""
    highest = len(chemical_symbols) - 1
    elements = [check_integer("each of elements", z, 1, highest) for z in check_list("elements", value, highest)]
    if len(set(elements)) < len(elements):
        raise InputError(f"elements={short(elements)} names an element twice; list each once")
    return elements

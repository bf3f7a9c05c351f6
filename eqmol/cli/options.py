"""Command lines: options of the form ``name=value``, read against a table, and how a command ends."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from eqmol.errors import InputError

Reader = Callable[[str], Any]  # raises ValueError with what the value must be


def limit_threads() -> None:
    """Let torch, which must not be imported yet, use one CPU thread unless ``OMP_NUM_THREADS`` says otherwise.

    Two threads made training steps 1.5 times faster on two idle cores, and ten times slower beside another run: threads
    wait for each other after every operation. One thread also rounds alike on any number of cores.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def exit_code(command: Callable[[], int | None], interrupted: str = "interrupted; nothing was written") -> int:
    """Run a command; say in one sentence why it failed.

    Returns:
        What the command returns or 0; 2 after bad input, 130 after Ctrl-C.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


class Option(NamedTuple):
    """One option.

    Attributes:
        read: text -> value.
        default: value if the option is absent.
        help: what it does.
    """

    read: Reader
    default: Any
    help: str


def read_options(arguments: Iterable[str], known: Mapping[str, Option]) -> dict[str, Any]:
    """Values of all known options, given ``name=value`` arguments.

    Raises:
        InputError: an argument without ``=``, an unknown name, a name that is given twice, or a value that is not allowed.
    """
    given: dict[str, Any] = {}
    for argument in arguments:
        name, sign, text = argument.partition("=")
        if not sign:
            raise InputError(f"cannot read {argument!r}; options have the form name=value")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}=?" if close else f"choose from {', '.join(known)}"
            raise InputError(f"option {argument!r} is unknown; {hint}")
        if name in given:
            raise InputError(f"option {name} is given twice; give it once")
        try:
            given[name] = known[name].read(text)
        except ValueError as error:
            raise InputError(f"{argument} is not possible: {name} must be {error}") from None
    return {name: given.get(name, option.default) for name, option in known.items()}


def describe_options(known: Mapping[str, Option]) -> str:
    """One line per option, for ``--help``."""
    width = max(len(name) for name in known) + 1
    return "\n".join(f"  {name + '=':{width}}  {option.help}" for name, option in known.items())


def integer(low: int, high: int) -> Reader:
    """An integer between two bounds, both included."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return int(text)

    return read


def choice(*names: str) -> Reader:
    """One of several names."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text

    return read


def choices(*names: str) -> Reader:
    """Several of several names, separated by commas."""

    def read(text: str) -> tuple[str, ...]:
        parts = tuple(dict.fromkeys(text.split(",")))
        if not set(parts) <= set(names):
            raise ValueError(f"one or several of {', '.join(names)}, separated by commas")
        return parts

    return read


def flag(text: str) -> bool:
    """``true`` or ``false``."""
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def path(text: str) -> str:
    """A path that is not empty."""
    if not text:
        raise ValueError("the name of a file or folder")
    return text

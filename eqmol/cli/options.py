"""What the subcommands share: types of arguments, the number of threads, and how a command ends."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from eqmol.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises wrong arguments as :class:`InputError`, for :func:`exit_code` to tell in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise InputError(f"{message}; {self.prog} --help shows how")


def limit_threads() -> None:
    """Let torch, which must not be imported yet, use one CPU thread unless ``OMP_NUM_THREADS`` says otherwise.

    Two threads made training steps 1.5 times faster on two idle cores, and ten times slower beside another run: threads
    wait for each other after every operation. One thread also rounds alike on any number of cores.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def sentence(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as a sentence, without the place in the code that Python names."""
    return f"warning: {message}\n"


def exit_code(command: Callable[[], int | None], interrupted: str = "interrupted; nothing was written") -> int:
    """Run a command; say in one sentence why it failed.

    Returns:
        What the command returns or 0; 2 after bad input, 130 after Ctrl-C.
    """
    warnings.formatwarning = sentence
    try:
        return command() or 0
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def integer(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument that is an integer between two bounds, both included."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {low} to {high}")
        return int(text)

    return read


def positive(text: str) -> int:
    """The type of an argument that is a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)

"""What the subcommands share: types of arguments, settings of the process, and how a command ends."""

import argparse
import ctypes
import math
import os
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from eqmol.errors import InputError
from eqmol.files import expand_paths

UNREAD = 128 + 13  #: exit code of a command whose output nobody reads any more, as after SIGPIPE


class Parser(argparse.ArgumentParser):
    """Raises wrong arguments as :class:`InputError`, for :func:`exit_code` to tell in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise InputError(f"{message}; {self.prog} --help shows how")


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGEST_TENSOR = 1 << 30


def keep_freed_memory() -> None:
    """Keep large freed blocks for the next step instead of returning them to the system.

    Every step of training or dynamics allocates the same tensors; fetching their pages anew took up to a quarter of a step on the
    CPU. Only glibc has these settings; elsewhere nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in (
        (_MMAP_THRESHOLD, _LARGEST_TENSOR),
        (_TRIM_THRESHOLD, 2 * _LARGEST_TENSOR - 1),
        (_TOP_PAD, 64 << 20),
    ):
        mallopt(parameter, value)


def set_up_process() -> None:
    """Let torch, imported or not, use one CPU thread unless ``OMP_NUM_THREADS`` says otherwise, and keep freed memory.

    Two threads made training steps 1.5 times faster on two idle cores, and ten times slower beside another run: threads
    wait for each other after every operation. One thread also rounds alike on any number of cores.
    """
    if (
        "torch" in sys.modules and "OMP_NUM_THREADS" not in os.environ
    ):  # by a script of the user's, too late for the variable
        sys.modules["torch"].set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    keep_freed_memory()


def sentence(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as a sentence, without the place in the code that Python names."""
    return f"warning: {message}\n"


class Signals:
    """Turns Ctrl-C and SIGTERM into KeyboardInterrupt; one more within a second does not disturb what cleans up.

    Signals that the process ignores, as background jobs of a shell do, or handles otherwise stay as they are.
    """

    def __init__(self) -> None:
        self._last = -math.inf
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
                    self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a worker, which inherits this
            signal.signal(signum, self._previous[signum])
            signal.raise_signal(signum)
        now = time.monotonic()
        if now > self._last + 1.0:
            self._last = now
            raise KeyboardInterrupt(signum)


def interrupt_behind(error: BaseException | None) -> int | None:
    """The signal that an error comes from, or None; extension modules make an ImportError of KeyboardInterrupt."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return None if error is None else next((number for number in error.args if type(number) is int), signal.SIGINT)


def nobody_reads(error: BaseException | None = None) -> bool:
    """Whether the reader of what a command prints is gone, as ``head`` is after some lines; then nothing more is printed.

    Args:
        error: of the command; rich raises a SystemExit and closes the output itself.
    """
    try:
        if isinstance(error, BrokenPipeError):  # of this pipe, or of another
            print()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return True
    return isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)


def exit_code(command: Callable[[], int | None], interrupted: str = "interrupted; nothing was written") -> int:
    """Run a command; say in one sentence why it failed.

    Returns:
        What the command returns or 0; 2 after bad input, 130 after Ctrl-C, 143 after SIGTERM, 141 when nobody reads its output.
    """
    warnings.formatwarning = sentence
    with Signals():
        try:
            code = command() or 0
            return UNREAD if nobody_reads() else code
        except BaseException as error:
            if nobody_reads(error) and isinstance(error, BrokenPipeError | SystemExit):
                return UNREAD
            if isinstance(error, SystemExit):
                raise
            if signum := interrupt_behind(error):
                print(interrupted, file=sys.stderr)
                return 128 + signum
            if isinstance(error, OSError) and error.filename:
                print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
                return 2
            if isinstance(error, InputError | OSError):
                print(f"error: {error}", file=sys.stderr)
                return 2
            raise


def leave(code: int) -> int:
    """The exit code of the whole process, which further signals do not disturb once one has ended it."""
    if code > 128:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
    return code


def file_path(text: str) -> Path:
    """The type of an argument that is a path to write; ``~`` is the home folder also where no shell has replaced it."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text is no path")
    return Path(os.path.expanduser(text))


def one_file(text: str) -> Path:
    """The type of an argument that is a file or folder to read, or a pattern for one."""
    try:
        found = expand_paths(file_path(text), "", folders=True)
    except InputError:
        raise argparse.ArgumentTypeError(f"no file matches {text!r}") from None
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is {len(found)} files, {found[0]} and others; give one")
    return found[0]


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


def positive_number(text: str) -> float:
    """The type of an argument that is a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value

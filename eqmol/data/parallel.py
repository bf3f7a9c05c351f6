"""Work shared by several processes, with a progress bar."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from eqmol.errors import InputError


def run_parallel(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    what: str,
    workers: int | None = None,
    console: Console | None = None,
) -> list[Any]:
    """Return ``function(*task)`` of each task in their order, by several processes and with a progress bar."""
    count = min(workers or num_cores(), len(tasks))
    if count <= 1:
        return _collect((_apply((function, task)) for task in tasks), len(tasks), what, console)
    # a fresh process would spend seconds on its imports
    method = "fork" if "fork" in get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(count, get_context(method), _ignore_interrupts) as pool:
        try:
            return _collect(pool.map(_apply, [(function, task) for task in tasks]), len(tasks), what, console)
        except BrokenProcessPool:
            raise InputError(
                f"one of {count} processes was killed, perhaps for lack of memory; try again with fewer (--workers)"
            ) from None


def num_cores() -> int:
    """Return how many processes can run at once."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _collect(results: Iterable[Any], total: int, what: str, console: Console | None) -> list[Any]:
    if console is None:
        return list(results)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        return list(progress.track(results, total, description=what))


def _apply(call: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    function, arguments = call
    return function(*arguments)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

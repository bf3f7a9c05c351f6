"""Work in parts that threads of this process take one after another: the parts are the same whatever the number of threads."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch

_number: ContextVar[int] = ContextVar("threads", default=0)


def number() -> int:
    """Threads that work is divided among: torch's, or those that it had outside of :func:`alone`."""
    return _number.get() or torch.get_num_threads()


@contextmanager
def alone() -> Iterator[None]:
    """Divide work by :func:`each` alone.

    Torch's threads wait for each other after every operation: a little while by spinning, which holds up those of :func:`each`, and
    for as long as another run keeps one of them from its core.
    """
    own, threads = torch.get_num_threads(), number()
    if own == 1:
        yield
        return
    torch.set_num_threads(1)
    before = _number.set(threads)
    try:
        yield
    finally:
        _number.reset(before)
        torch.set_num_threads(own)


def each_slice(task: Callable[[slice], object], rows: int, most: int) -> None:
    """Call a task, as :func:`each` does, for slices of about the same size that make up all rows, of at most ``most`` each."""
    parts = -(-rows // most)
    each(lambda i: task(slice(rows * i // parts, rows * (i + 1) // parts)), parts)


def each(task: Callable[[int], object], parts: int, chain: int = 1) -> None:
    """Call a task, which records no derivatives, for 0, 1, ... ``parts`` - 1.

    ``chain`` parts that follow each other are done in their order, never two at a time.

    Every thread begins with a share of its own, the same every time, which its core may have in its cache, and then helps the
    others: one that another run holds up is waited for no longer than for the part that it is at.
    """
    chains = parts // chain
    threads = min(number(), chains)
    if threads < 2:
        for part in range(parts):
            task(part)
        return
    shares = [
        deque(
            range(chain * i, chain * (i + 1)) for i in range(chains * first // threads, chains * (first + 1) // threads)
        )
        for first in range(threads)
    ]

    def work(first: int) -> None:
        torch.get_num_threads()  # sets those of this thread, which matrix products else choose themselves
        with torch.no_grad():
            for share in (*shares[first:], *shares[:first]):
                while left := _take(share):
                    task(left[0])
                    if len(left) > 1:
                        share.append(left[1:])

    # threads that begin meanwhile have no torch threads of their own
    with alone():
        others = [_pool(os.getpid(), number()).submit(work, i) for i in range(1, threads)]
        try:
            work(0)
        finally:
            # whoever has not begun yet would find nothing left
            errors = [other.exception() for other in others if not other.cancel()]
    for error in errors:
        if error is not None:
            raise error


def _take(share: deque[range]) -> range | None:
    """A chain of parts that nobody is at."""
    try:
        return share.popleft()
    except IndexError:
        return None


@lru_cache(maxsize=1)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child gets its own."""
    return ThreadPoolExecutor(threads, "eqmol")

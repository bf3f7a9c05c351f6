"""Calls of kernels that are made again on the same memory, without looking at tensors in between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Step = Callable[[], object]

_steps: ContextVar[list[Step] | None] = ContextVar("steps", default=None)


def do(step: Step) -> None:
    """Do something now, and again whenever steps that are recorded around it are repeated."""
    step()
    note(step)


def note(step: Step) -> None:
    """Do something whenever steps that are recorded around it are repeated."""
    steps = _steps.get()
    if steps is not None:
        steps.append(step)


@contextmanager
def recorded() -> Iterator[list[Step]]:
    """What :func:`do` and all kernels do inside; called one after another, the steps do it again."""
    steps: list[Step] = []
    before = _steps.set(steps)
    try:
        yield steps
    finally:
        _steps.reset(before)

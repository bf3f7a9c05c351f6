"""How far the run is, and which learning rate belongs there.

The fraction of the run, `progress`, is steps / (steps of all epochs), or trained / (time for training) when that is further;
of ``trainer.max_time`` the latter is what set-up and evaluation leave (:mod:`eqmol.train.deadline`). So a run with a time limit
anneals completely within its time, whatever the machine; a run without one depends on nothing but its steps and is repeatable
bit for bit.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from eqmol.errors import InputError

#: Part of the time after which steps tell how many there will be; the first ones are slow.
SEEN = 0.1


@dataclass(frozen=True)
class Budget:
    """What ends a run.

    Args:
        steps: optimiser steps of all epochs, or None for no limit.
        seconds: training time of all sessions together, or None for no limit.
    """

    steps: int | None
    seconds: float | None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise InputError("the run would never end: give trainer.max_epochs or trainer.max_time")

    def progress(self, step: int, elapsed: float) -> float:
        """Return the fraction of the run after ``step`` steps and ``elapsed`` seconds, in [0, 1]."""
        return min(max(self.by_steps(step), self.by_time(elapsed)), 1.0)

    def by_steps(self, step: int) -> float:
        """Return the fraction of the steps; 0 without a limit."""
        return 0.0 if self.steps is None else step / max(self.steps, 1)

    def by_time(self, elapsed: float) -> float:
        """Return the fraction of the seconds; 0 without a limit."""
        if self.seconds is None:
            return 0.0
        return elapsed / self.seconds if self.seconds > 0 else 1.0

    def expected_steps(self, step: int, elapsed: float) -> int | None:
        """Return the steps of the whole run, as it goes: those that the time allows where it ends first, once that is seen."""
        share = self.by_time(elapsed)
        return round(step / share) if share > max(SEEN, self.by_steps(step)) else self.steps


def parse_duration(text: str) -> float:
    """Return the seconds of "DD:HH:MM:SS".

    Raises:
        InputError: another form, or no time at all.
    """
    parts = str(text).split(":")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise InputError(f"trainer.max_time={text} must have the form DD:HH:MM:SS, e.g. 00:00:30:00 for half an hour")
    days, hours, minutes, seconds = map(int, parts)
    duration = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if duration == 0:
        raise InputError(f"trainer.max_time={text} leaves no time to train")
    return duration


#: Part of the run that a warm-up takes at most.
WARMUP_SHARE = 0.1


class Schedule(ABC):
    """A learning rate over a run, as a factor of the optimiser's own; by itself without a memory."""

    @abstractmethod
    def factor(self, step: int, progress: float) -> float:
        """Return the factor for optimiser step ``step`` (from 0) at a fraction ``progress`` of the run."""

    def validated(self, score: float) -> None:  # noqa: B027  not every schedule listens
        """Take note of a validation loss."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over what :meth:`state_dict` returned."""


class Cosine(Schedule):
    """Linear warm-up, then half a cosine from 1 down to a floor (Loshchilov and Hutter, arXiv:1608.03983, eq. 5).

    Args:
        warmup_steps: steps until the full learning rate; a tenth of the run if that is less.
        floor: the factor at the end of the run.
    """

    def __init__(self, warmup_steps: int = 50, floor: float = 0.01):
        self.warmup_steps = warmup_steps
        self.floor = floor

    def factor(self, step: int, progress: float) -> float:
        """Return the factor at a step."""
        cosine = self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return _warmup(step, self.warmup_steps, progress) * cosine


class Plateau(Schedule):
    """Linear warm-up, then a reduction whenever the validation loss has not improved for a while.

    Args:
        warmup_steps: steps until the full learning rate; a tenth of the run if that is less.
        factor: what the learning rate is multiplied with.
        patience: validations without improvement that are still accepted.
        threshold: relative improvement that counts.
        floor: lowest factor.
    """

    def __init__(
        self,
        warmup_steps: int = 50,
        factor: float = 0.8,
        patience: int = 10,
        threshold: float = 1e-3,
        floor: float = 0.001,
    ):
        self.warmup_steps = warmup_steps
        self.reduction = factor
        self.patience = patience
        self.threshold = threshold
        self.floor = floor
        self._best = math.inf
        self._waited = 0
        self._factor = 1.0

    def factor(self, step: int, progress: float) -> float:
        """Return the factor at a step."""
        return _warmup(step, self.warmup_steps, progress) * self._factor

    def validated(self, score: float) -> None:
        """Count validations without improvement, and reduce when there are too many."""
        if score < self._best * (1.0 - self.threshold):
            self._best, self._waited = score, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self._factor, self._waited = max(self._factor * self.reduction, self.floor), 0

    def state_dict(self) -> dict[str, Any]:
        """Return the count, the best score and the present factor."""
        return {"best": self._best, "waited": self._waited, "factor": self._factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._best, self._waited, self._factor = float(state["best"]), int(state["waited"]), float(state["factor"])


def _warmup(step: int, warmup_steps: int, progress: float) -> float:
    """Return the factor of a linear warm-up that reaches 1 at step ``warmup_steps`` or after ``WARMUP_SHARE`` of the run."""
    return min(max((step + 1) / (warmup_steps + 1), progress / WARMUP_SHARE), 1.0)

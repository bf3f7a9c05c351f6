"""When training ends, so that evaluation, tables and figures are ready in the time that the run has.

That time is ``trainer.max_time``, of all starts together and from the beginning of their processes, and what is left of a
queue's job. Of either a reserve is kept for what follows the training: the time of the last validation, by atoms and pairs, for
those of the structures that are then evaluated, and some seconds for the model file, tables and figures. What the machine does
besides changes, so the reserve is measured again at every validation, and the evaluation of the training set, a sample in random
order, ends early where it would take longer than there is time for.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from time import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from eqmol.errors import InputError
from eqmol.train import processes, stop
from eqmol.train.task import Task

SHARE = 0.05  #: of the time, kept at least
TRAINING_SHARE = 0.1  #: of the time, kept at most for the evaluation of the training set
FINISH_SECONDS = 5.0  #: of the processor, for loading the model, tables and figures
BUSIEST = 10.0  #: times as long as the processor works: what a busy machine is taken for at most
TOLD = 0.2  #: change of the reserve, relative, from which on it is said again
MARGIN = 1.5  #: times what one batch tells, until a validation is measured: it has neither a loader nor errors to sum
JOB_END = "SLURM_JOB_END_TIME"  #: seconds since 1970; SLURM sets it


@dataclass(eq=False)
class Deadline(Callback):
    """Says when to stop the training.

    The reserve is estimated from one batch before the training, then measured at every validation, and kept in the checkpoint.
    Must stand after the callback that writes the best model, whose time counts.

    Args:
        clock: of the run.
        max_time: seconds of all starts, or None.
        job_end: seconds since 1970 at which a queue ends the process, or None.
        structures: to be evaluated after the training.
        work: atoms and pairs of theirs, by the name of the set; the training set is the first.
        validated: the same of a validation in this process.
        first: the same of its first batch.
        console: where to print.

    Attributes:
        reserve: seconds for what follows the training, without and for the evaluation of the training set; None until they
            are measured.
        until: training seconds of all starts at which to stop.
        by_job: whether that is because of the queue.
    """

    clock: stop.Clock
    max_time: float | None
    job_end: float | None
    structures: int
    work: Mapping[str, int]
    validated: int
    first: int
    console: Console
    reserve: tuple[float, float] | None = field(default=None, init=False)
    until: float = field(default=math.inf, init=False)
    by_job: bool = field(default=False, init=False)
    _estimate: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    _besides: float = field(default=0.0, init=False)
    _job: tuple[float, float] | None = field(default=None, init=False)
    _began: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    _finish: float = field(default=FINISH_SECONDS, init=False)
    _told: float = field(default=0.0, init=False)
    _trains: bool = field(default=False, init=False)

    @property
    def is_limited(self) -> bool:
        """Whether the run has a limited time."""
        return self.max_time is not None or self.job_end is not None

    def estimate(self, task: Task, make: Callable[[], Any]) -> None:
        """Estimate the reserve of a run with a limited time.

        Args:
            task: with its model.
            make: returns the first batch of a validation, on the device of the model.
        """
        if not self.is_limited:
            return
        task.eval()
        task(make())  # fills tables
        began = now()
        task(make())
        self._estimate = self._following(began, self.first, MARGIN)
        task.train()

    def check(self) -> None:
        """Refuse limits that leave a new run no time to train.

        Raises:
            InputError: they do.
        """
        spent, left = processes.of_first((self.clock.besides(), self._job_left()))
        for what, length in (("trainer.max_time is", self.max_time), ("the job has", left and spent + left)):
            if length is not None and spent + self.kept(length) >= length:
                raise InputError(
                    f"{what} {length:.0f} s, which leaves no time to train: imports, data and set-up took {spent:.0f} s, "
                    f"and {self.kept(length):.0f} s are kept for the evaluation of {self.structures} structures; give more"
                )

    def begin(self) -> None:
        """Set the deadline, now that everything is restored and the training begins, and say it.

        Raises:
            InputError: see :meth:`check`.
        """
        elapsed, self._besides, left = processes.of_first(
            (self.clock.elapsed(), self.clock.besides(), self._job_left())
        )
        if left is not None:
            self._job = (elapsed + left, left)
        if elapsed == 0.0:
            self.check()
        self._set()

    def kept(self, length: float) -> float:
        """Return the seconds of a limit that are kept for what follows the training."""
        needed, training = self._estimate if self.reserve is None else self.reserve
        return max(SHARE * length, needed + min(training, TRAINING_SHARE * length))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure."""
        self._began = now()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the reserve."""
        if not self.is_limited:
            return
        first, self.reserve = self.reserve is None, self._following(self._began, self.validated)
        self._set(first)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take note that this start of the run trains."""
        self._trains = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that a run is not complete."""
        if self.by_job and self.clock.seen >= self.until:
            self._say("the training stops here, before the job ends, and is not complete; resume=auto continues it")

    def state_dict(self) -> dict[str, Any]:
        """Return the reserve."""
        return {"reserve": self.reserve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        reserve = state_dict["reserve"]
        self.reserve = None if reserve is None else (float(reserve[0]), float(reserve[1]))

    def watch(self, name: str) -> Callable[[float], bool]:
        """Begin the evaluation of a set; return what tells, given the part that is done, whether to end it there.

        Only the training set may end early, and only if this start of the run has trained.
        """
        own, *further = self.work.values()
        first: tuple[float, float] | None = None  # whose batch fills tables, and tells no pace

        def is_over(done: float) -> bool:
            nonlocal first
            if first is None:
                first = stop.monotonic(), done
                pace = (self.reserve or self._estimate)[1] / own
            else:
                pace = (stop.monotonic() - first[0]) / ((done - first[1]) * own)
            return self._left() < pace * sum(further) + self._finish

        return is_over if self._trains and name == next(iter(self.work)) else lambda _: False

    def _following(self, began: tuple[float, float], done: int, margin: float = 1.0) -> tuple[float, float]:
        """Return the seconds of one more validation and of what follows the training, the same in all processes: without and for
        the evaluation of the training set.

        Args:
            began: when the work was begun that tells the pace.
            done: its atoms and pairs.
            margin: times so long.
        """
        wall, processor = (end - begin for begin, end in zip(began, now(), strict=True))
        busy = min(max(wall / max(processor, 1e-9), 1.0), BUSIEST)
        own, *further = self.work.values()
        pace, self._finish = processes.highest(margin * wall / done, busy * FINISH_SECONDS)
        return pace * (self.validated + sum(further)) + self._finish, pace * own

    def _left(self) -> float:
        """Return the seconds until the run, or its job, must be over."""
        spent = self.clock.elapsed() + self.clock.besides()
        left = [] if self.max_time is None else [self.max_time - spent]
        return min([*left, *([] if self.job_end is None else [self.job_end - time()])], default=math.inf)

    def _job_left(self) -> float | None:
        """Return the seconds until the end of the job."""
        return None if self.job_end is None else self.job_end - time()

    def _set(self, say: bool = True) -> None:
        """Set the deadline; say it, at least where it changed much."""
        limits = []
        if self.max_time is not None:
            self.clock.limit = max(self.max_time - self.kept(self.max_time) - self._besides, 0.0)
            limits.append((self.clock.limit, self.kept(self.max_time)))
        if self._job is not None:
            end, left = self._job
            limits.append((end - self.kept(left), self.kept(left)))
            self.by_job = limits[-1] == min(limits)
        if not limits:
            return
        self.until, kept = min(limits)
        if not say and abs(kept - self._told) <= TOLD * self._told:
            return
        self._told = kept
        ending = f" until the job ends at {datetime.fromtimestamp(self.job_end or 0.0)}" if self.by_job else ""
        self._say(
            f"time{ending}: {shown(self._besides)} went by before the training, {shown(self.until)} are for it, {shown(kept)} are "
            f"kept for the evaluation of {self.structures} structures, tables and figures "
            f"({'estimated' if self.reserve is None else 'measured'})"
        )

    def _say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True, highlight=False)


def now() -> tuple[float, float]:
    """Return the seconds of a clock, and those that the processor worked for this process."""
    return stop.monotonic(), stop.process_time()


def job_end() -> float | None:
    """Return when SLURM ends the job that this process is part of, in seconds since 1970; None elsewhere."""
    text = os.environ.get(JOB_END, "")
    if not text:
        return None
    if not text.isdecimal():
        warnings.warn(f"{JOB_END}={text} is no time, so the end of the job is not known", stacklevel=2)
        return None
    return float(text)


def shown(seconds: float) -> str:
    """Return a duration for a person: "85 s", "12 min 5 s", "3 h 20 min"."""
    whole = round(max(seconds, 0.0))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

"""What ends a run before its last epoch: the clock and the user."""

import os
import signal
import threading
import time
from time import monotonic, process_time  # noqa: F401 (the clocks of a run)
from types import FrameType
from typing import Any, Self

import psutil

SUBMITIT = "SUBMITIT_EXECUTOR"  #: set in jobs of submitit


class Interrupted(BaseException):
    """The user, or the queue, asked the run to stop.

    Args:
        signum: by which signal.
        at_once: in the middle of whatever it did, without a checkpoint.
    """

    def __init__(self, signum: int, at_once: bool = False):
        super().__init__(f"stopped {'at once ' * at_once}by {signal.Signals(signum).name}")
        self.signum = signum
        self.at_once = at_once


def process_start() -> float:
    """Return when this process began, as :func:`time.monotonic` tells; the interpreter and its imports came after."""
    return monotonic() - max(time.time() - psutil.Process().create_time(), 0.0)


class Clock:
    """Time of a run over all its starts, in seconds: of the training, and of all else since the processes began.

    Args:
        began: when this start of the run began, as :func:`time.monotonic` tells; None for now.

    Attributes:
        seen: trained seconds at the last look, the same in all processes.
        limit: trained seconds at which the schedule ends, or None.
    """

    def __init__(self, began: float | None = None) -> None:
        self.seen = 0.0
        self.limit: float | None = None
        self._began = monotonic() if began is None else began
        self._before = 0.0
        self._besides = 0.0
        self._started: float | None = None
        self._stopped: float | None = None
        self._lap_began = 0.0

    def start(self) -> None:
        """Begin to count the training."""
        self._started, self._stopped = monotonic(), None

    def stop(self) -> None:
        """End the training."""
        self._stopped = monotonic()

    def elapsed(self) -> float:
        """Return the seconds trained so far."""
        if self._started is None:
            return self._before
        return self._before + (monotonic() if self._stopped is None else self._stopped) - self._started

    def besides(self) -> float:
        """Return the seconds that were no training: imports, reading, evaluation."""
        return self._besides + monotonic() - self._began - (self.elapsed() - self._before)

    def begin_lap(self) -> None:
        """Begin an epoch."""
        self._lap_began = self.elapsed()

    def lap(self) -> float:
        """Return the seconds of the present epoch."""
        return self.elapsed() - self._lap_began

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"elapsed": self.elapsed(), "besides": self.besides(), "lap_began": self._lap_began}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from an earlier start."""
        self._before, self._besides = float(state["elapsed"]), float(state["besides"])
        self._lap_began = float(state["lap_began"])


def hand_over(signum: int) -> None:
    """Let submitit, if it runs this job, do what it does at a signal: queue the job again, if it is the one of pre-emption."""
    if SUBMITIT in os.environ:
        signal.raise_signal(signum)


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a request that the run grants between two batches; a second one stops at once.

    An exception in the middle of an optimiser step would leave weights that no uninterrupted run ever has. So does submitit's
    signal of pre-emption, which its own handler would take in the middle.

    Args:
        announce: say so.
    """

    def __init__(self, announce: bool = True) -> None:
        self.announce = announce
        self.requested: int | None = None
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        signals = [signal.SIGINT, signal.SIGTERM]
        if SUBMITIT in os.environ:
            signals.append(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
        self._previous = {signum: signal.getsignal(signum) for signum in signals}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals, also from whoever took them since; Lightning's handler waits for other processes and hangs."""
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for signum in self._previous:
                signal.signal(signum, self._handle)

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)
        self._previous.clear()

    def check(self) -> None:
        """Raise :class:`Interrupted` if a stop was requested."""
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        """Take note of the first request; stop at the second."""
        if os.getpid() != self._owner:  # a terminal sends Ctrl-C to the data workers too, which inherit this handler
            return
        if self.requested is not None:
            raise Interrupted(signum, at_once=True)
        self.requested = signum
        if self.announce:
            os.write(2, b"\nstopping after this batch; once more to stop at once\n")  # print() is not safe in a handler

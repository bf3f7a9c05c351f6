"""A training that ends for no known reason is a failed one.

Lightning's loops take a StopIteration from any hook for the end of the data, and two other exceptions for a wish to stop.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler

from eqmol.errors import InputError, NoRoomError
from eqmol.files import no_room
from eqmol.train.resume import LastCheckpoint
from eqmol.train.stop import Interrupted
from eqmol.train.task import NonFiniteLossError

LONGEST_REASON = 300  #: characters of another library's message that are shown


class Guard(PassThroughProfiler):
    """Makes an ordinary error of a StopIteration: Lightning calls every hook inside a context of its profiler."""

    def profile(self, action_name: str) -> "Hook":  # type: ignore[override]  # a generator would let StopIteration pass
        """Return what one hook runs in."""
        return Hook(action_name)


class Hook:
    """The context of one hook.

    Args:
        name: what failed, if it fails.
    """

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, StopIteration):
            raise RuntimeError(f"StopIteration in {self.name}") from error


def watch(logger: Logger) -> Logger:
    """Guard the one method of a logger that Lightning calls outside of hooks."""
    save = logger.save

    @wraps(save)
    def guarded() -> None:
        with Hook(f"{type(logger).__name__}.save"):
            save()

    setattr(logger, "save", guarded)  # noqa: B010 (a method is assigned on purpose)
    return logger


def fit(
    trainer: pl.Trainer, task: pl.LightningModule, train_loader: Any, val_loader: Any, checkpoint: Path | None = None
) -> None:
    """Train until the epochs are over, the time is over or the model no longer improves.

    Args:
        trainer: its last callback is :class:`LastCheckpoint`.
        task: what to train.
        train_loader: batches.
        val_loader: batches.
        checkpoint: where the run continues.

    Raises:
        InputError: the checkpoint does not fit the run.
        NoRoomError: the disk is full.
        RuntimeError: the training ended otherwise.
    """
    last = trainer.callbacks[-1]  # type: ignore[attr-defined]
    assert isinstance(last, LastCheckpoint)
    try:
        with _quiet_threads():
            trainer.fit(task, train_loader, val_loader, ckpt_path=checkpoint, weights_only=True)
    except (InputError, NonFiniteLossError, Interrupted):
        raise
    except Exception as error:
        if isinstance(error, OSError) and no_room(error):  # of a logger, which names no file
            raise NoRoomError(
                f"cannot write in {trainer.default_root_dir}: {error.strerror}; make room, or write to another disk"
            ) from None
        if checkpoint is None or last.began:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        raise InputError(f"{checkpoint} does not fit this run ({reason}); give another one, or start anew") from error
    except BaseException as error:  # SystemExit(0) would look like success
        raise RuntimeError(f"the training was ended by {type(error).__name__}") from error
    epochs, complete = trainer.current_epoch, trainer.max_epochs
    if not (trainer.should_stop or (complete is not None and 0 <= complete <= epochs)):
        raise RuntimeError(f"the training ended after {epochs} epochs for no known reason")


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Let a logger's thread end without a traceback where the disk is full, which its owner tells."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is None or not no_room(arguments.exc_value):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before

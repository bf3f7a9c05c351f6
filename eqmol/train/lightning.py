"""Lightning's habits that a run cannot live with, and what is done about each.

Here:

- its loops take a StopIteration from any hook for the end of the data: :class:`Guard`, :func:`watch`;
- two exceptions end a fit as if it were over, and so does a loop that stops for no reason: :func:`fit`;
- the threads of its loggers show tracebacks where the disk is full: :func:`fit`;
- its sampler, progress bar, checkpoints and summary replace those of the run: :func:`make_trainer`;
- its hints are about choices made here on purpose: :func:`quiet`.

Elsewhere, as a callback or a task must do it:

- it updates plateau schedules only after the checkpoint of an epoch is written: :meth:`eqmol.train.task.Task.configure_optimizers`;
- it restores the loader of an unfinished epoch only, and draws random numbers when it opens it:
  :meth:`eqmol.train.resume.LastCheckpoint.on_train_start`;
- it reads the checkpoint a second time, after it was checked, and writes it by way of another folder:
  :class:`eqmol.train.resume.CheckpointFile`;
- it ignores a callback whose state is missing: :meth:`eqmol.train.resume.LastCheckpoint.on_load_checkpoint`;
- it takes the average of the weights for the weights where one is missing: :meth:`eqmol.train.ema.EMA.on_load_checkpoint`;
- its handler of SIGTERM waits for other processes and hangs: :meth:`eqmol.train.stop.Interrupt.listen`.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from eqmol.data.datamodule import GraphSets
from eqmol.errors import InputError, NoRoomError
from eqmol.files import no_room
from eqmol.train import processes
from eqmol.train.folder import RunFolder
from eqmol.train.resume import CheckpointFile, LastCheckpoint
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


def fit(trainer: pl.Trainer, task: pl.LightningModule, data: GraphSets, checkpoint: Path | None = None) -> None:
    """Train until the epochs are over, the time is over or the model no longer improves.

    Args:
        trainer: its last callback is :class:`LastCheckpoint`.
        task: what to train.
        data: training and validation sets.
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
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
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
        if isinstance(error, SystemExit) and isinstance(
            error.__context__, BrokenPipeError
        ):  # rich's: nobody reads the screen
            raise
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


def make_trainer(settings: DictConfig, logger: DictConfig, out: RunFolder, callbacks: list[Callback]) -> pl.Trainer:
    """Return the trainer of a run; ``settings`` are those of ``conf/trainer``."""
    return pl.Trainer(
        default_root_dir=out.path,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        # every step has the same graph, which may leave out a head; buffers are tables that never change
        strategy=DDPStrategy(static_graph=True, broadcast_buffers=False) if processes.several() else "auto",
        use_distributed_sampler=False,  # the loaders know which batches are whose
        max_epochs=-1 if settings.max_epochs is None else settings.max_epochs,
        gradient_clip_val=settings.gradient_clip_val,
        check_val_every_n_epoch=settings.check_val_every_n_epoch,
        num_sanity_val_steps=0,
        inference_mode=False,  # forces need autograd in validation
        logger=watch(instantiate(logger)) if logger else False,
        profiler=Guard(),
        plugins=CheckpointFile(out.state),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's hints."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)  # number of workers, logging interval
            for name in ("LeafSpec", "broadcast_buffers"):  # Lightning's own use of torch
                warnings.filterwarnings("ignore", f".*{name}.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

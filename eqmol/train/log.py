"""What a run says while it trains: ``log.csv``, TensorBoard, and the screen."""

import csv
import io
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from eqmol.data.loader import ResumableLoader
from eqmol.errors import InputError
from eqmol.files import append, replacing
from eqmol.train import tables
from eqmol.train.export import BestModel
from eqmol.train.stop import Clock
from eqmol.train.task import Task
from eqmol.units import number

COLUMNS = ("epoch", "step", "seconds", "learning_rate", "train_loss", "gradient_norm", "val_loss")


def columns(task: Task) -> tuple[str, ...]:
    """Return the columns of ``log.csv``."""
    return (*COLUMNS, *(f"val_{name}" for name in tables.columns(task.targets)), "best")


@dataclass(eq=False)
class EpochLog(Callback):
    """Append one row per epoch to ``log.csv``, and the same numbers to the loggers.

    Args:
        path: the CSV file. A resumed run drops the rows after its checkpoint.
        clock: times the epochs.
        best: says whether the validation improved.
    """

    path: Path
    clock: Clock
    best: BestModel
    row: dict[str, float | int | str] = field(default_factory=dict, init=False)
    _validated: bool = field(default=False, init=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows of completed epochs, or begin a new file."""
        assert isinstance(pl_module, Task)
        if not trainer.is_global_zero:
            return
        rows = read_rows(self.path) if self.path.exists() else []
        if any(row.keys() != set(columns(pl_module)) for row in rows):
            raise InputError(f"{self.path} has other columns than this run; move it away to go on with a new one")
        kept = [row for row in rows if int(row["epoch"]) <= trainer.current_epoch]
        with replacing(self.path) as file:
            csv.writer(file, lineterminator="\n").writerow(columns(pl_module))
            csv.DictWriter(file, columns(pl_module), lineterminator="\n").writerows(kept)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has a validation."""
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the row."""
        assert isinstance(pl_module, Task)
        self.row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "seconds": round(self.clock.lap(), 3),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "train_loss": pl_module.train_loss.value,
            "gradient_norm": pl_module.gradient_norm.value,
        }
        if self._validated:
            errors = pl_module.validation.errors.summary()
            self.row["val_loss"] = pl_module.validation.score
            self.row |= {f"val_{name}": errors[name] for name in tables.columns(pl_module.targets) if name in errors}
            self.row["best"] = int(self.best.improved)
        self._validated = False
        if not trainer.is_global_zero:
            return
        line = io.StringIO()
        csv.DictWriter(line, columns(pl_module), lineterminator="\n").writerow(self.row)
        append(self.path, line.getvalue())
        for logger in trainer.loggers:
            scalars = {name: float(value) for name, value in self.row.items() if name not in ("epoch", "step")}
            logger.log_metrics(scalars, step=trainer.global_step)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a ``log.csv``; a killed run may have left half a line at the end.

    Raises:
        InputError: another kind of file, damaged, or with epochs out of order.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), strict=True))
        epochs = [int(row["epoch"]) for row in rows]
        whole = all(None not in row and None not in row.values() for row in rows)
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{path} is not the log of a run; move it away to go on with a new one") from None
    if not whole or any(later <= earlier for earlier, later in pairwise(epochs)):
        raise InputError(f"{path} is damaged (row by row, not every epoch once); move it away to go on with a new one")
    return rows


class Screen(Callback):
    """One line per epoch, on a terminal above a progress bar.

    Must stand after :class:`EpochLog`, whose row it shows.

    Args:
        console: where to write.
        log: holds the numbers.
    """

    def __init__(self, console: Console, log: EpochLog):
        self.console = console
        self.epoch_log = log
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TimeRemainingColumn(compact=True))
        self._bar = Progress(
            *columns, console=console, refresh_per_second=4, transient=True, disable=not console.is_terminal
        )
        self._line = self._bar.add_task("", total=1.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the epoch at once, however short it is."""
        assert isinstance(pl_module, Task)
        self._bar.update(self._line, description=_epoch(trainer, pl_module), refresh=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Move the bar."""
        assert isinstance(pl_module, Task)
        self._bar.update(self._line, completed=pl_module.progress, description=_epoch(trainer, pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the numbers of the epoch."""
        assert isinstance(pl_module, Task)
        row = self.epoch_log.row
        parts = [
            _epoch(trainer, pl_module),
            f"loss {number(float(row['train_loss']))}",
            tables.describe(pl_module.targets, row),
        ]
        loader = trainer.train_dataloader
        if isinstance(loader, ResumableLoader) and loader.replayed > 0:
            parts.append(f"replay {100 * loader.replayed:.0f} %")
        parts += [f"lr {row['learning_rate']:.2g}", f"{row['seconds']:.1f} s", "best" if row.get("best") else ""]
        self.console.print("  ".join(part for part in parts if part), soft_wrap=True, highlight=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the terminal."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal."""
        self._bar.stop()


def _epoch(trainer: pl.Trainer, task: Task) -> str:
    """Return "epoch 3/100", or "epoch 3" where the time ends the run first."""
    limited = trainer.max_epochs is not None and trainer.max_epochs > 0 and not task.ends_by_time
    return f"epoch {trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if limited else "")

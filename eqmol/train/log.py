"""What a run says while it trains: ``log.csv``, TensorBoard, and the screen."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eqmol.files import replacing
from eqmol.train.export import BestModel
from eqmol.train.stop import Clock
from eqmol.train.task import Task

VALIDATION_COLUMNS = tuple(
    f"{name}_{kind}_{unit}"
    for name, unit in (("energy", "mev_per_atom"), ("forces", "mev_per_a"), ("stress", "mev_per_a3"))
    for kind in ("mae", "rmse")
)
COLUMNS = (
    "epoch",
    "step",
    "seconds",
    "learning_rate",
    "train_loss",
    "gradient_norm",
    "val_loss",
    *(f"val_{name}" for name in VALIDATION_COLUMNS),
    "best",
)


class EpochLog(Callback):
    """Append one row per epoch to ``log.csv``, and the same numbers to the loggers.

    Args:
        path: the CSV file. A resumed run drops the rows after its checkpoint.
        clock: times the epochs.
        best: says whether the validation improved.
    """

    def __init__(self, path: Path, clock: Clock, best: BestModel):
        self.path = path
        self.clock = clock
        self.best = best
        self.row: dict[str, float | int | str] = {}
        self._validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows of completed epochs, or begin a new file."""
        rows = read_rows(self.path) if self.path.exists() else []
        kept = [row for row in rows if int(row["epoch"]) <= trainer.current_epoch]
        with replacing(self.path) as file:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerows(kept)

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
            self.row |= {f"val_{name}": errors[name] for name in VALIDATION_COLUMNS if name in errors}
            self.row["best"] = int(self.best.improved)
        self._validated = False
        line = io.StringIO()
        csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(self.row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line.getvalue())
        for logger in trainer.loggers:
            scalars = {name: float(value) for name, value in self.row.items() if name not in ("epoch", "step")}
            logger.log_metrics(scalars, step=trainer.global_step)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a ``log.csv``; a killed run may have left half a line at the end."""
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(io.StringIO(complete)))


class Screen(Callback):
    """A progress bar on a terminal; one plain line per epoch elsewhere.

    Must stand after :class:`EpochLog`, whose row it shows.

    Args:
        console: where to write.
        log: holds the numbers.
        best: says which epoch is best.
    """

    def __init__(self, console: Console, log: EpochLog, best: BestModel):
        self.console = console
        self.log_row = log
        self.best = best
        self._bar = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            refresh_per_second=4,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        if not self.console.is_terminal:
            return
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        self._task = self._bar.add_task("", total=epochs, completed=trainer.current_epoch, state="")
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Move the bar by a fraction of an epoch."""
        if self.console.is_terminal:
            done = trainer.current_epoch + (trainer.fit_loop.batch_idx + 1) / max(trainer.num_training_batches, 1)
            self._bar.update(self._task, completed=round(done, 2))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the numbers of the epoch."""
        text = describe(self.log_row.row)
        if self.console.is_terminal:
            self._bar.update(self._task, completed=trainer.current_epoch + 1, state=text)
            return
        epochs = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        mark = "  best" if self.best.improved else ""
        line = f"epoch {trainer.current_epoch + 1}{epochs}  {text}  {self.log_row.row['seconds']:.1f} s{mark}"
        self.console.print(line, soft_wrap=True, highlight=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the terminal."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal."""
        self._bar.stop()


def describe(row: dict[str, Any]) -> str:
    """Return the numbers of a row for a reader, e.g. "loss 0.0123  val: E 1.2 meV/atom, F 45.6 meV/Å"."""
    parts = [f"loss {row['train_loss']:.3g}"]
    shown = (
        ("E", "val_energy_rmse_mev_per_atom", "meV/atom"),
        ("F", "val_forces_rmse_mev_per_a", "meV/Å"),
        ("S", "val_stress_rmse_mev_per_a3", "meV/Å³"),
    )
    errors = [f"{name} {row[key]:.3g} {unit}" for name, key, unit in shown if math.isfinite(row.get(key, math.nan))]
    if errors:
        parts.append("val RMSE " + ", ".join(errors))
    parts.append(f"lr {row['learning_rate']:.2g}")
    return "  ".join(parts)

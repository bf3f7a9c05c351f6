"""``model.safetensors``: the best model of a run."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from eqmol import checkpoint
from eqmol.errors import InputError
from eqmol.models.predictor import Predictor
from eqmol.train.ema import EMA
from eqmol.train.task import Task


@dataclass(eq=False)
class BestModel(Callback):
    """Write the model whenever its validation loss is the lowest so far.

    Args:
        path: where; holds the best model from the first validation on.
        run: the run's name, which the file keeps.
        ema: whose averages are saved, or None to save the raw weights.
    """

    path: Path
    run: str
    ema: EMA | None
    score: float = field(default=math.inf, init=False)
    epoch: int = field(default=0, init=False)
    improved: bool = field(default=False, init=False)  # by the last validation

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and save."""
        assert isinstance(pl_module, Task)
        validation = pl_module.validation
        self.improved = validation.score < self.score
        if not self.improved:
            return
        self.score, self.epoch = validation.score, trainer.current_epoch + 1
        module = pl_module if self.ema is None else self.ema.averaged
        assert isinstance(module, Task)
        assert isinstance(module.predictor, Predictor)
        if not trainer.is_global_zero:
            return
        metrics = {"epoch": self.epoch, "step": trainer.global_step, "val_loss": self.score, "run": self.run}
        checkpoint.save(module.predictor, self.path, metrics=metrics | {"val": validation.errors.summary()})

    def state_dict(self) -> dict[str, Any]:
        """Return the best score."""
        return {"score": self.score, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from it, or from the model file where that is better.

        The file may be ahead: it is written at the validation, the checkpoint after it, and a run that the clock ended
        inside an epoch validated once more.
        """
        if not self.path.exists():
            return
        self.score, self.epoch = float(state_dict["score"]), int(state_dict["epoch"])
        score, epoch = best_of(self.path, self.run)
        if score < self.score:
            self.score, self.epoch = score, epoch


def best_of(path: Path, run: str) -> tuple[float, int]:
    """Return validation loss and epoch of the best model of a run.

    Raises:
        InputError: the file is damaged, or not from this run.
    """
    checkpoint.load(path, verify=False)
    saved = checkpoint.read_header(path).document["metrics"]
    score, epoch = saved.get("val_loss"), saved.get("epoch")
    if saved.get("run") != run or type(score) is not float or type(epoch) is not int:
        raise InputError(
            f"{path} is not the best model of this run; move it away, then resume, or start anew elsewhere"
        )
    return score, epoch

"""``model.safetensors``: the best model of a run."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from eqmol import checkpoint
from eqmol.models.predictor import Predictor
from eqmol.train.ema import EMA
from eqmol.train.task import Task


class BestModel(Callback):
    """Write the model whenever its validation loss is the lowest so far.

    Args:
        path: where; holds the best model from the first validation on.
        ema: whose averages are saved, or None to save the raw weights.
    """

    def __init__(self, path: Path, ema: EMA | None):
        self.path = path
        self.ema = ema
        self.score = math.inf
        self.epoch = 0
        self.improved = False  # by the last validation

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
        metrics = {"epoch": self.epoch, "step": trainer.global_step, "val_loss": self.score}
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
        self.score, self.epoch = state_dict["score"], state_dict["epoch"]
        saved = checkpoint.read_header(self.path).document["metrics"]
        if saved["val_loss"] < self.score:
            self.score, self.epoch = saved["val_loss"], saved["epoch"]

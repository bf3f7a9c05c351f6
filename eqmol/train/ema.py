"""Exponential moving average of the weights."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn


class EMA(WeightAveraging):
    """Average the weights over the steps; validation and the saved model use the average, training the raw weights.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), so that the first epochs are not tied to the initial
    weights. In a checkpoint, Lightning keeps the average under ``state_dict`` and the raw weights under
    ``current_model_state``.

    Args:
        decay: limit of the decay per step, in [0, 1).
    """

    def __init__(self, decay: float):
        super().__init__(use_buffers=False, multi_avg_fn=partial(average_, decay))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the average and the raw weights; Lightning takes one for the other where one is missing."""
        for name in ("current_model_state", "averaging_state"):
            if not isinstance(checkpoint.get(name), dict):
                raise TypeError(f"{name} is missing")
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    @property
    def averaged(self) -> nn.Module:
        """The task with averaged weights."""
        assert self._average_model is not None
        return self._average_model.module


@torch.no_grad()
def average_(decay: float, averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
    """Move averages towards the current weights, in place.

    Args:
        decay: limit of the decay.
        averaged: the averages.
        current: the weights.
        num_averaged: how many sets of weights the averages hold already.
    """
    n = int(num_averaged)
    torch._foreach_lerp_(list(averaged), list(current), 1.0 - min(decay, (1 + n) / (10 + n)))

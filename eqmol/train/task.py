"""The training task: one step, one validation, one optimiser."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eqmol.errors import InputError
from eqmol.graph import keys
from eqmol.models import Potential
from eqmol.train.loss import WeightedLoss
from eqmol.train.memory import memory_errors
from eqmol.train.metrics import Errors
from eqmol.train.schedule import Budget, Schedule
from eqmol.train.stop import Clock

METRICS = ("default", "oc20")


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient is NaN or infinite; the message names the structures."""


class Task(pl.LightningModule):
    """Train a potential on energies, forces and stress.

    Args:
        predictor: the model.
        targets: weight and kind of error per quantity, see :class:`eqmol.train.loss.Target`.
        optimizer: takes parameters, returns an optimiser; its learning rate is the one before the schedule's factor.
        schedule: factor of the learning rate over the run.
        raise_at: fraction of the run from which on the weights move to their final values.
        metrics: "default", or "oc20" to add those of the Open Catalyst Project.

    Raises:
        InputError: an unknown name of metrics, or what :class:`eqmol.train.loss.WeightedLoss` refuses.

    Attributes:
        clock: training time; the run starts it.
        max_seconds: training time after which the run stops, or None.
    """

    def __init__(
        self,
        predictor: Potential,
        targets: Mapping[str, Mapping[str, Any]],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Schedule,
        raise_at: float = 1.0,
        metrics: str = "default",
    ):
        super().__init__()
        if metrics not in METRICS:
            raise InputError(f"task.metrics={metrics} is unknown; choose one of {', '.join(METRICS)}")
        self.oc20 = metrics == "oc20"
        self.predictor = predictor
        self.loss = WeightedLoss.from_config(targets, raise_at)
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.clock = Clock()
        self.max_seconds: float | None = None
        self.budget = Budget(steps=1, seconds=None)
        self.train_loss = RunningMean()
        self.gradient_norm = RunningMean()
        self.validation = Validation(self.oc20)
        self._batch: Any = None
        self._loss = torch.zeros(())

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return what the model predicts for a batch: energy, forces, and stress where it is labelled or trained on."""
        stress = keys.STRESS in (self.loss.required if self.training else batch)
        return self.predictor(batch, forces=True, stress=stress)

    @property
    def progress(self) -> float:
        """The fraction of the run that is over."""
        return self.budget.progress(self.global_step, self.clock.elapsed())

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser. The schedule is applied in :meth:`on_train_batch_start`, outside Lightning's schedulers:
        those update plateau schedules only after the checkpoint of an epoch is written, and lose the update on resume.
        """
        return self.make_optimizer(self.parameters())

    def on_train_start(self) -> None:
        """Find out how long the run is."""
        epochs, steps = self.trainer.max_epochs, self.trainer.num_training_batches
        self.budget = Budget(int(epochs * steps) if epochs and epochs > 0 else None, self.max_seconds)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate."""
        factor = self.schedule.factor(self.global_step, self.progress)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        self._batch = batch
        with memory_errors(batch):
            loss = self.loss(self(batch), batch, self.loss.raised(self.progress), shared=True)
        self._loss = loss.detach()
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate the loss."""
        with memory_errors(self._batch):
            super().backward(loss, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the gradient; refuse a loss or a gradient that is not finite before the weights change."""
        norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or torch.inf)
        loss, norm_value = torch.stack((self._loss, norm.to(self._loss))).tolist()  # the only wait for the device
        if not (math.isfinite(loss) and math.isfinite(norm_value)):
            what = "gradient of the loss" if math.isfinite(loss) else "loss"
            raise NonFiniteLossError(
                f"the {what} is not finite at step {self.global_step} (epoch {self.current_epoch}); "
                f"the structures of this batch are: {'; '.join(self._batch.source)}"
            )
        self.train_loss.update(loss)
        self.gradient_norm.update(norm_value)

    def on_train_epoch_start(self) -> None:
        """Begin new averages."""
        self.train_loss.reset()
        self.gradient_norm.reset()

    def on_validation_epoch_start(self) -> None:
        """Begin a new validation."""
        self.validation = Validation(self.oc20)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the validation."""
        with memory_errors(batch):
            output = {name: value.detach() for name, value in self(batch).items()}
        self.validation.errors.update(output, batch)
        loss = float(self.loss(output, batch, raised=1.0))
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the validation loss is not finite after step {self.global_step} (epoch {self.current_epoch}); "
                f"the structures of this batch are: {'; '.join(batch.source)}"
            )
        self.validation.loss.update(loss, batch.num_graphs)

    def on_validation_epoch_end(self) -> None:
        """Report the validation to the schedule and, by the name "val_loss", to early stopping."""
        self.schedule.validated(self.validation.score)
        self.log("val_loss", self.validation.score, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the schedule and the averages of an unfinished epoch."""
        checkpoint["schedule"] = self.schedule.state_dict()
        checkpoint["averages"] = [self.train_loss.state(), self.gradient_norm.state()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them over."""
        self.schedule.load_state_dict(checkpoint["schedule"])
        for average, state in zip((self.train_loss, self.gradient_norm), checkpoint["averages"], strict=True):
            average.set_state(state)


class RunningMean:
    """A weighted mean."""

    def __init__(self) -> None:
        self._total = 0.0
        self._weight = 0.0

    def update(self, value: float | Tensor, weight: float = 1.0) -> None:
        """Add a value."""
        self._total += float(value) * weight
        self._weight += weight

    def reset(self) -> None:
        """Forget all values."""
        self.set_state((0.0, 0.0))

    @property
    def value(self) -> float:
        """The mean, NaN before the first value."""
        return self._total / self._weight if self._weight else float("nan")

    def state(self) -> tuple[float, float]:
        """Return what :meth:`set_state` takes."""
        return self._total, self._weight

    def set_state(self, state: tuple[float, float]) -> None:
        """Continue from an earlier state."""
        self._total, self._weight = state


class Validation:
    """Loss with the final weights, so that it means the same all through the run, and errors."""

    def __init__(self, oc20: bool) -> None:
        self.loss = RunningMean()
        self.errors = Errors(oc20)

    @property
    def score(self) -> float:
        """What the best model is chosen by: lower is better."""
        return self.loss.value

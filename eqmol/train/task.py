"""What every training task shares: one step, one validation, one optimiser."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, Self, TypeVar

import lightning.pytorch as pl
import torch
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from eqmol.models.predictor import Predictor
from eqmol.nn import parameter_groups
from eqmol.plots import Quantity
from eqmol.train import processes
from eqmol.train.memory import memory_errors
from eqmol.train.schedule import Budget, Schedule
from eqmol.train.stop import Clock

Model = TypeVar("Model", bound=Predictor)


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient is NaN or infinite; the message names the structures."""


class Errors(Protocol):
    """Sums of errors, filled batch by batch."""

    def update(self, output: Mapping[str, Tensor], batch: Any) -> None:
        """Add a batch."""

    def extend(self, other: Self) -> None:
        """Add those that another process summed."""

    def summary(self) -> dict[str, float]:
        """Return the errors of all structures by name, and "structures", their number."""

    def by_config_type(self) -> dict[str, dict[str, float]]:
        """Return the errors per ``config_type``; empty unless some structure names one."""


class Baseline(Protocol):
    """A predictor without a network.

    Attributes:
        name: what a person calls it.
        learns: whether it takes note of the training set; if not, it knows it already and stands in tables.
    """

    name: str
    learns: bool

    def learn(self, batch: Any) -> None:
        """Take note of a batch of the training set."""

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return what a model returns, for a batch."""


class Task(pl.LightningModule, ABC, Generic[Model]):
    """Train a model; what on, how it is judged and what a person sees of it is said by the class that inherits.

    Args:
        predictor: the model; None where it is not known yet, see :meth:`attach`.
        optimizer: takes groups of parameters (:func:`eqmol.nn.parameter_groups`), returns an optimiser; its learning rate
            is the one before the schedule's factor.
        schedule: factor of the learning rate over the run.

    Attributes:
        required: labels that every structure must have.
        columns: errors, by their names in the summary, that are logged after every validation.
        curves: those of them that the learning curve shows, and their labels.
        quantities: what the parity plot shows.
        clock: training time; the run starts it.
        seconds: of training at the last look at the clock, the same in all processes.
        baseline: a predictor that the model has to beat; known when the training begins.
        judged: errors, by their names in the summary, that are compared with the baseline's, and what they are errors of.
        max_steps: optimiser steps of all epochs, or None; known when the training begins.
        max_seconds: training time at which the schedule ends, or None.
    """

    predictor: Model
    required: tuple[str, ...]
    columns: tuple[str, ...]
    curves: tuple[tuple[str, str], ...]
    quantities: tuple[Quantity, ...]
    judged: Mapping[str, str]
    baseline: Baseline

    def __init__(
        self,
        predictor: Model | None,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Schedule,
    ):
        super().__init__()
        if predictor is not None:
            self.attach(predictor)
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.clock = Clock()
        self.seconds = 0.0
        self.max_seconds: float | None = None
        self.max_steps: int | None = 1
        self.train_loss = RunningMean()
        self.gradient_norm = RunningMean()
        self.validation = Validation(self.new_errors)
        self._batch: Any = None
        self._loss = torch.zeros(())

    def attach(self, predictor: Model) -> None:
        """Say what is trained."""
        self.predictor = predictor

    def begin(self, statistics: Mapping[str, Any]) -> list[RenderableType]:
        """Take what was measured on the training set; return what a person should see of the loss."""
        return []

    @abstractmethod
    def loss_of(self, output: Mapping[str, Tensor], batch: Any, progress: float, shared: bool) -> Tensor:
        """Return the scalar loss (float64) at a fraction of the run; ``shared`` as in :class:`WeightedLoss`."""

    @abstractmethod
    def new_errors(self) -> Errors:
        """Return empty sums of errors."""

    @abstractmethod
    def tables(self, rows: list[tuple[str, dict[str, float]]]) -> list[Table]:
        """Return tables of errors for a person: one row per title and summary."""

    @abstractmethod
    def describe(self, row: Mapping[str, Any]) -> str:
        """Return the validation errors of a row of the log in a few words; "" without a validation."""

    @abstractmethod
    def evaluate(self, model: Model, batch: Any) -> dict[str, Tensor]:
        """Return what a saved model predicts for a batch with labels."""

    @abstractmethod
    def parity(self, model: Model, output: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Return reference and prediction [2, points] of every quantity that the batch has labels of."""

    def further_passes(self, model: Model) -> int:
        """Return how often :meth:`further_metrics` goes through the validation set."""
        return 0

    def further_metrics(self, model: Model, val_loader: Any, device: torch.device) -> dict[str, tuple[float, str]]:
        """Return further entries of metrics.json, each with a sentence for the screen."""
        return {}

    @property
    def progress(self) -> float:
        """The fraction of the run that is over."""
        return self._budget.progress(self.global_step, self.seconds)

    @property
    def ends_by_time(self) -> bool:
        """Whether the time will be over before the epochs are, as it goes."""
        return self._budget.by_time(self.seconds) > self._budget.by_steps(self.global_step)

    @property
    def _budget(self) -> Budget:
        return Budget(self.max_steps, self.max_seconds)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser. The schedule is applied in :meth:`on_train_batch_start`, outside Lightning's schedulers:
        those update plateau schedules only after the checkpoint of an epoch is written, and lose the update on resume.
        """
        return self.make_optimizer(parameter_groups(self.predictor))

    def on_train_start(self) -> None:
        """Find out how long the run is."""
        epochs, steps = self.trainer.max_epochs, self.trainer.num_training_batches
        self.max_steps = int(epochs * steps) if epochs and epochs > 0 else None

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
            loss = self.loss_of(self(batch), batch, self.progress, shared=True)
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
        loss, norm_value = torch.stack(
            (processes.mean(self._loss), norm.to(self._loss))
        ).tolist()  # waits for the device
        if not (math.isfinite(loss) and math.isfinite(norm_value)):
            what = "gradient of the loss" if math.isfinite(loss) else "loss"
            guilty = math.isfinite(loss) or not math.isfinite(float(self._loss))
            sources = [source for part in processes.gather(self._batch.source if guilty else []) for source in part]
            raise NonFiniteLossError(
                f"the {what} is not finite at step {self.global_step} (epoch {self.current_epoch}); "
                f"the structures of this batch are: {'; '.join(sources)}"
            )
        self.train_loss.update(loss)
        self.gradient_norm.update(norm_value)

    def on_train_epoch_start(self) -> None:
        """Begin new averages."""
        self.train_loss.reset()
        self.gradient_norm.reset()

    def on_validation_epoch_start(self) -> None:
        """Begin a new validation."""
        self.validation = Validation(self.new_errors)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the validation."""
        with memory_errors(batch):
            output = {name: value.detach() for name, value in self(batch).items()}
        self.validation.errors.update(output, batch)
        loss = float(self.loss_of(output, batch, progress=1.0, shared=False))
        if not math.isfinite(loss):
            self.validation.broken.extend(batch.source)
        self.validation.loss.update(loss, batch.num_graphs)

    def on_validation_epoch_end(self) -> None:
        """Join what the processes validated; report it to the schedule and, by the name "val_loss", to early stopping."""
        self.validation, *others = processes.gather(self.validation)
        for other in others:
            self.validation.extend(other)
        if self.validation.broken:
            raise NonFiniteLossError(
                f"the validation loss is not finite after step {self.global_step} (epoch {self.current_epoch}); "
                f"the structures of its batches are: {'; '.join(self.validation.broken)}"
            )
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


def structures_shown(errors: Mapping[str, float]) -> str:
    """Return the number of structures of a row of errors; "1000 of 5000" where they were drawn from more."""
    number = f"{errors.get('structures', 0):.0f}"
    return f"{number} of {errors['sampled_from']:.0f}" if "sampled_from" in errors else number


class RunningMean:
    """A weighted mean."""

    def __init__(self) -> None:
        self._total = 0.0
        self._weight = 0.0

    def update(self, value: float | Tensor, weight: float = 1.0) -> None:
        """Add a value."""
        self._total += float(value) * weight
        self._weight += weight

    def extend(self, other: "RunningMean") -> None:
        """Add the values of another mean."""
        self._total += other._total
        self._weight += other._weight

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
        self._total, self._weight = map(float, state)


class Validation:
    """Loss with the final weights, so that it means the same all through the run, and errors.

    Attributes:
        broken: structures of batches whose loss is not finite.
    """

    def __init__(self, new_errors: Callable[[], Errors]) -> None:
        self.loss = RunningMean()
        self.errors = new_errors()
        self.broken: list[str] = []

    def extend(self, other: "Validation") -> None:
        """Add what another process validated."""
        self.loss.extend(other.loss)
        self.errors.extend(other.errors)
        self.broken.extend(other.broken)

    @property
    def score(self) -> float:
        """What the best model is chosen by: lower is better."""
        return self.loss.value

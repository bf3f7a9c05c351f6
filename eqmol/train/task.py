"""A model in training: one step, one validation, one optimiser."""

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eqmol.data.comparison import Metrics
from eqmol.data.replay import REPLAY
from eqmol.graph.targets import ENERGY
from eqmol.inference.errors import Errors
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.nn import parameter_groups
from eqmol.train import processes
from eqmol.train.freeze import freeze
from eqmol.train.loss import WeightedLoss
from eqmol.train.memory import memory_errors
from eqmol.train.objectives import Objective, scales
from eqmol.train.remainder import Array, Remainder, per_atom
from eqmol.train.schedule import Budget
from eqmol.train.stop import Clock
from eqmol.train.warm_energies import labels_of


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient is NaN or infinite; the message names the structures."""


class Task(pl.LightningModule):
    """One step, one validation, one optimiser.

    Args:
        predictor: the model.
        objective: what it is trained for.
        statistics: of the training set, see :meth:`eqmol.data.datamodule.GraphSets.statistics`.
        metrics: further errors that the data are judged by.
        clock: training time, and its limit; the run starts it.
        takes_up: whether constants of the elements are taken up when the run ends, see :mod:`eqmol.train.remainder`.

    Raises:
        InputError: a model that cannot be trained for this.

    Attributes:
        frozen: what is not trained, in a sentence, or None.
        targets: what the model is judged by.
        loss: with the weights and scales of this run.
        labels: that the training set has.
        before: errors on old data of the model that was started from.
        max_steps: optimiser steps of all epochs, or None; known when the training begins.
    """

    def __init__(
        self,
        predictor: Predictor,
        objective: Objective,
        statistics: Mapping[str, Any],
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        takes_up: bool = True,
    ):
        super().__init__()
        self.predictor = predictor
        self.frozen = freeze(predictor, objective.freeze)
        self.objective = objective
        self.targets = objective.targets(predictor)
        labels = scales(statistics, predictor)
        self.loss, self.labels = objective.loss_of(self.targets).settled(labels), tuple(labels)
        self.metrics = metrics
        self.before: Mapping[str, float] = statistics.get(REPLAY, {})
        self.schedule = objective.schedule
        self.clock = clock or Clock()
        self.max_steps: int | None = 1
        self.train_loss = RunningMean()
        self.gradient_norm = RunningMean()
        self.takes_up = takes_up and isinstance(predictor, Potential)
        self.validation = Validation(self.new_errors(), self.loss)
        self._batch: Any = None
        self._loss = torch.zeros(())

    def new_errors(self) -> Errors:
        """Return empty sums of errors."""
        return Errors(self.targets, self.metrics)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return what the model predicts of what is trained on, or in evaluation of what a batch has labels of."""
        return self.objective.ask(self.predictor, batch, self.loss.used if self.training else batch)

    def evaluate(self, model: Predictor, batch: Any, last_layer: bool = False) -> dict[str, Tensor]:
        """Return what a saved model predicts of what a batch has labels of, and of a potential perhaps the last layer."""
        return self.objective.ask(model, batch, batch, last_layer)

    def loss_of(self, output: Mapping[str, Tensor], batch: Any, progress: float, shared: bool) -> Tensor:
        """Return the scalar loss (float64) at a fraction of the run; ``shared`` as in :class:`WeightedLoss`."""
        steps = self._budget.expected_steps(self.global_step, self.clock.seen)
        loss = self.loss(output, batch, self.loss.raised(progress, steps), shared)
        further = self.objective.further_loss(output, shared)
        return loss if further is None else loss + further

    @property
    def progress(self) -> float:
        """The fraction of the run that is over."""
        return self._budget.progress(self.global_step, self.clock.seen)

    @property
    def ends_by_time(self) -> bool:
        """Whether the time will be over before the epochs are, as it goes."""
        return self._budget.by_time(self.clock.seen) > self._budget.by_steps(self.global_step)

    @property
    def end(self) -> tuple[float, float]:
        """The part of the run that is over, and the learning rate as part of the highest."""
        return self.progress, self.schedule.factor(self.global_step, self.progress)

    @property
    def _budget(self) -> Budget:
        return Budget(self.max_steps, self.clock.limit)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser. The schedule is applied in :meth:`on_train_batch_start`, outside Lightning's schedulers:
        those update plateau schedules only after the checkpoint of an epoch is written, and lose the update on resume.
        """
        return self.objective.make_optimizer(parameter_groups(self.predictor))

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
        """Differentiate the loss by the weights alone: forces made positions variables of it, too."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        with memory_errors(self._batch):
            super().backward(loss, *args, inputs=weights, **kwargs)

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
        self.validation = Validation(self.new_errors(), self.loss)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the validation."""
        with memory_errors(batch):
            output = {name: value.detach() for name, value in self(batch).items()}
        self.validation.errors.update(output, batch)
        sums = {name: (float(total), number) for name, (total, number) in self.loss.sums(output, batch).items()}
        if not all(math.isfinite(total) for total, _ in sums.values()):
            self.validation.broken.extend(batch.source)
        self.validation.add(sums)
        if self.takes_up and ENERGY.field in batch:
            assert isinstance(self.predictor, Potential)
            labels = labels_of(self.predictor, batch, output[ENERGY.name])
            self.validation.leave(*per_atom(self.predictor, labels))

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
    """Loss of a whole set and its errors.

    Args:
        errors: empty.
        loss: its final weights count, so that it means the same all through the run.

    Attributes:
        broken: structures of batches whose loss is not finite.
    """

    def __init__(self, errors: Errors, loss: WeightedLoss) -> None:
        self.errors = errors
        self.broken: list[str] = []
        self._weights = {name: loss.terms[name].weight_at(1.0) for name in loss.used}
        self._means = {name: RunningMean() for name in loss.used}
        self._energy = loss.terms.get(ENERGY.name)
        self._left: list[tuple[Array, Array]] = []

    def add(self, sums: Mapping[str, tuple[float, int]]) -> None:
        """Add the sums of relative errors of a batch and their numbers, by target."""
        for name, (total, number) in sums.items():
            if number > 0:
                self._means[name].update(total / number, number)

    def leave(self, composition: Array, left: Array) -> None:
        """Add what is left of energies per atom, see :func:`eqmol.train.remainder.per_atom`."""
        self._left.append((composition, left))

    def extend(self, other: "Validation") -> None:
        """Add what another process validated."""
        self._left.extend(other._left)
        for name, mean in self._means.items():
            mean.extend(other._means[name])
        self.errors.extend(other.errors)
        self.broken.extend(other.broken)

    @property
    def score(self) -> float:
        """What the best model is chosen by: lower is better; NaN without any label.

        Constants of the elements in energies do not count where the end of the run takes them up, as :meth:`leave` tells.
        """
        means = {name: mean.value for name, mean in self._means.items() if not math.isnan(mean.value)}
        if ENERGY.name in means and self._energy is not None and self._left:
            found = Remainder.of(*map(np.concatenate, zip(*self._left, strict=True)))
            if found.is_worth_it:
                means[ENERGY.name] = float(self._energy.errors(torch.from_numpy(found.others)).mean())
        return sum(self._weights[name] * value for name, value in means.items()) if means else math.nan

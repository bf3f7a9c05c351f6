"""Training of properties of molecules, one or several at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from eqmol.errors import InputError
from eqmol.graph.targets import Target
from eqmol.models import Properties
from eqmol.plots import COLORS, Quantity
from eqmol.train import processes
from eqmol.train.baseline import MeanProperty
from eqmol.train.loss import Target as Loss
from eqmol.train.schedule import Schedule
from eqmol.train.task import Task, structures_shown
from eqmol.units import number, quantity, shown_unit

LOSSES = ("mae", "mse", "huber")


class PropertyErrors:
    """Errors of all labelled components of properties, in the units of tables.

    Args:
        targets: what is compared.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self.structures = 0
        self._errors: dict[str, list[NDArray[np.float64]]] = {target.name: [] for target in targets}

    def update(self, output: Mapping[str, Tensor], batch: Any) -> None:
        """Add a batch."""
        self.structures += batch.num_graphs
        for target in self.targets:
            errors = (output[target.name].detach() - batch[target.field]) * target.shown_factor
            self._errors[target.name].append(errors[errors.isfinite()].cpu().numpy())

    def extend(self, other: Self) -> None:
        """Add those that another process summed."""
        self.structures += other.structures
        for name, errors in other._errors.items():
            self._errors[name].extend(errors)

    def summary(self) -> dict[str, float]:
        """Return "<target>_mae" and "<target>_rmse" of every target with labels, and "structures"."""
        if not self.structures:
            return {}
        summary: dict[str, float] = {"structures": self.structures}
        for name, parts in self._errors.items():
            errors = np.concatenate(parts)
            if len(errors):
                rmse = float(np.sqrt(np.square(errors).mean()))
                summary |= {f"{name}_mae": float(abs(errors).mean()), f"{name}_rmse": rmse}
        return summary

    def by_config_type(self) -> dict[str, dict[str, float]]:
        """Return nothing: molecules have no groups."""
        return {}


class PropertyTask(Task[Properties]):
    """Train on properties: loss = Σ_t w_t · mean error of (prediction - label) / spread_t, and noise · mean |ξ̂ - ξ|².

    The mean is over all labelled components of a batch; structures without a label of a target do not count for it.

    Noisy nodes (Godwin et al. 2021, arXiv:2106.07971): in training every atom is displaced by σξ with standard normal ξ, and
    a head predicts ξ beside the properties of the undisturbed molecule.

    Args:
        predictor: the model, or None until it is known.
        target: name of a property, or several.
        optimizer, schedule: see :class:`eqmol.train.task.Task`.
        weights: w_t, None for 1 each.
        loss: "mae", "mse" or "huber" of the scaled errors.
        noise: σ in Å; 0 for undisturbed molecules.
        noise_weight: weight of the denoising loss.

    Attributes:
        targets: what the model predicts; known once there is a model.
        comparisons: errors of others by name, in the units of tables, which stand below these.

    Raises:
        InputError: an unknown loss, a negative weight, or weights that do not match the targets.
    """

    def __init__(
        self,
        predictor: Properties | None,
        target: str | Sequence[str],
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Schedule,
        weights: Sequence[float] | None = None,
        loss: str = "mae",
        noise: float = 0.0,
        noise_weight: float = 0.1,
    ):
        names = (target,) if isinstance(target, str) else tuple(target)
        if not names or len(set(names)) != len(names):
            raise InputError(f"task.target={list(names)} must name at least one target, each once")
        if weights is not None and len(weights) != len(names):
            raise InputError(f"task.weights has {len(weights)} weights for {len(names)} targets; give one for each")
        if loss not in LOSSES:
            raise InputError(f"task.loss={loss} is unknown; choose one of {', '.join(LOSSES)}")
        if min(noise, noise_weight) < 0:
            raise InputError(f"task.noise={noise} and task.noise_weight={noise_weight} must not be negative")
        self.required = names
        self.errors = [Loss(weight, loss=loss, delta=1.0) for weight in weights or [1.0] * len(names)]
        self.noise, self.noise_weight = noise, noise_weight
        self.columns = tuple(f"{name}_{kind}" for name in names for kind in ("mae", "rmse"))
        self.judged = {f"{name}_rmse": name for name in names}
        self.targets: tuple[Target, ...] = ()
        self.comparisons: Mapping[str, Mapping[str, float]] = {}
        super().__init__(predictor, optimizer, schedule)

    def attach(self, predictor: Properties) -> None:
        """Say what is trained.

        Raises:
            InputError: noisy nodes for a model that does not predict displacements.
        """
        if self.noise > 0 and predictor.noise is None:
            raise InputError(
                f"task.noise={self.noise} needs a model that predicts displacements: set predictor.denoise=true"
            )
        self.targets = tuple(predictor.targets[name] for name in self.required)
        shown = self.targets[: len(COLORS)]
        self.curves = tuple((f"{target.name}_mae", f"{target.name} MAE ({target.shown_unit})") for target in shown)
        self.quantities = tuple(_quantity(target) for target in self.targets)
        super().attach(predictor)

    def on_fit_start(self) -> None:
        """Find out what these errors can be compared with."""
        self.baseline = MeanProperty(self.targets)
        self.comparisons = self.trainer.datamodule.comparisons()  # type: ignore[attr-defined]

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return what the model predicts, in training for disturbed molecules and with the disturbance "xi" [N, 3]."""
        if not (self.training and self.noise > 0):
            return self.predictor(batch)
        disturbance = torch.randn_like(batch.pos)
        undisturbed = batch.pos
        batch.pos = undisturbed + self.noise * disturbance
        try:
            return self.predictor(batch) | {"xi": disturbance}
        finally:
            batch.pos = undisturbed

    def loss_of(self, output: Mapping[str, Tensor], batch: Any, progress: float, shared: bool) -> Tensor:
        """Return the loss; labelled components count alike."""
        spreads = self.predictor.spreads
        errors = [
            error.errors(_labelled(output[target.name], batch[target.field]) / spreads[target.name])
            for target, error in zip(self.targets, self.errors, strict=True)
        ]
        counts = torch.tensor([error.numel() for error in errors] + [len(batch.pos)], dtype=torch.float64)
        if shared:  # gradients are averaged over processes, so sums divided by mean counts give the means over all
            counts = processes.mean(counts.to(batch.pos.device))
        total = torch.zeros((), dtype=torch.float64, device=batch.pos.device)
        for error, loss, count in zip(errors, self.errors, counts, strict=False):
            total = total + loss.weight_at(0.0) * error.sum() / count.clamp(
                min=1e-9
            )  # a batch may hold no label at all
        if "xi" in output:
            total = total + self.noise_weight * (output["noise"] - output["xi"]).square().sum() / (3 * counts[-1])
        return total

    def new_errors(self) -> PropertyErrors:
        """Return empty sums of errors."""
        return PropertyErrors(self.targets)

    def evaluate(self, model: Properties, batch: Any) -> dict[str, Tensor]:
        """Return all properties."""
        return model(batch)

    def parity(self, model: Properties, output: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Return label and prediction of every labelled component; of extensive targets what the atom references leave."""
        pairs = {}
        for target in self.targets:
            both = torch.stack((batch[target.field], output[target.name]))
            if target.kind == "extensive":
                both = both - model.references(target.name, batch)
            pairs[target.name] = both[:, both[0].isfinite()]
        return pairs

    def further_metrics(self, model: Properties, val_loader: Any, device: torch.device) -> dict[str, tuple[Any, str]]:
        """Return the units of the errors."""
        units = {target.name: target.shown_unit for target in self.targets}
        listed = ", ".join(f"{name} in {unit}" if unit else name for name, unit in units.items())
        return {"units": (units, f"metrics.json and log.csv have errors of {listed}")}

    def tables(self, rows: list[tuple[str, dict[str, float]]]) -> list[Table]:
        """Return mean absolute errors with their units, and published ones below where they are comparable."""
        table = Table(title="Errors of the best model (MAE)", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("split", no_wrap=True)
        table.add_column("molecules", justify="right", no_wrap=True)
        factors = {}
        for target in self.targets:
            key = f"{target.name}_mae"
            unit, factors[target.name] = shown_unit([row[key] for _, row in rows if key in row], target.shown_unit)
            table.add_column(f"{target.name}\n{unit}", justify="right", no_wrap=True)
        for title, row in rows:
            errors = {name: row[f"{name}_mae"] for name in self.required if f"{name}_mae" in row}
            table.add_row(title, structures_shown(row), *self._cells(errors, factors))
        if self.comparisons:
            table.add_section()
            for model, others in self.comparisons.items():
                table.add_row(model, "", *self._cells(others, factors))
        return [table]

    def _cells(self, errors: Mapping[str, float], factors: Mapping[str, float]) -> list[str]:
        """Return errors in the units of the columns."""
        return [number(factors[name] * errors[name], 4) if name in errors else "" for name in self.required]

    def describe(self, row: Mapping[str, Any]) -> str:
        """Return e.g. "val MAE U0 12.3 meV, mu 0.2 D"."""
        shown = [
            f"{target.name} {quantity(row[f'val_{target.name}_mae'], target.shown_unit, 4)}"
            for target in self.targets
            if f"val_{target.name}_mae" in row
        ]
        return "val MAE " + ", ".join(shown) if shown else ""


def _labelled(output: Tensor, labels: Tensor) -> Tensor:
    """Return the errors [components] where there is a label."""
    known = labels.isfinite()
    return output[known] - labels[known]


def _quantity(target: Target) -> Quantity:
    """What the parity plot shows of a target."""
    title = f"{target.name} without atom references" if target.kind == "extensive" else target.name
    return Quantity(target.name, title, target.unit, f"{target.name}_rmse", target.shown_unit, target.shown_factor)

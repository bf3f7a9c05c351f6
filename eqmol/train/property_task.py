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

from eqmol.data.qm9.datamodule import QM9
from eqmol.data.qm9.published import PUBLISHED
from eqmol.errors import InputError
from eqmol.graph.properties import PROPERTIES
from eqmol.models import Properties
from eqmol.plots import COLORS, Quantity
from eqmol.train import processes
from eqmol.train.loss import Target
from eqmol.train.schedule import Schedule
from eqmol.train.task import Task

LOSSES = ("mae", "mse", "huber")


class PropertyErrors:
    """Errors of properties per molecule, in the units of tables.

    Args:
        targets: their names.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = tuple(targets)
        self._rows: list[NDArray[np.float64]] = []

    def update(self, output: Mapping[str, Tensor], batch: Any) -> None:
        """Add a batch."""
        columns = [(output[name].detach() - batch[name]) * PROPERTIES[name].shown_factor for name in self.targets]
        self._rows.append(torch.stack(columns, dim=1).cpu().numpy())

    def extend(self, other: Self) -> None:
        """Add those that another process summed."""
        self._rows.extend(other._rows)

    def summary(self) -> dict[str, float]:
        """Return "<target>_mae" and "<target>_rmse", and "structures"."""
        if not self._rows:
            return {}
        rows = np.concatenate(self._rows)
        summary: dict[str, float] = {"structures": len(rows)}
        for name, errors in zip(self.targets, rows.T, strict=True):
            summary |= {
                f"{name}_mae": float(abs(errors).mean()),
                f"{name}_rmse": float(np.sqrt(np.square(errors).mean())),
            }
        return summary

    def by_config_type(self) -> dict[str, dict[str, float]]:
        """Return nothing: molecules have no groups."""
        return {}


class PropertyTask(Task[Properties]):
    """Train on properties: loss = Σ_t w_t · mean error of (prediction - label) / scale_t, and noise · mean |ξ̂ - ξ|².

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
        standard: trained on the standard split of QM9, so that published errors may stand beside these.

    Raises:
        InputError: an unknown target or loss, a negative weight, or weights that do not match the targets.
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
        for name in names:
            if name not in PROPERTIES:
                raise InputError(f"task.target={name} is unknown; choose among {', '.join(PROPERTIES)}")
        if not names or len(set(names)) != len(names):
            raise InputError(f"task.target={list(names)} must name at least one target, each once")
        if weights is not None and len(weights) != len(names):
            raise InputError(f"task.weights has {len(weights)} weights for {len(names)} targets; give one for each")
        if loss not in LOSSES:
            raise InputError(f"task.loss={loss} is unknown; choose one of {', '.join(LOSSES)}")
        if min(noise, noise_weight) < 0:
            raise InputError(f"task.noise={noise} and task.noise_weight={noise_weight} must not be negative")
        self.required = names
        self.errors = [Target(weight, loss=loss, delta=1.0) for weight in weights or [1.0] * len(names)]
        self.noise, self.noise_weight = noise, noise_weight
        self.columns = tuple(f"{name}_{kind}" for name in names for kind in ("mae", "rmse"))
        shown = names[: len(COLORS)]
        self.curves = tuple((f"{name}_mae", f"{name} MAE ({PROPERTIES[name].shown_unit})") for name in shown)
        self.quantities = tuple(_quantity(name) for name in names)
        self.standard = False
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
        super().attach(predictor)

    def on_fit_start(self) -> None:
        """Find out whether published errors are comparable."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.standard = isinstance(data, QM9) and data.is_standard

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
        """Return the loss; molecules count alike."""
        scales = self.predictor.spreads
        terms = [
            error.weight * error.errors((output[name] - batch[name]) / scales[name]).sum()
            for name, error in zip(self.required, self.errors, strict=True)
        ]
        counts = torch.tensor([batch.num_graphs, len(batch.pos)], dtype=torch.float64, device=batch.pos.device)
        if shared:  # gradients are averaged over processes, so sums divided by mean counts give the means over all
            counts = processes.mean(counts)
        total = torch.stack(terms).sum() / counts[0]
        if "xi" in output:
            total = total + self.noise_weight * (output["noise"] - output["xi"]).square().sum() / (3 * counts[1])
        return total

    def new_errors(self) -> PropertyErrors:
        """Return empty sums of errors."""
        return PropertyErrors(self.required)

    def evaluate(self, model: Properties, batch: Any) -> dict[str, Tensor]:
        """Return all properties."""
        return model(batch)

    def parity(self, model: Properties, output: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Return label and prediction of every target; of extensive ones what is left without the atom references."""
        pairs = {name: torch.stack((batch[name], output[name])) for name in self.required}
        for name in self.required:
            if PROPERTIES[name].kind == "extensive":
                pairs[name] = pairs[name] - model.references(name, batch)
        return pairs

    def further_metrics(self, model: Properties, val_loader: Any, device: torch.device) -> dict[str, tuple[Any, str]]:
        """Return the units of the errors."""
        units = {name: PROPERTIES[name].shown_unit for name in self.required}
        listed = ", ".join(f"{name} in {unit}" for name, unit in units.items())
        return {"units": (units, f"metrics.json and log.csv have errors of {listed}")}

    def tables(self, rows: list[tuple[str, dict[str, float]]]) -> list[Table]:
        """Return mean absolute errors with their units, and published ones below where they are comparable."""
        table = Table(title="Errors of the best model (MAE)", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("split", no_wrap=True)
        table.add_column("molecules", justify="right", no_wrap=True)
        for name in self.required:
            table.add_column(f"{name}\n{PROPERTIES[name].shown_unit}", justify="right", no_wrap=True)
        for title, errors in rows:
            cells = [f"{errors[f'{name}_mae']:.4g}" for name in self.required if f"{name}_mae" in errors]
            table.add_row(title, str(int(errors.get("structures", 0))), *cells)
        if self.standard:
            table.add_section()
            for model, published in PUBLISHED.items():
                table.add_row(
                    model, "", *(f"{published[name]:g}" if name in published else "" for name in self.required)
                )
            table.caption = "below: published errors on the test set (arXiv:2306.12059, table of its poster)"
        return [table]

    def describe(self, row: Mapping[str, Any]) -> str:
        """Return e.g. "val MAE U0 12.3 meV, mu 0.2 D"."""
        shown = [
            f"{name} {row[f'val_{name}_mae']:.4g} {PROPERTIES[name].shown_unit}"
            for name in self.required
            if f"val_{name}_mae" in row
        ]
        return "val MAE " + ", ".join(shown) if shown else ""


def _quantity(name: str) -> Quantity:
    """What the parity plot shows of a target."""
    entry = PROPERTIES[name]
    title = f"{name} without atom references" if entry.kind == "extensive" else name
    return Quantity(name, title, entry.unit, entry.shown_unit, entry.shown_factor)

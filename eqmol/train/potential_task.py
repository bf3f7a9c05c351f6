"""Training of potentials: energies, forces and stress."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from rich import box
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from eqmol.data.oc20 import baseline
from eqmol.data.oc20.graphs import FrameGraphs
from eqmol.errors import InputError
from eqmol.graph import keys
from eqmol.models import Potential
from eqmol.plots import Quantity
from eqmol.train.baseline import CompositionEnergy
from eqmol.train.loss import WeightedLoss
from eqmol.train.metrics import Errors
from eqmol.train.schedule import Schedule
from eqmol.train.task import Task, structures_shown
from eqmol.units import MEV, number, quantity, shown_unit

#: Generator of the rotation that structures are turned by.
TURN = [[0.0, 0.9, -0.4], [-0.9, 0.0, 0.7], [0.4, -0.7, 0.0]]
METRICS = ("default", "oc20")
ERRORS = {"mse": "squared", "mae": "absolute", "norm": "length", "huber": "Huber"}
UNITS = {keys.ENERGY: "eV/atom", keys.FORCES: "eV/Å", keys.STRESS: "eV/Å³"}


class PotentialTask(Task[Potential]):
    """Train a potential on energies, forces and stress.

    Args:
        predictor: the model, or None until it is known.
        targets: weight and kind of error per quantity, see :class:`eqmol.train.loss.Target`.
        optimizer, schedule: see :class:`eqmol.train.task.Task`.
        raise_at: fraction of the run from which on the weights move to their final values.
        metrics: "default", or "oc20" to add those of the Open Catalyst Project.

    Raises:
        InputError: an unknown name of metrics, or what :class:`eqmol.train.loss.WeightedLoss` refuses.
    """

    columns = tuple(
        f"{name}_{kind}_{unit}"
        for name, unit in (("energy", "mev_per_atom"), ("forces", "mev_per_a"), ("stress", "mev_per_a3"))
        for kind in ("mae", "rmse")
    )
    curves = (
        ("forces_rmse_mev_per_a", "forces RMSE (meV/Å)"),
        ("energy_rmse_mev_per_atom", "energy RMSE (meV/atom)"),
        ("stress_rmse_mev_per_a3", "stress RMSE (meV/Å³)"),
    )
    quantities = (
        Quantity("energy", "energy relative to isolated atoms", "eV/atom", "energy_rmse_mev_per_atom", "meV/atom", MEV),
        Quantity("forces", "force components", "eV/Å", "forces_rmse_mev_per_a", "meV/Å", MEV),
    )

    judged = MappingProxyType(
        {
            "energy_rmse_mev_per_atom": "energies",
            "forces_rmse_mev_per_a": "forces",
            "stress_rmse_mev_per_a3": "stress",
        }
    )

    def __init__(
        self,
        predictor: Potential | None,
        targets: Mapping[str, Mapping[str, Any]],
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Schedule,
        raise_at: float = 1.0,
        metrics: str = "default",
    ):
        if metrics not in METRICS:
            raise InputError(f"task.metrics={metrics} is unknown; choose one of {', '.join(METRICS)}")
        self.oc20 = metrics == "oc20"
        self.weighted_loss = WeightedLoss(targets, raise_at)
        self.required = self.weighted_loss.required
        super().__init__(predictor, optimizer, schedule)

    def begin(self, statistics: Mapping[str, Any]) -> list[RenderableType]:
        """Divide errors by the scales of the labels; return the table of the loss.

        Raises:
            InputError: a weight for the stress of a model that has none.
        """
        scales = dict(statistics["label_scales"])
        if not self.predictor.conservative:
            scales.pop(keys.STRESS, None)
            if keys.STRESS in self.required:
                raise InputError(
                    "predictor.forces=direct has no stress, which is a derivative of the energy; set "
                    "task.targets.stress.weight=0, or use predictor.forces=conservative"
                )
        self.weighted_loss.set_scales(scales)
        return [loss_table(self.weighted_loss, scales)]

    def on_fit_start(self) -> None:
        """Choose what the model has to beat."""
        self.baseline = CompositionEnergy()
        train = self.trainer.datamodule.train_graphs  # type: ignore[attr-defined]
        if self.oc20 and isinstance(train, FrameGraphs):
            self.baseline = baseline.MeanEnergy(train, self.predictor.elements, self.predictor.recipe["e0"])

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return what the model predicts for a batch: energy, forces, and stress where it is labelled or trained on."""
        stress = keys.STRESS in (self.weighted_loss.used if self.training else batch)
        return self.predictor(batch, forces=True, stress=stress and self.predictor.conservative)

    def loss_of(self, output: Mapping[str, Tensor], batch: Any, progress: float, shared: bool) -> Tensor:
        """Return the weighted loss."""
        return self.weighted_loss(output, batch, self.weighted_loss.raised(progress), shared)

    def new_errors(self) -> Errors:
        """Return empty sums of errors."""
        return Errors(self.oc20)

    def evaluate(self, model: Potential, batch: Any) -> dict[str, Tensor]:
        """Return energy, forces, and stress where it is labelled."""
        return model(batch, forces=True, stress=keys.STRESS in batch and model.conservative)

    def parity(self, model: Potential, output: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Return energies relative to isolated atoms (eV per atom) and force components of free atoms (eV/Å), of what is
        labelled.
        """
        points = {}
        if keys.ENERGY in batch:
            pair = torch.stack((batch.energy, output["energy"]))
            points["energy"] = ((pair - _isolated_energy(model, batch)) / batch.ptr.diff())[:, batch.energy.isfinite()]
        if keys.FORCES in batch:
            counted = batch.forces.isfinite().all(dim=1)
            if keys.FIXED in batch:
                counted = counted & ~batch.fixed
            points["forces"] = torch.stack((batch.forces[counted].flatten(), output["forces"][counted].flatten()))
        return points

    def tables(self, rows: list[tuple[str, dict[str, float]]]) -> list[Table]:
        """Return the table of errors, and that of the Open Catalyst Project's metrics if asked for."""
        of_model = [row for row in rows if row[0] != baseline.NAME]
        return [error_table(of_model), *([oc20_table(rows)] if self.oc20 else [])]

    def describe(self, row: Mapping[str, Any]) -> str:
        """Return e.g. "val RMSE E 1.2 meV/atom, F 45.6 meV/Å"."""
        shown = (
            ("E", "val_energy_rmse_mev_per_atom", "meV/atom"),
            ("F", "val_forces_rmse_mev_per_a", "meV/Å"),
            ("S", "val_stress_rmse_mev_per_a3", "meV/Å³"),
        )
        errors = [
            f"{name} {quantity(row[key], unit)}" for name, key, unit in shown if math.isfinite(row.get(key, math.nan))
        ]
        return "val RMSE " + ", ".join(errors) if errors else ""

    def further_passes(self, model: Potential) -> int:
        """Return how often the validation set is compared with an image of itself."""
        return len(_images(model))

    def further_metrics(self, model: Potential, val_loader: Any, device: torch.device) -> dict[str, tuple[float, str]]:
        """Return how far mirror images or turned structures differ, for a model whose construction does not forbid it."""
        found: dict[str, tuple[float, str]] = {}
        for name, (matrix, of_what) in _images(model).items():
            error = image_error(model, val_loader, device, matrix)
            found[f"{name}_error_mev_per_atom"] = (error, f"{of_what} differ by {quantity(error, 'meV/atom')} (RMS)")
        return found


def _images(model: Potential) -> dict[str, tuple[Tensor, str]]:
    """Return the images of structures whose energy may differ: name -> matrix, and how a person calls them."""
    backbone = model.recipe["backbone"]
    images = {}
    if backbone.get("parity") == "so3":
        images["mirror"] = (-torch.eye(3), "parity so3: mirror images of validation structures")
    if backbone.get("feedforward") == "s2":
        turn = torch.linalg.matrix_exp(torch.tensor(TURN))
        images["rotation"] = (turn, "feedforward=s2: turned validation structures")
    return images


def _isolated_energy(model: Potential, batch: Any) -> Tensor:
    """Return the energy [G] (eV) of each structure's atoms far apart, from the model's recipe."""
    e0 = torch.zeros(max(model.elements) + 1, dtype=torch.float64, device=batch.pos.device)
    e0[torch.tensor(model.elements, device=e0.device)] = e0.new_tensor(model.recipe["e0"])
    energy = e0.new_zeros(batch.num_graphs)
    return energy.index_add_(0, batch.batch, e0[batch.atomic_numbers])


def image_error(model: Potential, loader: Any, device: torch.device, matrix: Tensor) -> float:
    """Return the RMS difference (meV per atom) between the energies of structures and of their images.

    Args:
        model: the potential.
        loader: batches of structures.
        device: where to evaluate.
        matrix: [3, 3], orthogonal; positions and lattice vectors v become v @ matrix.
    """
    matrix = matrix.to(device, torch.float64)
    differences = []
    for batch in loader:
        image = batch.to(device)
        energy = model(image, forces=False)["energy"]
        image.pos, image.cell = image.pos @ matrix, image.cell @ matrix
        differences.append((model(image, forces=False)["energy"] - energy) / image.ptr.diff())
    return MEV * float(torch.cat(differences).square().mean().sqrt())


def loss_table(loss: WeightedLoss, scales: Mapping[str, float]) -> Table:
    """Return the table of the loss: which errors, divided by what, count how much."""
    table = Table("label", "error", "scale", "weight", "at the end", title="loss: Σ weight · mean error / scale")
    for name in sorted(loss.targets.keys() & scales.keys(), key=keys.LABELS.index):
        target = loss.targets[name]
        scale = f"{target.scale:.4g} {UNITS[name]}"
        table.add_row(name, ERRORS[target.loss], scale, f"{target.weight_at(0.0):.3g}", f"{target.weight_at(1.0):.3g}")
    return table


def error_table(rows: list[tuple[str, dict[str, float]]]) -> Table:
    """Return the table of errors: one row per split, and per config_type where there are several."""
    table = Table(title="Errors of the best model (MAE / RMSE)", title_justify="left", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)  # whole on 80 columns
    table.add_column("split", overflow="fold")
    table.add_column("frames", justify="right")
    columns = []  # keys of MAE and RMSE, and the factor of what is shown
    for title, name, suffix, unit in (
        ("energy", "energy", "mev", "meV"),
        ("energy", "energy", "mev_per_atom", "meV/atom"),
        ("forces", "forces", "mev_per_a", "meV/Å"),
        ("stress", "stress", "mev_per_a3", "meV/Å³"),
    ):
        both = (f"{name}_mae_{suffix}", f"{name}_rmse_{suffix}")
        values = [errors[key] for _, errors in rows for key in both if key in errors]
        if values:
            shown, factor = shown_unit(values, unit)
            columns.append((*both, factor))
            table.add_column(f"{title}\n{shown}", justify="right")
    table.add_column("forces\nRMSE/RMS", justify="right", no_wrap=True)
    for name, errors in rows:
        cells = [
            f"{number(factor * errors[mae])} / {number(factor * errors[rmse])}" if mae in errors else ""
            for mae, rmse, factor in columns
        ]
        rms = errors.get("forces_rms_mev_per_a", 0.0)
        relative = f"{100 * errors['forces_rmse_mev_per_a'] / rms:.1f} %" if rms > 0 else ""
        table.add_row(name, structures_shown(errors), *cells, relative)
    return table


def oc20_table(rows: list[tuple[str, dict[str, float]]]) -> Table:
    """Return the table of the Open Catalyst Project's metrics, forces of free atoms only."""
    table = Table(title="Open Catalyst metrics", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("split", no_wrap=True)
    columns = (
        ("energy_mae\neV", "energy_mae", "{:.4f}"),
        ("forces_mae\neV/Å", "forces_mae", "{:.4f}"),
        ("forces_cos", "forces_cos", "{:.3f}"),
        ("efwt", "efwt", "{:.2%}"),
    )
    for title, _, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for name, errors in rows:
        table.add_row(name, *(form.format(errors[key]) if key in errors else "" for _, key, form in columns))
    return table

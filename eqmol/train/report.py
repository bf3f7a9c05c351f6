"""After the run: errors of the best model on every split, as a table, as numbers and as figures."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from eqmol import checkpoint, plots
from eqmol.files import replacing
from eqmol.graph import keys
from eqmol.models import Potential
from eqmol.train import folder
from eqmol.train.folder import RunFolder
from eqmol.train.metrics import Errors
from eqmol.train.task import Task
from eqmol.units import MEV

TRAIN, VAL = "train", "val"  #: names of the splits that are not tests
MAX_POINTS = 20_000  #: force components per split in the parity plot


class Evaluation:
    """Errors and parity data of one split."""

    def __init__(self, model: Potential, oc20: bool):
        self.errors = Errors(oc20)
        self._model = model
        self._energies: list[Tensor] = []
        self._forces: list[Tensor] = []

    def run(self, loader: Any, device: torch.device) -> None:
        """Predict every batch of a loader."""
        for batch in loader:
            labelled = batch.to(device)
            output = self._model(labelled, forces=True, stress=keys.STRESS in labelled)
            self.errors.update(output, labelled)
            natoms = labelled.ptr.diff()
            baseline = _isolated_energy(self._model, labelled)
            if keys.ENERGY in labelled:
                pair = torch.stack((labelled.energy, output["energy"]))
                self._energies.append(((pair - baseline) / natoms).cpu())
            if keys.FORCES in labelled:
                self._forces.append(torch.stack((labelled.forces.flatten(), output["forces"].flatten())).cpu())

    def parity(self) -> dict[str, NDArray[np.float32]]:
        """Return {"energy", "forces"}: arrays [2, points] of reference and prediction.

        Energies are per atom and relative to isolated atoms (eV per atom), forces are components (eV/Å), thinned out
        evenly where there are more than a figure can show.
        """
        data = {}
        for name, parts in (("energy", self._energies), ("forces", self._forces)):
            if parts:
                points = torch.cat(parts, dim=1).numpy()
                step = max(1, -(-points.shape[1] // MAX_POINTS))
                data[name] = points[:, ::step].astype(np.float32)
        return data


def _isolated_energy(model: Potential, batch: Any) -> Tensor:
    """Return the energy [G] (eV) of each structure's atoms far apart, from the model's recipe."""
    e0 = torch.zeros(max(model.elements) + 1, dtype=torch.float64, device=batch.pos.device)
    e0[torch.tensor(model.elements, device=e0.device)] = e0.new_tensor(model.recipe["e0"])
    energy = e0.new_zeros(batch.num_graphs)
    return energy.index_add_(0, batch.batch, e0[batch.atomic_numbers])


def write_report(
    run: RunFolder,
    loaders: Mapping[str, Any],
    device: torch.device,
    extra: Mapping[str, Any],
    console: Console,
    oc20: bool = False,
) -> dict[str, Any]:
    """Evaluate the saved model on every split; print the table, write metrics.json and the figures.

    Args:
        run: the folder with model.safetensors.
        loaders: "train", "val" and the tests by name.
        device: where to evaluate.
        extra: further entries of metrics.json.
        console: where to print.
        oc20: also report the metrics of the Open Catalyst Project.

    Returns:
        What metrics.json holds: "train", "val", "test" (by name), and ``extra``.
    """
    model = checkpoint.load(run.path / folder.MODEL, device=device)
    metrics: dict[str, Any] = {TRAIN: {}, VAL: {}, "test": {}}
    parity: dict[str, NDArray[np.float32]] = {}
    rows: list[tuple[str, dict[str, float]]] = []
    for name, loader in loaders.items():
        evaluation = Evaluation(model, oc20)
        evaluation.run(loader, device)
        summary: dict[str, Any] = dict(evaluation.errors.summary())
        rows.append((name, summary))
        groups = evaluation.errors.by_config_type()
        if len(groups) > 1:
            rows.extend((f"  {group}", errors) for group, errors in groups.items())
            summary = summary | {"config_types": groups}
        if name in (TRAIN, VAL):
            metrics[name] = summary
        else:
            metrics["test"][name] = summary
        parity |= {f"{name}/{quantity}": points for quantity, points in evaluation.parity().items()}
    if model.recipe["backbone"]["parity"] == "so3":
        metrics["mirror_error_mev_per_atom"] = mirror_error(model, loaders[VAL], device)
    metrics |= extra
    metrics["peak_memory_mib"] = round(peak_memory_mib(device), 1)
    with replacing(run.path / folder.METRICS) as file:
        json.dump(checkpoint.plain(metrics), file, indent=2)
    with replacing(run.path / folder.PARITY_DATA, "wb") as file:
        np.savez_compressed(file, **parity)  # type: ignore[arg-type]
    plots.parity(run.path / folder.PARITY_DATA, run.path / folder.PARITY)
    plots.learning_curve(run.path / folder.LOG, run.path / folder.LEARNING_CURVE)
    console.print(error_table(rows))
    if oc20:
        console.print(oc20_table(rows))
    if "mirror_error_mev_per_atom" in metrics:
        error = metrics["mirror_error_mev_per_atom"]
        console.print(f"parity so3: mirror images of validation structures differ by {error:.3g} meV/atom (RMS)")
    return metrics


def mirror_error(model: Potential, loader: Any, device: torch.device) -> float:
    """Return the RMS difference (meV per atom) between the energies of structures and of their mirror images.

    It should vanish; parity "so3" does not make it vanish.
    """
    differences = []
    for batch in loader:
        image = batch.to(device)
        energy = model(image, forces=False)["energy"]
        image.pos, image.cell = -image.pos, -image.cell
        differences.append((model(image, forces=False)["energy"] - energy) / image.ptr.diff())
    return MEV * float(torch.cat(differences).square().mean().sqrt())


def print_summary(console: Console, task: Task, datamodule: Any, run: RunFolder, device: torch.device) -> None:
    """Print what is about to be trained, on what, and where it will lie."""
    for table in datamodule.tables():
        console.print(table)
    model = task.predictor
    backbone = model.recipe["backbone"]
    weights = sum(parameter.numel() for parameter in model.parameters())
    start = "continues" if run.checkpoint is not None else "begins"
    console.print(
        f"model: {weights:,} weights, family {backbone['family']}, parity {backbone['parity']}, "
        f"{str(model.dtype).removeprefix('torch.')}; backend {backbone['backend']} on {device}, "
        f"{torch.get_num_threads()} threads\noutput: {run.path} ({start})",
        soft_wrap=True,
        highlight=False,
    )


def error_table(rows: list[tuple[str, dict[str, float]]]) -> Table:
    """Return the table of errors: one row per split, and per config_type where there are several."""
    table = Table(title="Errors of the best model (MAE / RMSE)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("split", no_wrap=True)
    table.add_column("frames", justify="right", no_wrap=True)
    shown = [
        (title, f"{name}_mae_{unit}", f"{name}_rmse_{unit}")
        for title, name, unit in (
            ("energy\nmeV", "energy", "mev"),
            ("energy\nmeV/atom", "energy", "mev_per_atom"),
            ("forces\nmeV/Å", "forces", "mev_per_a"),
            ("stress\nmeV/Å³", "stress", "mev_per_a3"),
        )
        if any(f"{name}_mae_{unit}" in errors for _, errors in rows)
    ]
    for title, _, _ in shown:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("forces\nRMSE/RMS", justify="right", no_wrap=True)
    for name, errors in rows:
        cells = [f"{errors[mae]:.3g} / {errors[rmse]:.3g}" if mae in errors else "" for _, mae, rmse in shown]
        rms = errors.get("forces_rms_mev_per_a", 0.0)
        relative = f"{100 * errors['forces_rmse_mev_per_a'] / rms:.1f} %" if rms > 0 else ""
        table.add_row(name, str(int(errors.get("structures", 0))), *cells, relative)
    return table


def oc20_table(rows: list[tuple[str, dict[str, float]]]) -> Table:
    """Return the table of the Open Catalyst Project's metrics, forces of free atoms only."""
    table = Table(title="Open Catalyst metrics", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("split", no_wrap=True)
    columns = (
        ("energy_mae\neV", "energy_mae", "{:.4f}"),
        ("forces_mae\neV/Å", "forces_mae", "{:.4f}"),
        ("forces_mae\nzero forces", "forces_mae_of_zero", "{:.4f}"),
        ("forces_cos", "forces_cos", "{:.3f}"),
        ("efwt", "efwt", "{:.2%}"),
    )
    for title, _, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for name, errors in rows:
        table.add_row(name, *(form.format(errors[key]) if key in errors else "" for _, key, form in columns))
    return table


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory used so far, MiB: of the GPU if there is one in use, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan
    import resource  # only where there is one

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

"""Errors of QM9 runs beside two baselines on the very same split, printed and written as CSV.

    python benchmarks/qm9.py runs/a runs/b [--csv docs/benchmarks/qm9.csv]      # pip install -e '.[benchmarks]'

Baselines: "linear", a constant and a contribution of each element by least squares; "boosting", scikit-learn's
HistGradientBoostingRegressor on RDKit's Morgan counts (radius 2) and descriptors, trained on what "linear" leaves over.
Both see the training set only. Without runs: the baselines on the default split.
"""

import argparse
import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingRegressor

from eqmol.data.qm9 import targets as known
from eqmol.data.qm9.datamodule import QM9, MoleculeGraphs
from eqmol.data.qm9.statistics import composition
from eqmol.errors import InputError
from eqmol.files import replacing

TARGETS = ("U0", "mu", "alpha", "gap")
BASELINES = ("linear", "boosting")
FINGERPRINT = 2048
LEAF = 20
BOOSTING = {"max_iter": 300, "loss": "squared_error", "min_samples_leaf": LEAF, "random_state": 0}

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of its folder.
        model, backend, optimizer: what was trained, and how.
        noise: Å.
        minutes, steps: of training.
        errors: MAE on the test set by target, in the units of tables.
        data: its options of ``data``.
        split: molecules of each split.
    """

    name: str
    model: str
    backend: str
    optimizer: str
    noise: float
    minutes: float
    steps: int
    errors: dict[str, float]
    data: dict[str, Any] = field(repr=False)
    split: dict[str, list[int]] = field(repr=False)


def read_run(folder: Path) -> Run:
    """Read metrics.json, config.yaml and split.json.

    Raises:
        InputError: the run is not finished, or not one on QM9.
    """
    for name in ("metrics.json", "config.yaml", "split.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; give folders of finished runs with data=qm9 or data=qm9_sample")
    metrics = json.loads((folder / "metrics.json").read_text())
    config = OmegaConf.load(folder / "config.yaml")
    test = metrics["test"]["test"]
    return Run(
        name=folder.name,
        model=config.predictor.backbone._target_.rsplit(".", 1)[-1],
        backend=config.predictor.backbone.backend,
        optimizer=config.task.optimizer._target_.rsplit(".", 1)[-1],
        noise=config.task.noise,
        minutes=metrics["seconds"] / 60,
        steps=metrics["steps"],
        errors={key.removesuffix("_mae"): value for key, value in test.items() if key.endswith("_mae")},
        data=OmegaConf.to_container(config.data),
        split=json.loads((folder / "split.json").read_text()),
    )


def datamodule_of(runs: list[Run], folders: list[Path], targets: tuple[str, ...]) -> QM9:
    """The data with the split that all runs share.

    Raises:
        InputError: the runs do not share it.
    """
    for run in runs[1:]:
        if run.split != runs[0].split:
            raise InputError(f"{run.name} and {runs[0].name} have different splits; compare them in two tables")
    data = QM9(
        cutoff=5.0,
        required=targets,
        folder=runs[0].data["folder"] if runs else "qm9",
        split_file=str(folders[0] / "split.json") if runs else None,
    )
    data.setup()
    return data


def molecules_of(sdf: str, wanted: set[int]) -> dict[int, Chem.Mol]:
    """RDKit's molecules by number; those that it cannot sanitise are absent."""
    found = {}
    with rdBase.BlockLogs():
        supplier = Chem.SDMolSupplier(sdf)
        for mol in supplier:
            if mol is not None and (number := int(mol.GetProp("_Name").rsplit("_", 1)[-1])) in wanted:
                found[number] = mol
    return found


def features(ids: NDArray[np.int64], mols: dict[int, Chem.Mol]) -> NDArray[np.float32]:
    """Morgan counts and RDKit's descriptors, [molecules, features]; NaN for molecules that are absent."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=FINGERPRINT)
    rows = np.full((len(ids), FINGERPRINT + len(Descriptors.descList)), np.nan)
    with rdBase.BlockLogs():
        for row, number in zip(rows, ids.tolist(), strict=True):
            if number in mols:
                row[:FINGERPRINT] = generator.GetCountFingerprintAsNumPy(mols[number])
                row[FINGERPRINT:] = list(Descriptors.CalcMolDescriptors(mols[number]).values())
    limit = np.finfo(np.float32).max
    return np.where(np.isinf(rows), np.nan, rows).clip(-limit, limit).astype(np.float32)


def can_split(values: NDArray[np.float32]) -> bool:
    """Whether enough molecules differ from the most frequent value to fill a leaf."""
    return len(values) - np.unique(values, return_counts=True)[1].max() >= LEAF


def baselines(data: QM9, targets: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """MAE on the test set by baseline and target, in the units of tables."""
    train, test = data.train_graphs, data.test_graphs["test"]
    assert isinstance(train, MoleculeGraphs)
    assert isinstance(test, MoleculeGraphs)
    molecules = train.molecules
    mols = molecules_of(train.source, set(molecules.ids.tolist()))
    for number in sorted({*molecules.ids[train.rows].tolist(), *molecules.ids[test.rows].tolist()} - mols.keys()):
        print(f"gdb_{number}: RDKit cannot sanitise it; boosting goes without its features")
    counts = composition(molecules, np.unique(molecules.numbers).tolist())
    constant = np.concatenate([counts, np.ones((len(counts), 1))], axis=1)
    seen, asked = (features(molecules.ids[graphs.rows], mols) for graphs in (train, test))
    useful = [column for column, values in enumerate(seen.T) if can_split(values)]
    errors: dict[str, dict[str, float]] = {name: {} for name in BASELINES}
    for target in targets:
        values = molecules.values[:, known.COLUMNS[target]]
        weights, *_ = np.linalg.lstsq(constant[train.rows], values[train.rows], rcond=None)
        rest = values - constant @ weights
        boosting = HistGradientBoostingRegressor(**BOOSTING).fit(seen[:, useful], rest[train.rows])
        left = rest[test.rows]
        for name, error in (("linear", left), ("boosting", left - boosting.predict(asked[:, useful]))):
            errors[name][target] = float(np.abs(error).mean()) * known.TARGETS[target].shown_factor
    return errors


def report(runs: list[Run], errors: dict[str, dict[str, float]], title: str) -> list[Table | str]:
    """The table, and a sentence for everything that a run does not do better than a baseline."""
    targets = tuple(errors["linear"])
    table = Table(
        *("", "model", "backend", "optimizer", "noise / Å", "minutes", "steps"),
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for target in targets:
        table.add_column(f"{target}\n{known.TARGETS[target].shown_unit}", justify="right", no_wrap=True)
    for name in BASELINES:
        table.add_row(name, "baseline", *[""] * 5, *(f"{errors[name][target]:.4g}" for target in targets))
    sentences = []
    for run in runs:
        cells = []
        for target in targets:
            if target not in run.errors:
                cells.append("")
                continue
            mae, unit = run.errors[target], known.TARGETS[target].shown_unit
            better = [name for name in BASELINES if errors[name][target] <= mae]
            cells.append(f"{mae:.4g}{' *' if better else ''}")
            sentences += [
                f"* {run.name} does not beat {name} on {target}: {mae:.4g} against {errors[name][target]:.4g} {unit}"
                for name in better
            ]
        minutes, steps = f"{run.minutes:.1f}", str(run.steps)
        table.add_row(run.name, run.model, run.backend, run.optimizer, f"{run.noise:g}", minutes, steps, *cells)
    return [table, *sentences]


def write_csv(path: Path, runs: list[Run], errors: dict[str, dict[str, float]], sizes: tuple[int, int]) -> None:
    """One row per model and target."""
    names = ["name", "model", "backend", "optimizer", "noise_angstrom", "minutes", "steps"]
    rows: list[list[Any]] = [[name, "baseline", *[""] * 5, errors[name]] for name in BASELINES]
    rows += [[r.name, r.model, r.backend, r.optimizer, r.noise, f"{r.minutes:.1f}", r.steps, r.errors] for r in runs]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "train", "test", "target", "unit", "mae", "beats_linear", "beats_boosting"])
        for *head, found in rows:
            for target, mae in found.items():
                beats = ["" if head[1] == "baseline" else mae < errors[name][target] for name in BASELINES]
                writer.writerow([*head, *sizes, target, known.TARGETS[target].shown_unit, f"{mae:.5g}", *beats])


def compare(folders: list[Path], path: Path) -> None:
    """Print and write the table of some runs."""
    runs = [read_run(folder) for folder in folders]
    targets = tuple(dict.fromkeys(name for run in runs for name in run.errors)) or TARGETS
    data = datamodule_of(runs, folders, targets)
    errors = baselines(data, targets)
    sizes = (len(data.train_graphs), len(data.test_graphs["test"]))
    for shown in report(runs, errors, f"MAE on {sizes[1]} test molecules, trained on {sizes[0]}"):
        Console(width=140, highlight=False).print(shown)
    write_csv(path, runs, errors, sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--csv", type=Path, default=Path("docs/benchmarks/qm9.csv"))
    options = parser.parse_args()
    try:
        compare(options.runs, options.csv)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

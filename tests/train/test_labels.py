"""What a run makes of the labels that its data have."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.stress import voigt_6_to_full_3x3_stress
from omegaconf import OmegaConf
from rich.console import Console

import eqmol
from eqmol.errors import InputError
from eqmol.train import remainder
from eqmol.train.run import run
from tests.train.runs import configuration, train, weights

STRESS = 0.02  #: eV/Å³
UNITS = {"energy": "mev_per_atom", "forces": "mev_per_a", "stress": "mev_per_a3"}
#: What some frames lack.
LACKING = {0: ("forces", "stress"), 1: ("energy", "stress"), 2: ("stress",)}


def copper(path: Path, stressed: int) -> str:
    """Write ten distorted cells of copper, some with a stress; return the option that names them."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(10):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.1, (4, 3))
        labels = {"energy": float(rng.normal(-14, 0.4)), "forces": rng.normal(0, 1, (4, 3))}
        if number < stressed:
            labels["stress"] = np.full(6, STRESS)
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    write(path, frames)
    return f"data.train_file={path}"


def options(folder: Path, stressed: int, *more: str) -> list[str]:
    return [
        copper(folder / "cu.xyz", stressed),
        f"data.val_file={folder / 'cu.xyz'}",
        "data.test_files=null",
        "data.isolated_atoms_file=null",
        "trainer.max_epochs=1",
        *more,
    ]


def shown(folder: Path, out: str, *given: str) -> str:
    file = io.StringIO()
    run(configuration(folder, out, *given), Console(file=file, width=120))
    return file.getvalue()


def test_a_stress_in_some_frames_takes_part(tmp_path):
    text = shown(tmp_path, "with", *options(tmp_path, 4))
    assert "│ stress │ squared │ 0.02 eV/Å³" in text
    statistics = OmegaConf.load(tmp_path / "with" / "config.yaml").statistics
    assert statistics.label_scales.stress == pytest.approx(STRESS)
    train(tmp_path, "without", *options(tmp_path, 4, "task.targets.stress.weight=0"))
    a, b = (weights(tmp_path, name)["raw.predictor.backbone.embedding.weight"] for name in ("with", "without"))
    assert not a.allclose(b)


def test_without_a_stress_or_a_model_that_has_one_nothing_is_asked_of_it(tmp_path):
    assert "│ stress" not in shown(tmp_path, "none", *options(tmp_path, 0))
    direct = ["model.degree_out=1", "predictor.forces=direct"]
    assert "│ stress │ squared" not in shown(tmp_path, "direct", *options(tmp_path, 4, *direct))
    with pytest.raises(InputError, match=r"forces=direct has no stress.*task.targets.stress.weight=0"):
        train(tmp_path, "asked", *options(tmp_path, 4, *direct, "task.targets.stress.weight=1"))
    with pytest.raises(InputError, match="no stress under the key 'stress'"):
        train(tmp_path, "missing", *options(tmp_path, 0, "task.targets.stress.weight=1"))


def test_labels_are_partial_by_nature(tmp_path, monkeypatch):
    """Also in batches without any force, energy or stress: what is there is trained on and judged."""
    monkeypatch.setattr(remainder, "WORTH", 1.0)  # the saved model is that of the last validation
    rng = np.random.default_rng(0)
    frames = []
    for number in range(8):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.1, (4, 3))
        labels = {
            "energy": float(rng.normal(-14, 0.4)),
            "forces": rng.normal(0, 1, (4, 3)),
            "stress": np.full(6, STRESS),
        }
        for label in LACKING.get(number, ()):
            del labels[label]
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    file = tmp_path / "[bold]partial.xyz"
    write(file, frames)
    given = [
        f"data.train_file='{file}'",
        f"data.val_file='{file}'",
        "data.isolated_atoms_file=null",
        "trainer.max_epochs=1",
    ]
    tests = [f"data.test_files={{later: '{energies_only(tmp_path / 'few.xyz', frames)}'}}", "data.batch_size=1"]
    text = shown(tmp_path, "run", *given, *tests)
    assert "7/8" in text
    assert "5/8" in text
    assert "[bold]partial.xyz" in text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    model = eqmol.load(tmp_path / "run" / "model.safetensors")
    assert model.label_keys == {"energy": "energy", "forces": "forces", "stress": "stress"}
    errors = {"energy": [], "forces": [], "stress": []}
    for atoms, result in zip(frames, eqmol.predict([atoms.copy() for atoms in frames], model), strict=True):
        for label, value in atoms.calc.results.items():
            value = voigt_6_to_full_3x3_stress(value) if label == "stress" else value
            errors[label].append(np.ravel(result[label] - value))
    with open(tmp_path / "run" / "log.csv", newline="") as log:
        (loss,) = (float(row["val_loss"]) for row in csv.DictReader(log))
    errors["energy"] = [error / 4 for error in errors["energy"]]
    for label, unit in UNITS.items():
        found = 1e3 * np.sqrt(np.mean(np.concatenate(errors[label]) ** 2))
        assert metrics["train"][f"{label}_rmse_{unit}"] == pytest.approx(found, rel=1e-4)
    assert "forces_rmse_mev_per_a" not in metrics["test"]["later"]
    # means over all labels of the set, whatever its batches
    scales = OmegaConf.load(tmp_path / "run" / "config.yaml").statistics.label_scales
    mean = {
        label: (1e-3 * metrics["val"][f"{label}_rmse_{unit}"] / scales[label]) ** 2 for label, unit in UNITS.items()
    }
    assert loss == pytest.approx(10 * mean["energy"] + 100 * mean["forces"] + 10 * mean["stress"], rel=1e-4)
    with np.load(tmp_path / "run" / "parity.npz") as points:
        sizes = {name: points[name].shape[1] for name in points.files}
        assert all(np.isfinite(points[name]).all() for name in points.files)
    assert sizes == {"train/energy": 7, "val/energy": 7, "later/energy": 3, "train/forces": 84, "val/forces": 84}


def energies_only(path: Path, frames: list[Atoms]) -> Path:
    """Write the last three frames without their other labels."""
    bare = [atoms.copy() for atoms in frames[-3:]]
    for atoms, labelled in zip(bare, frames[-3:], strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=labelled.get_potential_energy())
    write(path, bare)
    return path


def test_energies_are_learnt_where_forces_are_only_noise(tmp_path):
    """An energy-volume curve of a cell of one atom."""
    rng = np.random.default_rng(0)
    frames = []
    for length in np.linspace(3.3, 4.0, 12):
        atoms = bulk("Cu", a=length)
        labels = {"energy": 2.0 * (length - 3.6) ** 2, "forces": 1e-7 * rng.normal(size=(1, 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    file = tmp_path / "curve.xyz"
    write(file, frames)
    deviation = 1e3 * np.std([atoms.get_potential_energy() for atoms in frames])
    files = [
        f"data.train_file={file}",
        f"data.val_file={file}",
        "data.test_files=null",
        "data.isolated_atoms_file=null",
    ]
    given = ["data.batch_size=2", "model.cutoff=4.5", "trainer.max_epochs=25", "trainer.ema_decay=null"]
    metrics = train(tmp_path, "run", *files, *given)
    assert metrics["train"]["energy_rmse_mev_per_atom"] < 0.5 * deviation

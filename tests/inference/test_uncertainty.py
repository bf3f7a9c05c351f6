"""Predictions say how sure they are, where the model knows it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from scipy.stats import norm

import eqmol
from eqmol.cli.main import main
from eqmol.errors import InputError
from eqmol.inference.calibration import CONFIDENCES, Calibration, within
from eqmol.models.uncertainty import STRUCTURES, Factors, Posterior
from tests.recipes import model

NAMES = {"energy_std", "energies_std", "forces_std"}


def sure(exact: float | None = 0.5, forces: float | None = 0.3) -> Any:
    """A tiny model with a posterior."""
    potential = model()
    random = torch.randn(2, potential.num_last, potential.num_last, dtype=torch.float64)
    means = torch.randn(len(potential.elements), potential.num_last, dtype=torch.float64)
    Posterior(random[0], random[1], 0.1 * means, Factors(0.1, forces, exact, 2.0, 10, 5)).write(potential)
    return potential


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    eqmol.save(sure(), file)
    return file


def structures() -> list[Atoms]:
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    return [molecule("CH3CH2OH"), copper, molecule("H2O")]


def test_every_way_says_the_same(path: Path, tmp_path: Path) -> None:
    several = eqmol.predict(structures(), path, batch_size=3)
    write(tmp_path / "in.xyz", structures())
    assert main(["predict", str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]) == 0
    for atoms, result, frame in zip(structures(), several, read(tmp_path / "out.xyz", ":"), strict=True):
        assert result.keys() >= NAMES
        assert result["energies_std"].shape == result["forces_std"].shape == (len(atoms),)
        assert (result["forces_std"] > 0).all()
        atoms.calc = eqmol.Calculator(path)
        atoms.get_forces()
        for name in NAMES:
            assert np.abs(atoms.calc.results[name] - result[name]).max() < 1e-10
        assert set(atoms.calc.implemented_properties) > NAMES
        assert frame.info["eqmol_energy_std"] == pytest.approx(result["energy_std"], abs=1e-7)
        assert frame.arrays["eqmol_forces_std"] == pytest.approx(result["forces_std"], abs=1e-7)


def test_exact_is_of_every_component_and_turns_with_the_structure(path: Path) -> None:
    atoms = molecule("CH3CH2OH")
    result = eqmol.predict(atoms, path, uncertainty="exact")
    assert result["forces_std"].shape == (len(atoms), 3)
    turned = atoms.copy()
    turned.rotate(50, (1, 2, 3))
    again = eqmol.predict(turned, path, uncertainty="exact")
    size = [np.square(each["forces_std"]).sum(axis=1) for each in (result, again)]
    assert np.abs(size[0] - size[1]).max() < 1e-9
    cheap = eqmol.predict(atoms, path)
    assert cheap["energy_std"] == pytest.approx(result["energy_std"], rel=1e-12)


def test_off_and_models_without(path: Path) -> None:
    water = molecule("H2O")
    assert not eqmol.predict(water, path, uncertainty="off").keys() & NAMES
    plain = model()
    assert not eqmol.predict(water, plain).keys() & NAMES
    with pytest.raises(InputError, match="which eqmol train writes into its file"):
        eqmol.Calculator(plain, uncertainty="cheap")
    with pytest.raises(InputError, match="uncertainty='much' is unknown; choose auto, off, cheap, exact"):
        eqmol.Calculator(path, uncertainty="much")
    with pytest.raises(InputError, match="validation set had no forces; take uncertainty=cheap"):
        eqmol.predict(water, sure(exact=None), uncertainty="exact")
    assert "forces_std" not in eqmol.predict(water, sure(forces=None))


def test_what_has_no_place_for_a_std(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(path), "--smiles", "O", "--uncertainty", "exact"]) == 2
    assert "--uncertainty exact is for structures" in capsys.readouterr().err


def test_a_damaged_section_is_refused_in_a_sentence(tmp_path: Path) -> None:
    potential = sure()
    potential.aux[STRUCTURES] = potential.aux[STRUCTURES][:2]
    with pytest.raises(InputError, match=r"'aux.uncertainty.structures' is torch.float64 \[2, "):
        eqmol.save(potential, tmp_path / "model.safetensors")


def test_calibration_of_errors_that_are_what_they_should_be() -> None:
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 2.0, size=20_000)
    errors = std * rng.normal(size=std.shape)
    good = Calibration.of(std, errors)
    assert good.area < 0.01
    assert good.ratio == pytest.approx(1.0, abs=0.02)
    small = Calibration.of(std / 3, errors)
    assert small.ratio == pytest.approx(3.0, abs=0.06)
    expected = np.abs(2 * norm.cdf(norm.ppf(0.5 + CONFIDENCES / 2) / 3) - 1 - CONFIDENCES).mean()
    assert small.area == pytest.approx(expected, abs=0.01)
    assert small.words("it").endswith("too sure of itself there")
    assert Calibration.of(1e9, errors).area == pytest.approx(0.5, abs=0.01)


def test_parts_within_intervals_are_counted() -> None:
    rng = np.random.default_rng(1)
    std, errors = rng.uniform(1, 2, size=50), rng.normal(size=50)
    slow = [(np.abs(errors) <= std * norm.ppf(0.5 + p / 2)).mean() for p in CONFIDENCES]
    assert within(std, errors) == pytest.approx(np.array(slow), abs=1e-12)

"""Every installed engine beside the calculator: same model, same structures, atoms in another order and other cells."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from eqmol.checkpoint import save
from eqmol.cli.main import main
from eqmol.engines.check import SINGLE_POINTS, SinglePoint, by_calculator, difference, trial_structure
from eqmol.engines.installed import ENGINES, missing
from eqmol.errors import InputError
from eqmol.graph.dispersion import Dispersion
from tests.engines.structures import Reference, reference, structures
from tests.recipes import model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*extrapolation:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the engines
]


@cache
def expected(name: str, dtype: torch.dtype) -> Reference:
    return reference(model(dtype), structures()[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", structures())
@pytest.mark.parametrize("engine", SINGLE_POINTS)
def test_agrees_with_the_calculator(engine: str, name: str, dtype: torch.dtype) -> None:
    if missing(engine):
        pytest.skip(f"not installed: {', '.join(missing(engine))}")
    atoms = structures()[name]
    right = expected(name, dtype)
    try:
        found = SINGLE_POINTS[engine](model(dtype), atoms)
    except InputError as error:
        assert 0 < atoms.pbc.sum() < 3
        pytest.skip(str(error))
    exact = dtype == torch.float64
    assert abs(found.energy - right.energy) < (1e-6 if exact else 1e-5 * len(atoms))
    assert np.abs(found.forces - right.forces).max() < (1e-6 if exact else 1e-4)
    if found.virial is not None:
        assert np.abs(found.virial - right.virial).max() < (1e-6 if exact else 1e-4 * len(atoms))


@pytest.mark.parametrize("engine", SINGLE_POINTS)
def test_dispersion_is_there_once_or_refused(engine: str) -> None:
    """What an engine says of a model with D3 is what it says of the same one without, and D3."""
    pytest.importorskip("dftd3.interface")
    if missing(engine):
        pytest.skip(f"not installed: {', '.join(missing(engine))}")
    atoms, dispersion = trial_structure(model()), Dispersion.choose("pbe")
    full = model()
    full.set_dispersion(dispersion)
    if engine == "lammps":
        with pytest.raises(InputError, match="reaches beyond the parts that LAMMPS divides structures into"):
            SINGLE_POINTS[engine](full, atoms)
        return
    bare, found = (SINGLE_POINTS[engine](each, atoms) for each in (model(), full))
    added = dispersion(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    assert abs(added.energies.sum()) > 0.1
    assert found.energy - bare.energy == pytest.approx(added.energies.sum(), abs=1e-6)
    np.testing.assert_allclose(found.forces - bare.forces, added.forces, atol=1e-6)
    if found.virial is not None:
        np.testing.assert_allclose(found.virial - bare.virial, -added.strain, atol=1e-6)


def test_a_wrong_engine_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(model(), tmp_path / "model.safetensors")

    def wrong(potential, atoms) -> SinglePoint:
        right = by_calculator(potential, atoms)
        return right._replace(forces=right.forces + 0.5)

    monkeypatch.setattr("eqmol.engines.check.SINGLE_POINTS", {"lammps": by_calculator})
    monkeypatch.setattr("eqmol.cli.engines.missing", lambda name: ["openmm"] if name == "openmm" else [])
    assert main(["engines", str(tmp_path / "model.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "agrees: 0e+00 eV, 0e+00 eV/Å, virial 0e+00 eV" in printed
    assert "no openmm" in printed
    assert "pip install 'eqmol[openmm]'" in printed
    monkeypatch.setattr("eqmol.engines.check.SINGLE_POINTS", {"lammps": wrong})
    assert main(["engines", str(tmp_path / "model.safetensors")]) == 1
    assert "differs: 0e+00 eV, 5e-01 eV/Å" in capsys.readouterr().out


def test_list_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines"]) == 0
    printed = capsys.readouterr().out
    assert all(engine.title in printed for engine in ENGINES.values())
    assert "PLUMED: " in printed


def test_differences() -> None:
    one = SinglePoint(1.0, np.zeros((2, 3)), None)
    other = SinglePoint(1.5, np.full((2, 3), -0.25), np.ones((3, 3)))
    assert difference(one, other) == (0.5, 0.25, 0.0)
    assert difference(other, other._replace(virial=np.zeros((3, 3)))) == (0.0, 0.0, 1.0)


def test_the_trial_structure_interacts() -> None:
    potential = model()
    found = by_calculator(potential, trial_structure(potential))
    assert np.abs(found.forces).max() > 1e-3
    assert found.virial is not None
    assert np.abs(found.virial).max() > 1e-3

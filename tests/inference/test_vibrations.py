"""Vibrations from exact Hessians against ASE's finite differences."""

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import write
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from ase.vibrations.data import VibrationsData

import eqmol
from eqmol.cli.main import main
from eqmol.errors import InputError
from tests.recipes import model

WARNS = "ignore:.*(is no minimum|extrapolation):UserWarning"


def relaxed(calculator: eqmol.Calculator, name: str = "H2O"):
    atoms = molecule(name)
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=200)
    return atoms


@pytest.mark.parametrize("fixed", [[], pytest.param([0], marks=pytest.mark.slow)])
def test_they_are_those_of_finite_differences(tmp_path, fixed):
    calculator = eqmol.Calculator(model(), skin=0, close_contacts="warn")
    atoms = relaxed(calculator)
    atoms.set_constraint(FixAtoms(fixed))
    found = eqmol.vibrations(atoms, calculator)
    numeric = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-3, nfree=4)
    numeric.run()
    expected = numeric.get_vibrations()
    np.testing.assert_allclose(found.get_hessian_2d(), expected.get_hessian_2d(), atol=1e-6)
    energies = [np.abs(each.get_energies()) for each in (found, expected)]
    np.testing.assert_allclose(*(1000 * np.sort(each)[-3:] for each in energies), rtol=1e-5)
    if not fixed:
        assert np.sort(energies[0])[5] < 1e-3  # translations and rotations, eV
    assert found.get_indices().tolist() == [i for i in range(3) if i not in fixed]


@pytest.mark.filterwarnings(WARNS)
def test_crystals_and_some_atoms():
    atoms = bulk("Cu", cubic=True)
    calculator = eqmol.Calculator(model(), close_contacts="warn")
    whole = eqmol.vibrations(atoms, calculator)
    assert np.abs(whole.get_energies()[:3]).max() < 1e-4  # translations
    part = eqmol.vibrations(atoms, calculator, indices=[2, 0])
    rows = [6, 7, 8, 0, 1, 2]
    np.testing.assert_allclose(part.get_hessian_2d(), whole.get_hessian_2d()[np.ix_(rows, rows)], atol=1e-10)


def test_no_minimum_is_said_and_nothing_to_move_is_refused():
    atoms = molecule("H2O")
    atoms.positions[1] += 0.3
    calculator = eqmol.Calculator(model(), close_contacts="warn")
    with pytest.warns(UserWarning, match="no minimum of the model: the force on atom"):
        eqmol.vibrations(atoms, calculator)
    for indices in ([], [0, 0], [3], [-1]):
        with pytest.raises(InputError, match="must be atoms of the structure"):
            eqmol.vibrations(atoms, calculator, indices=indices)
    with pytest.raises(InputError, match="a calculator has its own dtype"):
        eqmol.vibrations(atoms, calculator, dtype="float64")


@pytest.mark.filterwarnings(WARNS)
def test_the_command(tmp_path, capsys):
    eqmol.save(model(), tmp_path / "m.safetensors")
    atoms = molecule("H2O")
    atoms.set_constraint(FixAtoms([0]))
    write(tmp_path / "in.xyz", atoms)
    given = ["vibrations", str(tmp_path / "m.safetensors"), str(tmp_path / "in.xyz"), "--close-contacts", "warn", "-o"]
    assert main([*given, str(tmp_path / "out.json")]) == 0
    assert "Zero-point energy:" in capsys.readouterr().out
    found = VibrationsData.read(tmp_path / "out.json")
    expected = eqmol.vibrations(atoms, eqmol.Calculator(model(), close_contacts="warn"))
    np.testing.assert_allclose(found.get_hessian_2d(), expected.get_hessian_2d(), atol=1e-10)
    assert main([*given, str(tmp_path / "out.txt")]) == 2
    assert "give a name that ends in .json" in capsys.readouterr().err

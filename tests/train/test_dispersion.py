"""Training on labels less D3, and predictions with it: once, wherever the model is used."""

import sys

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read

import eqmol
from eqmol.engines.halo import HaloPotential
from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.graph.dispersion import Dispersion
from tests.recipes import model
from tests.train.runs import train

pytest.importorskip("dftd3.interface")

D3 = "data.dispersion={functional: pbe, damping: bj}"


@pytest.fixture
def pair(tmp_path):
    """A model without and the same with dispersion, from files."""
    bare = model()
    paths = []
    for name, dispersion in (("bare", None), ("full", Dispersion.choose("pbe"))):
        bare.set_dispersion(dispersion)
        paths.append(tmp_path / f"{name}.safetensors")
        eqmol.save(bare, paths[-1])
    return paths


def test_predictions_have_it_once_wherever_they_are_made(pair):
    bare, full = pair
    molecule, crystal = bulk("Cu") * (2, 1, 1), bulk("Cu") * (2, 2, 1)
    molecule.pbc = False
    for atoms in (molecule, crystal):
        atoms.rattle(0.1, seed=1)
    dispersion = Dispersion.choose("pbe")
    loaded = eqmol.load(full)
    results = [eqmol.predict([molecule, crystal], each) for each in (bare, full, loaded)]
    results.append(eqmol.predict([molecule, crystal], eqmol.Calculator(full).model))
    for number, atoms in enumerate((molecule, crystal)):
        added = dispersion(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        for found in results[1:]:
            less, more = results[0][number], found[number]
            assert more["energy"] - less["energy"] == pytest.approx(added.energies.sum(), abs=1e-10)
            np.testing.assert_allclose(more["energies"] - less["energies"], added.energies, atol=1e-10)
            np.testing.assert_allclose(more["forces"] - less["forces"], added.forces, atol=1e-10)
            if atoms.pbc.all():
                strain = (more["stress"] - less["stress"]) * atoms.get_volume()
                np.testing.assert_allclose(strain, added.strain, atol=1e-10)
    eqmol.save(loaded, full.with_name("again.safetensors"))
    again = eqmol.predict(molecule, full.with_name("again.safetensors"))
    assert again["energy"] == pytest.approx(results[1][0]["energy"], abs=1e-10)


def test_hessian_and_stress_of_the_calculator_are_slopes(pair):
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    atoms.calc = eqmol.Calculator(pair[1], skin=0)
    hessian = atoms.calc.get_hessian(atoms)
    stress, forces, step = atoms.get_stress(voigt=False), [], 1e-4
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[0, 0] += sign * step
        forces.append(moved.get_forces())
    np.testing.assert_allclose(hessian[0], -(forces[0] - forces[1]) / (2 * step), atol=1e-4)
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * [1, 1, 1 + sign * step], scale_atoms=True)
        strained.calc = atoms.calc
        energies.append(strained.get_potential_energy())
    assert (energies[0] - energies[1]) / (2 * step) == pytest.approx(stress[2, 2] * atoms.get_volume(), abs=1e-4)


def test_what_cannot_have_it_is_refused(pair, monkeypatch):
    with pytest.raises(InputError, match="reaches beyond the parts that LAMMPS divides"):
        HaloPotential(eqmol.load(pair[1]), 1.0, "warn")
    monkeypatch.setitem(sys.modules, "dftd3", None)
    eqmol.load(pair[0])
    with pytest.raises(InputError, match=r"full\.safetensors: D3 dispersion needs s-dftd3"):
        eqmol.load(pair[1])


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_runs_learn_the_rest_and_predict_the_whole(tmp_path):
    options = [D3, "trainer.max_epochs=1", "trainer.precision=float64"]
    metrics = train(tmp_path, "run", *options)
    file = tmp_path / "run" / "model.safetensors"
    frames = read(tmp_path / "test.xyz", ":")
    predicted = eqmol.predict([atoms.copy() for atoms in frames], file)
    errors = np.concatenate([p["forces"] - f.get_forces() for p, f in zip(predicted, frames, strict=True)])
    expected = metrics["test"]["later"]["forces_rmse_mev_per_a"]
    assert 1000 * np.sqrt(np.mean(np.square(errors))) == pytest.approx(expected, rel=1e-6)
    start = f"init_from={file}"
    with pytest.raises(
        InputError, match=r"without D3 \(pbe, damping bj, without three-body terms\), this run is on labels with all"
    ):
        train(tmp_path, "other", start, "trainer.max_epochs=1", "trainer.precision=float64")
    train(tmp_path, "same", start, *options)
    bare = eqmol.load(tmp_path / "same" / "model.safetensors")
    batch = collate([from_atoms(frames[0], bare.cutoff)])
    whole = bare(batch)["energy"]
    bare.dispersion = None
    assert not torch.isclose(whole, bare(batch)["energy"], atol=0.1)

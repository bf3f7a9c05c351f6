"""The ASE calculator: right numbers, after every change, under dynamics, relaxation and bad input."""

import copy
import json
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

import eqmol
from eqmol.checkpoint import build, save
from eqmol.errors import InputError
from eqmol.graph import NeighborList, collate, from_atoms
from eqmol.graph.electronic import ElectronicState
from eqmol.inference.evaluate import evaluate_graphs
from tests.recipes import model, recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(model(), file)
    return file


def ethanol() -> ase.Atoms:
    return molecule("CH3CH2OH")


def copper(seed: int = 0) -> ase.Atoms:
    """A rattled, sheared copper crystal, periodic in three directions."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.02, 0], [0, 1.01, 0.03], [0, 0, 0.98]]), scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def slab() -> ase.Atoms:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    atoms.rattle(0.03, seed=1)
    return atoms


@pytest.mark.parametrize("make", [ethanol, copper, slab])
def test_agrees_with_the_model(path: Path, make) -> None:
    potential = eqmol.load(path)
    atoms = make()
    output = potential(from_atoms(atoms, potential.cutoff), stress=True)
    atoms.calc = eqmol.Calculator(path)
    assert abs(atoms.get_potential_energy() - float(output["energy"])) < 1e-9
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert np.abs(atoms.get_forces() - output["forces"].numpy()).max() < 1e-9
    assert np.abs(atoms.get_potential_energies() - output["energies"].numpy()).max() < 1e-9
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    if atoms.pbc.all():
        assert np.abs(atoms.get_stress(voigt=False) - output["stress"][0].numpy()).max() < 1e-9
    for value in atoms.calc.results.values():
        assert isinstance(value, float) or value.dtype == np.float64


def test_descriptors_are_the_invariant_features(path: Path) -> None:
    calculator = eqmol.Calculator(path)
    atoms = ethanol()
    found = calculator.get_descriptors(atoms)
    layers, channels = calculator.model.backbone.num_outputs, calculator.model.backbone.channels
    assert found.shape == (len(atoms), layers * channels)
    turned = atoms.copy()
    turned.rotate(50, (1, 2, 3))
    np.testing.assert_allclose(calculator.get_descriptors(turned), found, atol=1e-10)
    assert np.array_equal(calculator.get_descriptors(atoms, num_layers=1), found[:, :channels])
    for number in (0, 3, True, -2):
        with pytest.raises(InputError, match="num_layers"):
            calculator.get_descriptors(atoms, num_layers=number)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hessian_is_the_derivative_of_forces(path: Path, dtype: str) -> None:
    atoms = molecule("H2O")
    calculator = eqmol.Calculator(path, dtype=dtype)
    found = calculator.get_hessian(atoms)
    assert found.shape == (9, 3, 3)
    assert found.dtype == np.float64
    matrix = found.reshape(9, 9)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9 * np.abs(matrix).max())
    atoms.calc = eqmol.Calculator(path, dtype="float64")
    step, changes = 1e-5, []
    for sign in (1, -1):
        atoms.positions[1, 2] += sign * step
        changes.append(-atoms.get_forces())
        atoms.positions[1, 2] -= sign * step
    numerical = (changes[0] - changes[1]) / (2 * step)
    np.testing.assert_allclose(found[5], numerical, rtol=0, atol=1e-4 * np.abs(numerical).max())


def test_energies_less_those_of_isolated_atoms(path: Path) -> None:
    atoms = copper()
    atoms.calc = eqmol.Calculator(path)
    atoms.get_potential_energy()
    expected = atoms.get_potential_energies() - recipe()["e0"][3]
    np.testing.assert_allclose(atoms.calc.results["node_energy"], expected, atol=1e-12)


@pytest.mark.parametrize("make", [ethanol, copper])
def test_float32_is_close(path: Path, make) -> None:
    atoms, low = make(), make()
    atoms.calc = eqmol.Calculator(path)
    low.calc = eqmol.Calculator(path, dtype="float32", backend="escn")
    assert low.calc.model.dtype == torch.float32
    assert abs(atoms.get_potential_energy() - low.get_potential_energy()) < 1e-5 * len(atoms)
    assert np.abs(atoms.get_forces() - low.get_forces()).max() < 1e-4
    assert low.get_forces().dtype == np.float64


def test_forces_and_stress_are_derivatives(path: Path) -> None:
    atoms = copper()
    atoms.calc = eqmol.Calculator(path)
    assert np.abs(atoms.get_forces() - calculate_numerical_forces(atoms, eps=1e-4)).max() < 1e-6
    assert np.abs(atoms.get_stress() - calculate_numerical_stress(atoms, eps=1e-5)).max() < 1e-7


@pytest.mark.parametrize("make", [ethanol, slab])
def test_no_stress_without_three_periodic_directions(path: Path, make) -> None:
    atoms = make()
    atoms.calc = eqmol.Calculator(path)
    forces = atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="pbc"):
        atoms.get_stress()
    assert np.array_equal(atoms.get_forces(), forces)
    assert "stress" not in atoms.calc.results


# --- changes


def fresh(path: Path, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    other = atoms.copy()
    other.calc = eqmol.Calculator(path, skin=0.0)
    return other.get_potential_energy(), other.get_forces(apply_constraint=False)


def test_right_after_every_change(path: Path) -> None:
    calc = eqmol.Calculator(path, skin=1.0)
    atoms = copper()

    def check(other: ase.Atoms) -> None:
        other.calc = calc
        energy, forces = fresh(path, other)
        assert abs(other.get_potential_energy() - energy) < 1e-9
        assert np.abs(other.get_forces() - forces).max() < 1e-9

    check(atoms)
    rng = np.random.default_rng(0)
    for _ in range(6):  # from within the skin to beyond it
        atoms.positions += rng.normal(scale=0.15, size=(len(atoms), 3))
        check(atoms)
    atoms.set_cell(atoms.cell.array * 1.3, scale_atoms=True)
    check(atoms)
    atoms.cell[0] *= -1  # left-handed
    check(atoms)
    atoms.pbc = (True, False, True)
    check(atoms)
    atoms.pbc = False
    check(atoms)
    atoms.numbers[0] = 8
    check(atoms)
    check(ethanol())
    check(atoms)
    del atoms[0]
    check(atoms)
    check(ase.Atoms("O"))
    check(bulk("Cu"))  # one atom, its own neighbour


def test_same_cell_size_other_structure(path: Path) -> None:
    # same number of atoms and cell, nothing else: the kept neighbours must not survive
    calc = eqmol.Calculator(path, skin=1.0)
    first, second = ethanol(), ethanol()
    second.positions = second.positions[::-1].copy()
    for atoms in (first, second):
        atoms.calc = calc
        assert abs(atoms.get_potential_energy() - fresh(path, atoms)[0]) < 1e-9


def test_neighbours_are_reused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a list with a skin keeps its object; vesin decides inside it
    calc = eqmol.Calculator(path)
    made = []
    monkeypatch.setattr(
        "eqmol.inference.calculator.NeighborList", lambda *args: made.append(args) or NeighborList(*args)
    )
    atoms = ethanol()
    atoms.calc = calc
    for _ in range(3):
        atoms.positions[0] += 0.01
        atoms.get_forces()
    assert len(made) <= 1  # the first structure


def test_results_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = ethanol()
    atoms.calc = eqmol.Calculator(path)
    atoms.get_forces()
    monkeypatch.setattr("eqmol.inference.calculator.evaluate_graphs", None)
    atoms.get_potential_energy()
    atoms.set_initial_charges(np.linspace(-0.4, 0.4, len(atoms)))  # neutral, no net spin
    atoms.set_initial_magnetic_moments(np.linspace(-1, 1, len(atoms)))
    atoms.get_forces()


def test_isolated_atom_has_its_reference_energy(path: Path) -> None:
    atoms = ase.Atoms("C")
    atoms.calc = eqmol.Calculator(path)
    assert atoms.get_potential_energy() == recipe()["e0"][1]
    assert not atoms.get_forces().any()


# --- use


def test_energy_is_conserved(path: Path) -> None:
    atoms = ethanol()
    atoms.calc = eqmol.Calculator(path)
    FIRE(atoms, logfile=None).run(fmax=0.05, steps=150)
    thermalize_momenta(atoms, 100, rng=np.random.default_rng(0))
    energies = []
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(60)
    assert np.ptp(energies) < 2e-3 * len(atoms)


def test_langevin(path: Path) -> None:
    atoms = ethanol()
    atoms.calc = eqmol.Calculator(path, dtype="float32")
    rng = np.random.default_rng(0)
    Langevin(atoms, 0.2 * units.fs, temperature_K=50, friction=0.01 / units.fs, fixcm=False, rng=rng).run(10)
    assert np.isfinite(atoms.positions).all()


def test_cell_relaxation_lowers_the_stress(path: Path) -> None:
    atoms = copper()
    atoms.calc = eqmol.Calculator(path)
    before = atoms.get_potential_energy()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=25)
    assert atoms.get_potential_energy() < before


def test_fixed_atoms_stay(path: Path) -> None:
    atoms = ethanol()
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = eqmol.Calculator(path)
    assert not atoms.get_forces()[0].any()
    assert atoms.get_forces(apply_constraint=False)[0].any()


def test_model_in_memory(path: Path) -> None:
    potential = model().train()
    atoms = ethanol()
    atoms.calc = eqmol.Calculator(potential, backend="escn")
    assert abs(atoms.get_potential_energy() - fresh(path, atoms)[0]) < 1e-9
    assert potential.training
    with torch.no_grad():  # a private copy: later training does not reach it
        for parameter in potential.parameters():
            parameter.zero_()
    atoms.calc.reset()
    assert abs(atoms.get_potential_energy() - fresh(path, atoms)[0]) < 1e-9


def test_copies_and_pickles(path: Path) -> None:
    atoms = ethanol()
    atoms.calc = eqmol.Calculator(path)
    forces = atoms.get_forces()
    for other in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        assert other.calc is not atoms.calc
        other.positions[0] += 0.1
        assert abs(other.get_potential_energy() - fresh(path, other)[0]) < 1e-9
    assert np.array_equal(atoms.get_forces(), forces)


def test_trajectory(path: Path, tmp_path: Path) -> None:
    atoms = copper()
    atoms.calc = eqmol.Calculator(path)
    atoms.get_stress()
    json.dumps(atoms.calc.todict())
    assert atoms.calc.todict()["backend"] == "cg"
    assert atoms.calc.name == "eqmol"
    with Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
        trajectory.write()
    again = read(tmp_path / "run.traj")
    assert again.get_potential_energy() == atoms.get_potential_energy()
    assert np.array_equal(again.get_forces(), atoms.get_forces())
    assert np.array_equal(again.get_stress(), atoms.get_stress())
    atoms.write(tmp_path / "run.xyz")
    assert read(tmp_path / "run.xyz").get_potential_energy() == pytest.approx(atoms.get_potential_energy())


# --- threads


def test_threads_share_a_calculator(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = molecule("H2O"), molecule("CO"), molecule("CO")
    expected = {atoms.get_chemical_formula(): fresh(path, atoms)[0] for atoms in (first, second)}
    second_began, third_asks = threading.Event(), threading.Event()

    def slow(model, graphs, std):
        if graphs[0].num_nodes == 3:
            second_began.wait(0.1)  # comes in between, unless it waits for its turn
        else:
            second_began.set()
            third_asks.wait(0.1)
        return evaluate_graphs(model, graphs, std)

    monkeypatch.setattr("eqmol.inference.calculator.evaluate_graphs", slow)
    first.calc = second.calc = third.calc = eqmol.Calculator(path)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(first.get_potential_energy), pool.submit(second.get_potential_energy)
        assert one.result() == pytest.approx(expected["H2O"])
        assert third.get_potential_energy() == pytest.approx(expected["CO"])
        third_asks.set()
        assert two.result() == pytest.approx(expected["CO"])


def test_threads_make_calculators_of_several_precisions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    energy, _ = fresh(path, ethanol())

    def work(number: int) -> float:
        atoms = ethanol()
        atoms.calc = eqmol.Calculator(path, dtype=("float32", "float64")[number % 2])
        return atoms.get_potential_energy()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            energies = list(pool.map(work, range(12)))
    finally:
        sys.setswitchinterval(before)
    assert np.abs(np.array(energies) - energy).max() < 1e-4
    assert np.abs(np.array(energies[1::2]) - energy).max() < 1e-9
    assert torch.get_default_dtype() == torch.float32


# --- bad input


def test_no_structure(path: Path) -> None:
    calc = eqmol.Calculator(path)
    for ask in (calc.get_potential_energy, calc.get_forces, calc.get_stress, calc.calculate):
        with pytest.raises(InputError, match=r"has no structure yet; set atoms\.calc"):
            ask()
    energy = calc.get_potential_energy(ethanol())
    assert calc.get_potential_energy() == energy  # of the last one


def test_unseen_element(path: Path) -> None:
    atoms = molecule("CH3Cl")
    atoms.calc = eqmol.Calculator(path)
    index = atoms.symbols.search("Cl")[0]
    with pytest.raises(InputError, match=rf"atom {index} \(Cl\) is .*knows H, C, O, Cu"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("number", "match"), [(0, "is a dummy"), (200, "number 200"), (-1, "number -1"), (99, r"\(Es\)")]
)
def test_no_element_of_the_model(path: Path, number: int, match: str) -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]])
    atoms.calc = eqmol.Calculator(path)
    atoms.get_potential_energy()
    atoms.numbers[1] = number
    with pytest.raises(InputError, match=f"atom 1 .*{match}"):
        atoms.get_potential_energy()
    with pytest.raises(InputError, match=f"structure 1: atom 1 .*{match}"):
        eqmol.predict([atoms[:1], atoms], path)


def cation() -> ase.Atoms:
    atoms = ethanol()
    atoms.info |= {"charge": 1, "spin": 2}
    return atoms


def test_another_charge_than_that_of_the_training_set(path: Path) -> None:
    neutral, charged = ethanol(), cation()
    neutral.calc = charged.calc = eqmol.Calculator(path)
    energy = neutral.get_potential_energy()
    for predict in (charged.get_potential_energy, lambda: eqmol.predict(charged, path)):
        with pytest.raises(InputError, match=r"charge \+1, lowest spin, .* trained on charge 0"):
            predict()
    charged.calc = eqmol.Calculator(path, electronic_state="warn")
    with pytest.warns(UserWarning, match="for the state of the training set"):
        assert charged.get_potential_energy() == energy
    with pytest.warns(UserWarning, match="structure 1"):
        assert eqmol.predict([neutral, charged], path, electronic_state="warn")[1]["energy"] == pytest.approx(energy)


def test_the_state_of_the_training_set_is_in_the_file(tmp_path: Path) -> None:
    trained = model()
    trained.set_state(ElectronicState(1.0, "lowest"))
    save(trained, tmp_path / "cations.safetensors")
    loaded = eqmol.load(tmp_path / "cations.safetensors")
    assert loaded.electronic_state == ElectronicState(1.0, "lowest")
    eqmol.predict([ethanol(), cation()], loaded)  # what states nothing is taken for a cation
    anion = ethanol()
    anion.info["charge"] = -1
    with pytest.raises(InputError, match=r"charge -1.*trained on charge \+1"):
        eqmol.predict(anion, loaded)


@pytest.mark.parametrize("numbers", [[6, 200], [6, -1], [6, 0], [6.0, 8.0]])
def test_graphs_with_numbers_that_no_model_knows(numbers: list[float]) -> None:
    graph = from_atoms(ase.Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]), 3.5)
    graph.atomic_numbers = torch.tensor(numbers)
    with pytest.raises(InputError, match=r"atom 1|must be int64"):
        model()(graph)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.positions.__setitem__((3, 1), np.nan), "atom 3 .*not finite"),
        (lambda a: a.positions.__setitem__(4, a.positions[2]), r"atom 2 .*atom 4 .*same place"),
        (lambda a: a.set_pbc((True, False, False)), "singular"),
        (lambda a: a.cell.__setitem__(0, np.inf), "not finite"),
        (lambda a: a.__delitem__(slice(None)), "no atoms"),
    ],
)
def test_bad_structures(path: Path, change, match: str) -> None:
    atoms = ethanol()
    atoms.calc = eqmol.Calculator(path)
    atoms.get_forces()
    good = atoms.copy()
    change(atoms)
    for _ in range(2):  # the second call must not return what the first left
        with pytest.raises(InputError, match=match):
            atoms.get_potential_energy()
    good.calc = atoms.calc
    assert abs(good.get_potential_energy() - fresh(path, good)[0]) < 1e-9


def test_result_that_is_not_finite(path: Path) -> None:
    atoms = ethanol()
    atoms.calc = eqmol.Calculator(path)
    with torch.no_grad():
        for parameter in atoms.calc.model.parameters():
            parameter.fill_(1e200)
    with pytest.raises(InputError, match=r"atom 0 \(C\) is not finite"):
        atoms.get_forces()


@pytest.mark.parametrize("skin", [-1, float("nan"), "0.5", True, 1e9])
def test_bad_skin(path: Path, skin) -> None:
    with pytest.raises(InputError, match="skin"):
        eqmol.Calculator(path, skin=skin)


def test_parameters_cannot_be_changed(path: Path) -> None:
    with pytest.raises(InputError, match="dtype cannot be changed"):
        eqmol.Calculator(path).set(dtype="float32")


def test_batch_of_the_graph_and_calculator_share_the_model(path: Path) -> None:
    # one forward pass of three structures equals three calculators
    potential = eqmol.load(path)
    structures = [ethanol(), copper(), slab()]
    output = potential(collate([from_atoms(atoms, potential.cutoff) for atoms in structures]))
    for number, atoms in enumerate(structures):
        assert abs(float(output["energy"][number]) - fresh(path, atoms)[0]) < 1e-9


def test_direct_forces_have_no_stress() -> None:
    potential = build(recipe(degree_out=1) | {"forces": "direct", "zbl": False})
    atoms = copper()
    atoms.calc = eqmol.Calculator(potential)
    assert atoms.get_forces().shape == (len(atoms), 3)
    with pytest.raises(PropertyNotImplementedError, match="no derivatives"):
        atoms.get_stress()

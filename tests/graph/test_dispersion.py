"""D3 against finite differences and published numbers, and what is refused."""

import sys

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.units import kcal, mol

from eqmol.errors import InputError
from eqmol.graph.dispersion import Corrected, Dispersion

pytest.importorskip("dftd3.interface")

CHOICES = {"bj": "pbe", "atm": {"functional": "pbe", "atm": True}, "zero": {"functional": "b3lyp", "damping": "zero"}}
STEP = 1e-4


def slab() -> ase.Atoms:
    atoms = molecule("C6H6")
    atoms.cell, atoms.pbc = [7.0, 8.0, 0.0], (True, True, False)
    return atoms


def structures() -> dict[str, ase.Atoms]:
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    crystal.set_cell(crystal.cell.array @ [[1, 0.1, 0], [0, 1.02, 0], [0.03, 0, 0.97]], scale_atoms=True)
    found = {"molecule": molecule("CH3OH"), "crystal": crystal, "slab": slab()}
    for atoms in found.values():
        atoms.rattle(0.05, seed=2)
    return found


def of(dispersion: Dispersion, atoms: ase.Atoms) -> Corrected:
    return dispersion(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def energy(dispersion: Dispersion, atoms: ase.Atoms, moved=None, strain=None) -> float:
    atoms = atoms.copy()
    if moved is not None:
        atoms.positions += moved
    if strain is not None:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return float(of(dispersion, atoms).energies.sum())


@pytest.mark.parametrize("kind", ["molecule", "crystal", "slab"])
@pytest.mark.parametrize("choice", ["bj", "zero", pytest.param("atm", marks=pytest.mark.slow)])
def test_forces_stress_and_hessian_are_slopes(choice, kind):
    dispersion, atoms = Dispersion.choose(CHOICES[choice]), structures()[kind]
    if choice == "atm" and kind == "slab":
        pytest.skip("three-body sums of a slab take seconds")
    found = of(dispersion, atoms)
    direction = np.random.default_rng(0).normal(size=(len(atoms), 3))
    direction /= np.linalg.norm(direction)
    up, down = (energy(dispersion, atoms, sign * STEP * direction) for sign in (1, -1))
    assert (up - down) / (2 * STEP) == pytest.approx(-(found.forces * direction).sum(), abs=1e-8)
    if atoms.pbc.all():
        strain = np.array([[0.3, 0.1, 0.2], [0.1, -0.2, 0.4], [0.2, 0.4, 0.1]])
        up, down = (energy(dispersion, atoms, strain=sign * STEP * strain) for sign in (1, -1))
        assert (up - down) / (2 * STEP) == pytest.approx((found.strain * strain).sum(), abs=1e-7)
    hessian = dispersion.hessian(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    moved = [atoms.copy() for _ in range(2)]
    for each, sign in zip(moved, (1, -1), strict=True):
        each.positions += sign * STEP * direction
    forces = [of(dispersion, each).forces for each in moved]
    numeric = -(forces[0] - forces[1]).ravel() / (2 * STEP)
    np.testing.assert_allclose(hessian @ direction.ravel(), numeric, atol=1e-6)


def test_two_benzenes_attract_as_published():
    """PBE-D3(BJ) of the sandwich at 3.9 Å: a few kcal/mol, all of it between the molecules beyond any cutoff of a network."""
    one = molecule("C6H6")
    other = one.copy()
    other.positions += [0, 0, 3.9]
    dispersion = Dispersion.choose("pbe")
    between = sum(of(dispersion, one + other).energies) - 2 * sum(of(dispersion, one).energies)
    assert -4.5 < between / (kcal / mol) < -2.5
    assert of(dispersion, ase.Atoms("C")).energies.tolist() == [0.0]


def test_what_is_chosen_is_read_again():
    for choice in CHOICES.values():
        dispersion = Dispersion.choose(choice)
        assert Dispersion.read(dispersion.section()) == dispersion
    assert Dispersion.choose("pbe").parameters == {
        "s6": 1,
        "s8": 0.7875,
        "s9": 0,
        "a1": 0.4289,
        "a2": 4.4407,
        "alp": 14,
    }
    assert Dispersion.choose(None) is Dispersion.read(None) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (3, "must be like"),
        ({"functional": "pbe", "other": 1}, "must be like"),
        ("pbee", "has no parameters for damping bj; s-dftd3 has those of"),
        ({"functional": "pbe", "damping": "nothing"}, "choose bj or zero"),
        ({"functional": "pbe", "atm": "yes"}, "must be true or false"),
        ({"damping": "bj", "parameters": {"s6": 1.0}}, "must be s6, s8, s9, a1, a2, alp for damping bj"),
    ],
)
def test_other_choices_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Dispersion.choose(settings)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "d4"},
        {"damping": ["bj"]},
        {"damping": "x"},
        {"parameters": {}},
        {"parameters": 3},
        {"functional": 3},
        {"more": 1},
        {"parameters": {"s6": 1e9, "s8": 1, "s9": 0, "a1": 1, "a2": 1, "alp": 14}},
        {"parameters": {"s6": True, "s8": 1, "s9": 0, "a1": 1, "a2": 1, "alp": 14}},
    ],
)
def test_hostile_sections_are_refused(change):
    with pytest.raises(InputError, match="dispersion"):
        Dispersion.read(Dispersion.choose("pbe").section() | change)


def test_elements_without_coefficients_and_atoms_at_one_place_are_refused():
    dispersion = Dispersion.choose("pbe")
    with pytest.raises(InputError, match="no coefficients of element 100"):
        of(dispersion, ase.Atoms([100, 1], [[0, 0, 0], [0, 0, 2]]))
    with pytest.raises(InputError, match="s-dftd3 cannot compute"):
        of(dispersion, ase.Atoms("HH", np.zeros((2, 3))))


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dftd3", None)
    with pytest.raises(InputError, match="needs s-dftd3, which is not installed here"):
        Dispersion.choose("pbe")

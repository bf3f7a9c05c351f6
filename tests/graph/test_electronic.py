"""Charge and spin that structures state."""

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from eqmol.errors import InputError
from eqmol.graph.electronic import DEFAULT, LOWEST, ElectronicState, StateGuard, TrainingStates, stated


def of(name: str, arrays: dict | None = None, results: dict | None = None, **info) -> ase.Atoms:
    """A structure of H2O (10 electrons), CH3 (9) or O2 (16) that states something."""
    atoms = molecule(name)
    atoms.arrays.pop("initial_magmoms", None)
    atoms.info = info
    atoms.arrays |= {key: np.array(value) for key, value in (arrays or {}).items()}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "charge", "spin"),
    [
        (of("H2O"), None, None),
        (of("H2O", charge=0, spin=0), 0, None),  # fairchem's "not known"
        (of("H2O", charge=0, spin=1), 0, LOWEST),  # 2S+1, as in OMol25: 2S = 1 does not fit ten electrons
        (of("H2O", charge=1, spin=2), 1, LOWEST),
        (of("H2O", charge=1, spin=1), 1, LOWEST),  # 2S
        (of("O2", spin=3), None, 2),  # 2S+1
        (of("O2", spin=2), None, 2),  # 2S
        (of("CH3", spin=0.5), None, LOWEST),  # S
        (of("CH3", total_charge=np.int64(0), total_spin=2), 0, LOWEST),
        (of("CH3", spin=3), None, 3),
        (of("O2", multiplicity=3), None, 2),
        (of("O2", Multiplicity=1), None, LOWEST),
        (of("O2", spin_multiplicity=3, spin=1), None, 2),  # S beside 2S+1
        (of("H2O", mult=0), None, None),
        (of("H2O", multiplicity=2), None, 1),  # impossible without a charge: no default
        (of("O2", uhf=2), None, 2),
        (of("H2O", uhf=True), None, None),  # a flag
        (of("H2O", charge="+1"), 1, None),
        (of("H2O", charge=[0.1, 0.2, -0.3]), None, None),  # per atom
        (of("H2O", Charge=-1.0, net_charge=-1), -1, None),
        (of("H2O", {"initial_charges": [-0.61, 0.31, 0.32]}), 0, None),
        (of("H2O", {"initial_charges": [0.4, 0.3, 0.29]}), 1, None),
        (of("H2O", {"initial_charges": [6.0, 0.3, 0.3]}), None, None),  # no total charge
        (of("H2O", {"initial_charges": [1.0, 0, 0]}, charge=0), 0, None),  # info comes first
        (of("O2", {"initial_magmoms": [1.0, 1.0]}), None, 2),
        (of("O2", {"initial_magmoms": [0.0, 0.0]}), None, None),
        (of("O2", results={"magmom": 1.9998}), None, 2),
        (of("CH3", results={"magmoms": np.array([0.9, 0.03, 0.03, 0.04])}), None, LOWEST),
    ],
)
def test_what_structures_state(atoms, charge, spin):
    assert stated(atoms) == ElectronicState(charge, spin)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (of("H2O", charge=1, total_charge=0), "charge=1 and total_charge=0, two different charges"),
        (of("H2O", charge="neutral"), "info['charge'] is 'neutral', not a number"),
        (of("H2O", charge=np.nan), "info['charge'] is nan"),
        (of("H2O", multiplicity=-1), "info['multiplicity']=-1 is no possible spin"),
        (of("H2O", multiplicity=1.5), "no possible spin"),
        (of("H2O", spin=-3), "no possible spin"),
    ],
)
def test_what_cannot_be_meant(atoms, words):
    with pytest.raises(InputError) as error:
        stated(atoms, "a.xyz, frame 3")
    assert str(error.value).startswith("a.xyz, frame 3: ")
    assert words in str(error.value)


def test_magnetic_moments_of_crystals_and_atoms_are_no_states():
    iron = bulk("Fe", cubic=True)
    iron.set_initial_magnetic_moments([2.3, 2.3])
    oxygen = ase.Atoms("O", magmoms=[2.0])
    states = TrainingStates()
    for atoms in (iron, oxygen, bulk("Cu")):
        assert stated(atoms) == ElectronicState()
        states.add(atoms, "")
    assert states.state() == DEFAULT
    assert "1 of the periodic structures have magnetic moments" in states.notes()[0]


def test_one_state_is_remembered():
    states = TrainingStates()
    for seed in range(3):
        states.add(of("H2O", charge=1, spin=2), f"frame {seed}")
    states.add(ase.Atoms("O"), "reference", isolated=True)
    assert states.state() == ElectronicState(1.0, LOWEST)
    assert states.notes()[0].startswith("every structure has charge +1")


def test_low_spins_of_odd_and_even_molecules_are_one_state():
    states = TrainingStates()
    for atoms in (of("H2O", multiplicity=1), of("CH3", multiplicity=2), of("O2")):
        states.add(atoms, "")
    assert states.state() == DEFAULT
    assert states.notes() == []


def test_the_guard_compares_what_is_stated():
    cation = ElectronicState(1.0, LOWEST)
    for trained, atoms, fits in (
        (DEFAULT, of("H2O"), True),
        (DEFAULT, of("H2O", charge=1), False),
        (DEFAULT, of("O2", multiplicity=3), False),
        (cation, of("H2O"), True),  # as the training set
        (cation, of("H2O", charge=1, spin=2), True),
        (cation, of("H2O", charge=0), False),
        (ElectronicState(), of("H2O", charge=3, multiplicity=4), True),  # mixed on purpose
    ):
        guard = StateGuard(trained)
        if fits:
            guard.check(atoms)
        else:
            with pytest.raises(InputError, match="trained on charge"):
                guard.check(atoms, "b.xyz, frame 1")
    guard = StateGuard(DEFAULT, "warn")
    with pytest.warns(UserWarning, match="frame 4: the structure has charge -1"):
        guard.check(of("H2O", charge=-1), "frame 4")
    guard.check(of("H2O", charge=-1), "frame 5")  # said once
    assert guard.different == 2
    with pytest.raises(InputError, match="choose stop or warn"):
        StateGuard(DEFAULT, "ignore")

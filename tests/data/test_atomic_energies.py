"""Energies of elements as users give them, and energies that cannot be."""

import re
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT

from eqmol.data.atomic_energies import FreeAtom, known_energies, read_e0
from eqmol.data.statistics import Statistics, measure
from eqmol.errors import InputError
from eqmol.graph import from_atoms

#: eV; of all electrons, and of GFN2-xTB.
ALL, VALENCE = (
    {1: -13.6, 6: -1029.5, 7: -1485.0, 8: -2041.8, 14: -7874.0},
    {1: -10.7, 6: -48.8, 7: -70.9, 8: -102.5, 14: -44.7},
)
MIXED = ["CH3OH", "CO2", "H2O", "C2H4", "HCN", "N2O"]


def measured(
    names: list[str],
    e0: dict[int, float],
    known: dict[int, float] | None = None,
    binding: float = -4.0,
    factor: float = 1.0,
    mode: str = "stop",
    odd: float = 0.0,
) -> Statistics:
    """Statistics of molecules with some binding energy per atom, in some unit; one is odd by some eV per atom."""
    rng, graphs = np.random.default_rng(0), []
    for number, name in enumerate(names):
        atoms = molecule(name)
        each = binding + rng.normal(0, 0.1) + (odd if number == 1 else 0.0)
        energy = factor * (sum(e0[z] for z in atoms.numbers) + each * len(atoms))
        labels: dict[str, Any] = {"energy": energy, "forces": np.ones((len(atoms), 3))}
        graphs.append(from_atoms(atoms, 4.0, source=f"a.xyz, {name}", **labels))
    return measure(graphs, {z: FreeAtom(e, "iso.xyz") for z, e in (known or {}).items()}, mode)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("fit", "fit"),
        ("keep", "keep"),
        ({"H": -13.6, "O": -2040}, {1: FreeAtom(-13.6, "data.e0"), 8: FreeAtom(-2040.0, "data.e0")}),
    ],
)
def test_e0_as_it_is_given(value: Any, expected: Any) -> None:
    assert read_e0(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("given", "data.e0='given' must be fit, keep, FILE.npz, or an energy in eV for each element, as in"),
        (None, "data.e0=null must be"),
        ({}, "data.e0={} must be"),
        ([-13.6], "data.e0=[-13.6] must be"),
        ({"Xx": -1.0}, "data.e0 has the unknown element 'Xx'"),
        ({"X": -1.0}, "data.e0 has the unknown element 'X'"),
        ({1: -13.6}, "data.e0 has the unknown element 1; give symbols"),
        ({False: -13.6}, "data.e0 has the unknown element False"),
        ({"H": "low"}, "data.e0 has H: 'low', which is no energy in eV"),
        ({"H": True}, "data.e0 has H: True, which is no energy in eV"),
        ({"H": float("nan")}, "data.e0 has H: nan"),
        ({"H": -1e8}, "data.e0 has H: -100000000.0"),
        ("no.npz", "no.npz"),
    ],
)
def test_wrong_e0(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_e0(value)


def test_given_energies_must_be_of_all_elements_and_come_first() -> None:
    isolated = {1: FreeAtom(-13.0, "iso.xyz")}
    e0 = read_e0({"H": -13.6, "O": -2040.0})
    assert known_energies(e0, isolated, [1, 8]) == e0
    assert known_energies("fit", isolated, [1, 8]) == isolated
    with pytest.raises(InputError, match=r"data\.e0 lacks C, N, which the training data have"):
        known_energies(e0, isolated, [1, 6, 7, 8])


@pytest.mark.parametrize(
    ("names", "e0", "known"),
    [
        (MIXED, ALL, ALL),
        (MIXED, ALL, {}),
        (MIXED, ALL, {1: -13.6}),
        (MIXED, VALENCE, VALENCE),
        (MIXED, dict.fromkeys(ALL, 0.0), dict.fromkeys(ALL, 0.0)),  # binding energies
        (["H2O"], ALL, {}),
        (["H2O"], ALL, ALL),
        (["H2"], VALENCE, {}),
        (["H2", "H2", "H2"], ALL, ALL),
        (["Si2"], ALL, {}),
        (["Si2", "SiH4"], dict.fromkeys(ALL, -5.0), {}),
    ],
)
def test_plausible_energies(names: list[str], e0: dict[int, float], known: dict[int, float]) -> None:
    assert measured([{"Si2": "Si2", "SiH4": "SiH4"}.get(name, name) for name in names], e0, known).doubt is None


def test_metals_are_plausible_whatever_their_energies_refer_to() -> None:
    for atoms in (bulk("Au"), bulk("Cu", cubic=True), fcc111("Pt", (2, 2, 2), vacuum=5)):
        for e0 in ({}, {int(atoms.numbers[0]): FreeAtom(0.0, "zero")}):
            for shift in (0.0, -6.0):
                atoms.calc = EMT()
                energy = atoms.get_potential_energy() + shift * len(atoms)
                assert measure([from_atoms(atoms, 4.0, energy=energy, forces=atoms.get_forces())], e0).doubt is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"e0": VALENCE, "known": ALL}, r"a\.xyz, \w+ \(\w+\) has the energy .* \(.*H -13\.60 eV from iso\.xyz.*data\.e0=fit"),
        ({"e0": ALL, "known": VALENCE}, r"the median of all frames is -\d+\.\d eV per atom, while no bond is that strong"),
        ({"e0": ALL, "known": ALL, "factor": 1 / 27.211386}, "which in Hartree is that of all its electrons: multiply the"),
        ({"e0": ALL, "factor": 1 / 27.211386}, "which in Hartree is that of all its electrons: .* by 27.211386 to have eV"),
        ({"e0": ALL, "factor": 2 / 27.211386}, "which in Rydberg is that of all its electrons"),
        ({"e0": ALL, "factor": 23.060548}, "which in kcal/mol is that of all its electrons: .* by 0.043364104 to have eV"),
        ({"e0": ALL, "factor": 96.485332}, "which in kJ/mol is that of all its electrons"),
        ({"e0": ALL, "factor": 1000.0}, "which in meV is that of all its electrons"),
        ({"e0": VALENCE, "factor": 96.485332}, "times that of all its electrons in eV, which is the lowest possible"),
        ({"e0": ALL, "odd": 1000.0}, r"a\.xyz, CO2 .*the standard deviation of all frames is \d+\.\d eV per atom"),
    ],
)  # fmt: skip
def test_implausible_energies_stop_with_evidence(options: dict[str, Any], message: str) -> None:
    options = {"names": MIXED * 3} | options
    with pytest.raises(InputError, match=message) as stopped:
        measured(**options)
    assert "or train nevertheless with data.implausible=warn" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    accepted = measured(**options, mode="warn")
    assert accepted.doubt is not None
    assert f"accepted with data.implausible=warn: {accepted.doubt}" in accepted.notes()


@pytest.mark.parametrize("names", [["CCl4"], ["Cl2"], ["C2H4"], ["Si2H6"]])
def test_valence_energies_are_not_taken_for_hartree(names: list[str]) -> None:
    e0 = {1: -13.6, 6: -37.8, 14: -289.0, 17: -460.0}  # one element makes up the sum: chance
    assert measured(names, e0, binding=-3.0).doubt is None

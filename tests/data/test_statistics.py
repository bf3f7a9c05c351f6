"""Atomic energies, scale and neighbours of a training set."""

from io import StringIO

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from rich.console import Console

from eqmol.data.atomic_energies import FreeAtom, free_atoms, is_isolated
from eqmol.data.statistics import Measured, measure
from eqmol.errors import InputError
from eqmol.graph import from_atoms

E0 = {1: -13.6, 6: -1029.5, 8: -2042.0}


def total(name: str, binding: float = -4.0) -> float:
    """Energy of a molecule with a given binding energy per atom, eV."""
    numbers = molecule(name).numbers
    return sum(E0[z] for z in numbers) + binding * len(numbers)


def graph(name: str, **labels):
    labels = {"energy": total(name), "forces": np.full((len(molecule(name)), 3), 2.0)} | labels
    return from_atoms(molecule(name), 5.0, source=f"train.xyz, {name}", **labels)


ISOLATED = {z: FreeAtom(energy, "iso.xyz") for z, energy in E0.items()}


def text(statistics) -> str:
    console = Console(width=200, file=StringIO())
    console.print(statistics.table(), statistics.notes())
    return console.file.getvalue()


def test_isolated_atoms_are_taken_as_they_are():
    statistics = measure([graph("CH4"), graph("H2O")], ISOLATED)
    assert statistics.plain() == {
        "elements": [1, 6, 8],
        "e0": [E0[1], E0[6], E0[8]],
        "scale": pytest.approx(2.0),
        "label_scales": {
            "energy": pytest.approx(2e-3),
            "forces": pytest.approx(2.0),
        },  # energies per atom are all the same
        "avg_num_neighbors": pytest.approx((5 * 4 + 3 * 2) / 8),
    }
    assert statistics.e0_source == ["iso.xyz"] * 3
    assert statistics.binding == pytest.approx(-4.0)
    assert "-1029.500000" in text(statistics)
    assert all(type(number) is float for number in statistics.e0)


def test_least_squares_recovers_exact_energies():
    names = ["CH4", "H2O", "CO2", "C2H6", "CH3OH"]
    statistics = measure([graph(name, energy=total(name, binding=0.0)) for name in names], {})
    assert statistics.e0 == pytest.approx([E0[1], E0[6], E0[8]], abs=1e-9)
    assert statistics.e0_source == ["least squares"] * 3
    assert statistics.rank_deficiency == 0


def test_least_squares_of_one_composition_reports_its_rank_and_gives_the_least_norm():
    statistics = measure([graph("CH3OH"), graph("CH3OH")], {})
    counts = np.array([4, 1, 1])
    assert statistics.rank_deficiency == 2
    assert counts @ statistics.e0 == pytest.approx(total("CH3OH"))
    assert statistics.e0 == pytest.approx(counts * total("CH3OH") / (counts @ counts))
    assert "leave 2 combination(s) of atomic energies undetermined" in text(statistics)


def test_elements_without_an_isolated_atom_are_fitted_to_what_is_left():
    given = {1: ISOLATED[1], 8: ISOLATED[8]}
    statistics = measure([graph("CH4", energy=total("CH4", 0.0)), graph("H2O", energy=total("H2O", 0.0))], given)
    assert statistics.e0 == pytest.approx([E0[1], E0[6], E0[8]])
    assert statistics.e0_source == ["iso.xyz", "least squares", "iso.xyz"]


def test_elements_that_only_isolated_atoms_have_are_left_out():
    assert measure([graph("H2O")], ISOLATED).elements == [1, 8]


def test_frames_without_energy_do_not_count():
    frames = [graph("H2O"), graph("CH4", energy=float("nan"))]
    assert measure(frames, ISOLATED).binding == pytest.approx(-4.0)
    frames = [from_atoms(molecule("H2O"), 5.0, forces=np.ones((3, 3)))]
    statistics = measure(frames, {})
    assert statistics.e0 == [0.0, 0.0]
    assert statistics.binding is None
    assert statistics.e0_source == ["no energies: 0"] * 2


def test_scale_without_forces_is_that_of_the_binding_energies_and_never_zero():
    frames = [from_atoms(molecule("H2O"), 5.0, energy=total("H2O", -3.0))]
    assert measure(frames, ISOLATED).scale == pytest.approx(3.0)
    without = measure([from_atoms(molecule("H2O"), 5.0)], {})
    assert (without.scale, without.label_scales) == (1.0, {})


@pytest.mark.parametrize(
    ("forces", "variation", "scale", "words"),
    [
        (1e-12, 0.1, 3.0017, "energy scale 3.002 eV, as energies per atom vary by 0.1 eV"),
        (1e-7, 0.1, 3.0017, "(force scale 1e-07 eV/Å is only noise)"),
        (0.0, 0.1, 3.0017, "(force scale 0 eV/Å is only noise)"),
        (1e-3, 0.5, 5.0, "energy scale 5 eV"),
        (0.06, 0.5, 0.06, "force scale 0.06 eV/Å,"),
        (1e-4, 0.0, 1e-4, "force scale 0.0001 eV/Å,"),  # displacements so small that energies hardly see them
    ],
)
def test_forces_that_are_only_noise_do_not_set_the_scale(forces, variation, scale, words):
    signs = (-1, 1)
    frames = [
        graph("CH4", energy=total("CH4", -3.0 + sign * variation), forces=np.full((5, 3), forces)) for sign in signs
    ]
    statistics = measure(frames, ISOLATED)
    assert statistics.scale == pytest.approx(scale, rel=1e-4)
    assert words in text(statistics)


@pytest.mark.parametrize("forces", [None, np.full((3, 3), 1e-12)])
def test_scale_of_energies_that_do_not_vary_is_one(forces):
    frames = [graph("H2O", energy=-2069.1 + 1e-9 * i, forces=forces) for i in range(4)]
    statistics = measure(frames, {})
    assert statistics.scale == 1.0
    assert "energy scale 1 eV, as energies do not vary (" in text(statistics)


def strained(energy: float, forces: float, stress: float | None):
    """A frame of four atoms of 16 Å³ with labels of given sizes."""
    atoms = ase.Atoms("Cu4", positions=[[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]], cell=[4.0] * 3, pbc=True)
    labels = {} if stress is None else {"stress": np.full((3, 3), stress)}
    return from_atoms(atoms, 5.0, energy=4 * energy, forces=np.full((4, 3), forces), **labels)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # energies -3 ± 0.1, forces and stress by their root mean square; one frame has no stress
        (
            [(-2.9, 1.0, 0.03), (-3.1, 2.0, 0.04), (-3.0, 2.0, None)],
            (0.1 * np.sqrt(2 / 3), np.sqrt(3), 0.025 * np.sqrt(2)),
        ),
        # what is only noise is divided by a thousandth of what varies most, per Å and per volume of an atom
        ([(-2.9, 1e-12, 1e-12), (-3.1, 1e-12, 1e-12)], (0.1, 1e-4, 1e-4 / 16)),
        ([(-3.0, 1.0, 0.03), (-3.0, 1.0, 0.03)], (1e-3, 1.0, 0.03)),
        ([(-3.0, 0.0, 0.0), (-3.0, 0.0, 0.0)], (1.0, 1.0, 1.0)),
    ],
)
def test_label_scales(rows, expected):
    scales = measure([strained(*row) for row in rows], {29: FreeAtom(0.0, "iso.xyz")}).label_scales
    assert list(scales) == ["energy", "forces", "stress"]
    assert list(scales.values()) == pytest.approx(expected, rel=1e-6)


def test_forces_that_are_not_known_do_not_count_in_the_scale():
    frames = [graph("H2O"), graph("H2O", forces=np.full((3, 3), np.nan))]
    assert measure(frames, ISOLATED).scale == pytest.approx(2.0)


def test_atomic_energies_of_another_method_are_refused():
    with pytest.raises(InputError) as error:
        measure([graph("CH4", energy=-219.0)], ISOLATED)
    message = str(error.value)
    assert message.startswith("train.xyz, CH4 (H4C1) has the energy -219 eV, 173.0 eV per atom away")
    assert "C -1029.50 eV from iso.xyz" in message


def free(symbol: str, energy: float | None = None, config_type: str = "", **cell):
    atoms = ase.Atoms(symbol, **cell)
    atoms.info["config_type"] = config_type
    return from_atoms(atoms, 5.0, energy=energy, source=f"a.xyz, {symbol} {energy}")


def test_what_an_isolated_atom_is():
    assert is_isolated(free("C"))
    assert is_isolated(free("C", cell=np.diag([20.0] * 3), pbc=True))
    assert is_isolated(free("C", config_type="IsolatedAtom", cell=np.diag([4.0] * 3), pbc=True))
    assert is_isolated(free("C", config_type="isolated_atom"))
    assert not is_isolated(from_atoms(bulk("Cu"), 5.0))
    assert not is_isolated(graph("H2O"))
    with pytest.raises(InputError, match="config_type IsolatedAtom is for one atom, not 2"):
        is_isolated(free("H2", config_type="IsolatedAtom", positions=[[0, 0, 0], [0, 0, 1]]))


def test_isolated_atoms_may_repeat_but_not_contradict():
    atoms = free_atoms([free("C", -1029.5), free("H", -13.6), free("C", -1029.5), free("O")])
    assert {z: atom.energy for z, atom in atoms.items()} == {6: -1029.5, 1: -13.6}
    with pytest.raises(InputError, match=r"a\.xyz, C -1030\.0: the isolated atom C has the energy -1030\.0 eV, but"):
        free_atoms([free("C", -1029.5), free("C", -1030.0)])


def test_statistics_do_not_depend_on_the_order_of_frames():
    frames = [graph(name) for name in ("CH4", "H2O", "CO2", "CH3OH")]
    first, second = measure(frames, {}), measure(frames[::-1], {})
    assert first.e0 == pytest.approx(second.e0)
    assert first.elements == second.elements
    assert torch.tensor(first.scale).isclose(torch.tensor(second.scale))


def test_groups_of_equal_compositions_are_as_good_as_their_members():
    rng = np.random.default_rng(0)
    sizes, compositions = [3, 1, 5, 2], rng.integers(1, 9, (4, 3)).astype(float)
    energies = [compositions[i] @ [-1.0, -5.0, -9.0] + rng.normal(size=n) for i, n in enumerate(sizes)]
    common = {"forces": np.ones(3), "avg_num_neighbors": 4.0, "sources": ["a.xyz"]}
    repeated = np.repeat(compositions, sizes, axis=0)
    every = Measured([1, 6, 8], repeated, np.concatenate(energies), **common).statistics({})
    means = np.array([energy.mean() for energy in energies])
    within = np.array([energy.var() for energy in energies])
    groups = Measured([1, 6, 8], compositions, means, weights=np.array(sizes, float), within=within, **common)
    grouped = groups.statistics({})
    assert grouped.label_scales == pytest.approx(every.label_scales)
    assert grouped.e0 == pytest.approx(every.e0, abs=1e-9)
    assert grouped.e0 != pytest.approx(Measured([1, 6, 8], compositions, means, **common).statistics({}).e0, abs=1e-3)

"""A stress in another unit or with another sign is told by the energies, and by its size; one that is right is left alone."""

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from ase.units import GPa

from eqmol.data.xyz.datamodule import FileSets
from eqmol.data.xyz.reader import read_frames
from eqmol.data.xyz.stress import Convention, check, doubt
from eqmol.errors import InputError
from eqmol.graph import AtomGraph, from_atoms

OURS = Convention("stress")
#: What files may hold instead, and the options that say so.
OTHERS = {
    "data.stress_unit=GPa": (1 / GPa, False),
    "data.stress_unit=kbar": (10 / GPa, False),
    "data.stress_unit=bar": (1e4 / GPa, False),
    "data.stress_unit=-eV/A3": (-1, False),
    "data.stress_unit=-GPa": (-1 / GPa, False),
    "data.stress_unit=-kbar": (-10 / GPa, False),
    "data.virial_key=stress": (-1, True),
    "data.virial_key=stress data.stress_unit=-eV": (1, True),
}


def solids(
    count: int = 10, strain: float = 0.03, rattle: float = 0.05, seed: int = 0, size: int = 1, length: float = 3.6
) -> list[ase.Atoms]:
    """Distorted cells of copper with their labels by EMT."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", length, cubic=True).repeat((size, 1, 1))
        distortion = rng.normal(0, strain, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + (distortion + distortion.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def graphs(
    frames: list[ase.Atoms], factor: float = 1.0, is_virial: bool = False, energy: float = 1.0, forces: float = 1.0
) -> list[AtomGraph]:
    """Graphs whose stress is written in another way, and read as ours; energies and forces are multiplied."""
    made = []
    for number, atoms in enumerate(frames):
        stress = factor * voigt_6_to_full_3x3_stress(atoms.get_stress()) * (atoms.get_volume() if is_virial else 1.0)
        labels = {"energy": energy * atoms.get_potential_energy(), "stress": stress}
        if forces:
            labels["forces"] = forces * atoms.get_forces()
        made.append(from_atoms(atoms, 3.0, **labels, source=f"cu.xyz, frame {number}"))
    return made


@pytest.mark.parametrize("options", OTHERS)
@pytest.mark.parametrize("rattle", [0.0, 0.05])
def test_the_energies_tell_what_a_stress_is(options, rattle):
    why = doubt(graphs(solids(rattle=rattle), *OTHERS[options]), OURS, "cu.xyz")
    assert why.remedy == f"set {options}"
    assert why.evidence.startswith(
        "cu.xyz: the stress under 'stress', taken as eV/Å³, contradicts the energies: within"
    )


def test_what_was_declared_wrongly_is_told_as_well():
    declared = Convention("stress", "kbar", -1)
    assert doubt(graphs(solids(20), -0.1 * GPa), declared, "cu.xyz").remedy == "set data.stress_unit=eV/A3"
    assert doubt(graphs(solids(20), -1.0), declared, "cu.xyz").remedy == "set data.stress_unit=kbar"
    virial = Convention("stress", "eV")
    assert doubt(graphs(solids(), -1.0), virial, "cu.xyz").remedy == "set data.stress_unit=-eV"


def test_volume_curves_tell_without_forces():
    frames = [solids(1, 0.0, 0.0, length=length)[0] for length in np.linspace(3.4, 3.8, 9)]
    assert doubt(graphs(frames, forces=0.0), OURS, "cu.xyz") is None
    assert doubt(graphs(frames, -1.0, forces=0.0), OURS, "cu.xyz").remedy == "set data.stress_unit=-eV/A3"


@pytest.mark.parametrize(
    "frames",
    [
        *(solids(seed=seed, rattle=rattle) for seed in range(3) for rattle in (0.0, 0.05, 0.15)),
        solids(strain=0.005, rattle=0.1),
        solids(strain=0.0, rattle=0.1),
        [*solids(6), *solids(6, size=2)],
        solids(2),
    ],
)
def test_a_right_stress_is_left_alone(frames):
    for forces in (1.0, 0.0):
        assert doubt(graphs(frames, forces=forces), OURS, "cu.xyz") is None


def test_one_compressed_structure_is_left_alone():
    frames = solids(1, 0.0, 0.0, length=3.15)
    assert 100 * GPa < np.abs(frames[0].get_stress()).max() < 1.0
    assert doubt(graphs(frames), OURS, "cu.xyz") is None


def test_energies_that_have_nothing_to_do_with_it_tell_nothing():
    rng = np.random.default_rng(0)
    for seed in range(10):
        frames = graphs(solids(int(rng.integers(4, 12)), seed=seed))
        for graph in frames:
            graph.energy += 10.0 ** rng.uniform(-1, 1) * rng.normal()
        assert doubt(frames, OURS, "cu.xyz") is None


def test_a_stress_of_many_gpa_is_believed_with_energies_that_agree():
    large = graphs(solids(), 100.0, energy=100.0, forces=100.0)
    assert float(large[0].stress.abs().max()) > 1.0
    assert doubt(large, OURS, "cu.xyz") is None
    for graph in large:
        del graph["energy"]
    why = doubt(large, OURS, "cu.xyz")
    assert "beyond 1 eV/Å³ (160 GPa) in 10 of 10 frames" in why.evidence
    assert (
        "data.stress_unit=GPa or kbar, -GPa or -kbar where positive means compressed, or data.virial_key" in why.remedy
    )
    assert doubt(large[:4] + graphs(solids(5)), OURS, "cu.xyz") is None


def test_each_file_is_judged_and_small_ones_together():
    right, wrong = graphs(solids(6, rattle=0.0)), graphs(solids(6, rattle=0.0, seed=1), 10 / GPa)
    with pytest.raises(
        InputError, match=r"^b: the stress.*stress_unit=kbar, or train nevertheless with data\.implausible"
    ):
        check({"a": right, "b": wrong}, OURS, "stop")
    assert check({"a": right, "c": wrong[:1]}, OURS, "warn")[0].startswith(
        "accepted with data.implausible=warn: c: the"
    )
    many = {str(number): [graph] for number, graph in enumerate(wrong)}
    with pytest.raises(InputError, match=r"^0 and 5 more: the stress"):
        check(many, OURS, "stop")
    assert check({"a": right, "c": right[:1]}, OURS, "stop") == []


@pytest.mark.parametrize("options", OTHERS)
def test_files_are_converted_by_the_options(tmp_path, options):
    factor, is_virial = OTHERS[options]
    frames = solids(8)
    written = []
    for number, atoms in enumerate(frames):
        stress = factor * atoms.get_stress() * (atoms.get_volume() if is_virial else 1.0)
        atoms = atoms.copy()
        atoms.calc = SinglePointCalculator(
            atoms, energy=frames[number].get_potential_energy(), forces=frames[number].get_forces()
        )
        atoms.info["my_stress"] = voigt_6_to_full_3x3_stress(stress) if number % 2 else stress
        written.append(atoms)
    ase.io.write(tmp_path / "a.xyz", written)
    given = dict(option.removeprefix("data.").split("=") for option in options.split())
    given |= {"virial_key": "my_stress"} if is_virial else {"stress_key": "my_stress"}
    data = FileSets(cutoff=3.0, train_file=tmp_path / "a.xyz", val_file=tmp_path / "a.xyz", **given)
    data.setup()
    name = data.label_keys()["stress"]
    unit = given.get("stress_unit", "eV").replace("A3", "A^3")
    assert name == f"my_stress [{unit}]"
    again = [labels["stress"] for _, labels, _ in read_frames(tmp_path / "a.xyz", stress_key=name)]
    assert all(
        graph.stress[0].numpy() == pytest.approx(stress) for graph, stress in zip(data.train_graphs, again, strict=True)
    )
    for graph, atoms in zip(data.train_graphs, frames, strict=True):
        found = full_3x3_to_voigt_6_stress(graph.stress[0].numpy())
        assert found == pytest.approx(atoms.get_stress(), rel=1e-6, abs=1e-8)
    with pytest.raises(InputError) as error:
        FileSets(cutoff=3.0, train_file=tmp_path / "a.xyz", stress_key="my_stress").setup()
    assert f"set {options.replace('=stress', '=my_stress')}, or train nevertheless" in str(error.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Convention("stress")),
        ({"stress_unit": "eV/Å³"}, Convention("stress")),
        ({"stress_unit": "-ev/a3"}, Convention("stress", "eV/A^3", -1)),
        ({"stress_unit": "KBar"}, Convention("stress", "kbar")),
        ({"virial_key": "w"}, Convention("w", "eV")),
        ({"virial_key": "w", "stress_unit": "-eV"}, Convention("w", "eV", -1)),
    ],
)
def test_units(given, expected):
    assert Convention.read("stress", **given) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stress_unit": "Mbar"}, "data.stress_unit='Mbar' must be one of eV/A^3, GPa, kbar, bar, with a minus where"),
        ({"stress_unit": "eV"}, "data.stress_unit='eV' must be one of eV/A^3"),
        ({"stress_unit": "kbar", "virial_key": "w"}, "data.stress_unit='kbar' must be eV, as data.virial_key=w is"),
        ({"stress_unit": ["kbar"]}, "data.stress_unit=['kbar'] must be one of"),
        ({"virial_key": 3}, "data.virial_key=3 must be a name"),
    ],
)
def test_no_units(given, words):
    with pytest.raises(InputError) as error:
        Convention.read("stress", **given)
    assert words in str(error.value)


def test_a_virial_has_no_volume_without_a_cell(tmp_path):
    atoms = ase.Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]], info={"w": np.eye(3).ravel(), "energy": -1.0})
    ase.io.write(tmp_path / "a.xyz", [atoms] * 4)
    data = FileSets(cutoff=3.0, train_file=tmp_path / "a.xyz", virial_key="w", required=("energy",))
    data.setup()
    assert "stress" not in data.train_graphs[0]
    labels = [labels for _, labels, _ in read_frames(tmp_path / "a.xyz", stress_key=Convention("w", "eV"))]
    assert all("stress" not in found for found in labels)

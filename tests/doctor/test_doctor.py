"""Files with one thing wrong: the culprit is named, and nothing else; sound files pass."""

import json
import os
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, GPa, Hartree, kcal, mol
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from eqmol.cli import doctor
from eqmol.files import shipped

SAMPLE = shipped("data") / "sample"
NUMBER = 30


def labelled(atoms, energy, forces, stress=None, **info):
    """A copy with other labels."""
    made = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
    made.calc = SinglePointCalculator(made, energy=energy, forces=forces, stress=stress)
    return made


def labels(atoms):
    return atoms.calc.results["energy"], atoms.calc.results["forces"]


@pytest.fixture(scope="module")
def sound() -> list[ase.Atoms]:
    """Frames of a molecule at 300 K."""
    return read(SAMPLE / "train_300K.xyz", f":{NUMBER}")


@pytest.fixture(scope="module")
def copper() -> list[ase.Atoms]:
    """Strained and rattled cells with stress."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(30):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.rattle(0.03, rng=rng)
        atoms.calc = EMT()
        frames.append(labelled(atoms, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    return frames


def scaled(energy=1.0, forces=1.0, lengths=1.0):
    """What changes the units of every frame."""

    def change(frames):
        found = []
        for atoms in frames:
            e, f = labels(atoms)
            moved = atoms.copy()
            moved.positions *= lengths
            found.append(labelled(moved, energy * e, forces * f))
        return found

    return change


def some(change, step=3):
    """What changes every third frame."""
    return lambda frames: [change(atoms) if i % step == 0 else atoms for i, atoms in enumerate(frames)]


def turned(atoms):
    """Positions in other axes than the forces."""
    energy, forces = labels(atoms)
    other = atoms.copy()
    other.rotate(90, "z")
    return labelled(other, energy, forces)


def with_forces(change):
    return lambda atoms: labelled(atoms, labels(atoms)[0], change(labels(atoms)[1].copy()))


def set_rows(rows, value):
    def change(forces):
        forces[rows] = value
        return forces

    return with_forces(change)


def pulled_together(atoms):
    energy, forces = labels(atoms)
    other = atoms.copy()
    other.positions[1] = other.positions[0] + [0.3, 0, 0]
    return labelled(other, energy, forces)


def renamed(frames):
    found = []
    for atoms in frames:
        energy, forces = labels(atoms)
        other = ase.Atoms(atoms.numbers, atoms.positions, info={"REF_energy": energy})
        other.arrays["REF_forces"] = forces
        found.append(other)
    return found


def per_atom(frames):
    """Molecules of several sizes with energies per atom."""
    rng = np.random.default_rng(1)
    found = []
    for name in ("CH4", "C2H6", "CH3OH", "H2O", "CO2", "HCOOH", "C2H4", "C6H6", "H2CO", "C2H2"):
        atoms = molecule(name)
        energy = sum({1: -13.6, 6: -1030.0, 8: -2043.0}[z] - 4.0 + rng.normal(0, 0.1) for z in atoms.numbers)
        found.append(labelled(atoms, energy / len(atoms), np.full((len(atoms), 3), np.nan)))
        del found[-1].calc.results["forces"]
    return found


def hotter_pbc(atoms):
    energy, forces = labels(atoms)
    other = atoms.copy()
    other.pbc = True
    return labelled(other, energy, forces)


def flat(atoms):
    other = hotter_pbc(atoms)
    other.set_cell([[10, 0, 0], [20, 0, 0], [0, 0, 10]])
    return other


def shifted(frames):
    """Labels of other frames."""
    others = frames[7:] + frames[:7]
    return [labelled(atoms, *labels(other)) for atoms, other in zip(frames, others, strict=True)]


def contradicting(frames):
    energy, forces = labels(frames[0])
    return [*frames, labelled(frames[0], energy + 1.0, forces)]


def with_isolated(energies):
    """Isolated atoms among the frames."""
    free = [labelled(ase.Atoms(symbol), energy, np.zeros((1, 3))) for symbol, energy in energies]
    return lambda frames: [*frames, *free]


#: name -> the check that finds it, and what makes the file wrong.
BAD = {
    "energies in Hartree": ("units", scaled(energy=1 / Hartree)),
    "energies in kcal/mol": ("units", scaled(energy=mol / kcal)),
    "forces in Hartree/Bohr": ("units", scaled(forces=Bohr / Hartree)),
    "forces in kcal/mol": ("units", scaled(forces=mol / kcal)),
    "gradients": ("units", scaled(forces=-1.0)),
    "labels of other frames": ("units", shifted),
    "coordinates in Bohr": ("lengths", scaled(lengths=1 / Bohr)),
    "coordinates in nm": ("lengths", scaled(lengths=0.1)),
    "converted twice": ("lengths", scaled(lengths=Bohr)),
    "atoms too close": ("close atoms", some(pulled_together, 50)),
    "forces that are not finite": ("unusable", some(set_rows(3, np.nan), 40)),
    "an energy that is not finite": ("unusable", some(lambda a: labelled(a, np.inf, labels(a)[1]), 40)),
    "another level of theory": ("offset", some(lambda a: labelled(a, labels(a)[0] + 30.0, labels(a)[1]))),
    "one broken energy": ("outlier", some(lambda a: labelled(a, labels(a)[0] - 80.0, labels(a)[1]), 100)),
    "constraints": ("constraints", some(set_rows([0, 1, 2], 0.0), 2)),
    "no balance": ("net force", some(with_forces(lambda f: f + 0.4))),
    "turned forces": ("torque", lambda frames: [turned(atoms) for atoms in frames]),
    "a calculation that failed": ("huge forces", some(set_rows([4, 5], [[300.0, 0, 0], [-300.0, 0, 0]]), 100)),
    "no forces": ("forces", lambda frames: [set_rows(slice(None), 0.0)(atoms) for atoms in frames]),
    "energies that do not vary": ("energies", lambda frames: [labelled(a, 0.0, labels(a)[1]) for a in frames]),
    "other names": ("labels", renamed),
    "no labels": ("labels", lambda frames: [ase.Atoms(a.numbers, a.positions) for a in frames]),
    "energies per atom": ("energies", per_atom),
    "contradiction": ("contradictions", contradicting),
    "two charges": ("charge and spin", some(lambda a: labelled(a, *labels(a), charge=-1))),
    "mixed periodicity": ("cells", some(hotter_pbc)),
    "a flat cell": ("unusable", some(flat, 30)),
    "isolated atoms that disagree": ("isolated atoms", with_isolated([("H", -13.6), ("H", -12.0)])),
    "isolated atoms of another method": (
        "E0",
        with_isolated([("H", -60.0), ("C", -360.0), ("N", -420.0), ("O", -480.0)]),
    ),
}


def diagnosis(tmp_path: Path, *arguments: str) -> tuple[int, dict]:
    """Exit code, and what the JSON says."""
    code = doctor.main([*arguments, "--json", str(tmp_path / "found.json")])
    return code, json.loads((tmp_path / "found.json").read_text()) if code < 2 else {}


def culprits(found: dict) -> list[str]:
    return [finding["check"] for finding in found["findings"] if finding["culprit"]]


@pytest.mark.parametrize("name", BAD)
def test_each_culprit_is_named(name: str, sound: list[ase.Atoms], tmp_path: Path) -> None:
    check, change = BAD[name]
    write(tmp_path / "bad.xyz", change(sound), format="extxyz")
    code, found = diagnosis(tmp_path, str(tmp_path / "bad.xyz"))
    assert code == 1
    assert not found["sound"]
    assert check in culprits(found), found["findings"]


def test_units_are_named(sound: list[ase.Atoms], tmp_path: Path) -> None:
    for change, words in (
        (scaled(forces=Bohr / Hartree), "as with forces in Hartree/Bohr; convert"),
        (scaled(forces=-1.0), "the forces have the opposite sign"),
        (scaled(energy=1 / Hartree), "as with energies in Hartree"),
    ):
        write(tmp_path / "bad.xyz", change(sound), format="extxyz")
        _, found = diagnosis(tmp_path, str(tmp_path / "bad.xyz"))
        assert any(words in finding["words"] for finding in found["findings"]), words


@pytest.mark.parametrize("unit", [1 / GPa, -10 / GPa])
def test_units_of_stress(unit: float, copper: list[ase.Atoms], tmp_path: Path) -> None:
    frames = [labelled(a, *labels(a), full_3x3_to_voigt_6_stress(unit * a.get_stress(voigt=False))) for a in copper]
    write(tmp_path / "a.xyz", frames, format="extxyz")
    assert culprits(diagnosis(tmp_path, str(tmp_path / "a.xyz"))[1]) == ["stress"]
    option = "GPa" if unit > 0 else "-kbar"
    assert diagnosis(tmp_path, str(tmp_path / "a.xyz"), f"--stress-unit={option}")[0] == 0


def test_sound_files_pass(copper: list[ase.Atoms], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "copper.traj", copper)
    files = [f"train={SAMPLE / 'test_300K.xyz'}", f"val={SAMPLE / 'test_600K.xyz'}", str(SAMPLE / "iso_atoms.xyz")]
    for arguments in (files, [str(tmp_path / "copper.traj")]):
        code, found = diagnosis(tmp_path, *arguments)
        assert (code, culprits(found)) == (0, [])
        assert capsys.readouterr().out.endswith("sound: no culprit found\n")


def test_sets_are_compared(sound: list[ase.Atoms], copper: list[ase.Atoms], tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", sound[:30], format="extxyz")
    write(tmp_path / "b.xyz", [*sound[28:50], copper[0]], format="extxyz")
    a, b = str(tmp_path / "a.xyz"), str(tmp_path / "b.xyz")
    code, found = diagnosis(tmp_path, f"train={a}", f"test={b}")
    assert (code, sorted(culprits(found))) == (1, ["elements", "leakage"])
    assert next(f for f in found["findings"] if f["check"] == "leakage")["frames"] == 2
    code, found = diagnosis(tmp_path, a, b)
    assert (code, culprits(found)) == (1, ["leakage"])


def test_what_cannot_be_read(sound: list[ase.Atoms], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.xyz", sound[:3], format="extxyz")
    text = (tmp_path / "a.xyz").read_text()
    (tmp_path / "cut.xyz").write_text(text[: len(text) - 500])
    (tmp_path / "odd.yaml").write_text("a: 1")
    for arguments, words in (
        (["cut.xyz"], "is truncated"),
        (["gone.xyz"], "does not exist"),
        (["odd.yaml"], "is not the config.yaml of a run"),
        (["train="], "must name a set and its files"),
    ):
        given = [str(tmp_path / name) if "." in name else name for name in arguments]
        assert diagnosis(tmp_path, *given)[0] == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.count("\n") == 1


def test_of_a_run(sound: list[ase.Atoms], tmp_path: Path) -> None:
    for name, frames in (("a", sound[:20]), ("b", sound[19:])):
        write(tmp_path / f"{name}.xyz", frames, format="extxyz")
    files = [f"data.train_file={tmp_path / 'a.xyz'}", f"data.test_files={{later: {tmp_path / 'b.xyz'}}}"]
    with initialize_config_dir(str(shipped("conf").resolve()), version_base="1.3"):
        cfg = compose("train", ["data=xyz", "task.targets.energy.weight=0", *files])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    code, found = diagnosis(tmp_path, str(tmp_path / "config.yaml"))
    assert (code, culprits(found), list(found["sets"])) == (1, ["leakage"], ["train", "later"])
    assert any("have energy, which task.targets.energy.weight=0 leaves out" in f["words"] for f in found["findings"])


@pytest.mark.slow
@pytest.mark.realdata
def test_real_files(tmp_path: Path) -> None:
    folder = Path(os.environ["EQMOL_DATA"])
    bpa = [str(folder / "3bpa" / f"{name}.xyz") for name in ("train_300K", "train_mixedT", "iso_atoms")]
    code, found = diagnosis(tmp_path, *bpa)
    assert (code, culprits(found), found["findings"][0]["words"][:8]) == (1, ["leakage"], "31 pairs")
    others = ("oc20/is2re/is2re_bs3.extxyz", "oc20/is2re/is2re_bs3.pt", "qm9/raw/gdb9.sdf")
    for sound in (bpa[::2], bpa[1:], *([str(folder / other)] for other in others)):
        key = "y_relaxed" if "is2re" in sound[0] else "energy"
        code, found = diagnosis(tmp_path, *sound, f"--energy-key={key}")
        assert (code, culprits(found)) == (0, []), sound

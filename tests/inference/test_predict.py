"""``predict.py`` and :func:`eqmol.predict`: right numbers, nothing lost, nothing half-written."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io import iread, read, write

import eqmol
from eqmol.checkpoint import save
from eqmol.cli.main import main as eqmol_command
from eqmol.cli.predict import main
from eqmol.errors import InputError
from eqmol.graph import from_atoms
from eqmol.units import HARTREE
from tests.recipes import model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(model(), file)
    return file


def copper() -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def mixed() -> list[ase.Atoms]:
    """A molecule, a crystal, a single atom, a slab, a chain, a crystal of one atom."""
    chain = molecule("H2O")
    chain.set_cell([4.0, 0, 0])
    chain.pbc = (True, False, False)
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    slab.rattle(0.03, seed=1)
    slab.info.clear()
    return [molecule("CH3CH2OH"), copper(), ase.Atoms("O"), slab, chain, bulk("Cu")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.xyz"
    write(file, mixed())
    return file


def direct(path: Path, atoms: ase.Atoms) -> dict[str, Any]:
    """What the model itself says about one structure."""
    potential = eqmol.load(path)
    output = potential(from_atoms(atoms, potential.cutoff), stress=True)
    result = {"energy": float(output["energy"]), "forces": output["forces"].numpy()}
    return result | ({"stress": output["stress"][0].numpy()} if atoms.pbc.all() else {})


# --- in memory


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batches_equal_single_structures(path: Path, batch_size: int) -> None:
    structures = mixed()
    results = eqmol.predict(structures, path, batch_size=batch_size)
    assert len(results) == len(structures)
    for atoms, result in zip(structures, results, strict=True):
        expected = direct(path, atoms)
        assert result.keys() - {"energies"} == expected.keys()
        for name, value in expected.items():
            assert np.abs(result[name] - value).max() < 1e-9
        assert result["energies"].shape == (len(atoms),)
        assert result["forces"].dtype == np.float64


def test_large_batches_are_split(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = eqmol.predict(mixed(), path)
    sizes = []
    evaluate = eqmol.inference.evaluate.evaluate_graphs
    monkeypatch.setattr(
        "eqmol.inference.structures.evaluate_graphs",
        lambda m, graphs, std: sizes.append(len(graphs)) or evaluate(m, graphs, std),
    )
    monkeypatch.setattr("eqmol.inference.batches.MAX_EDGES", 100)
    for result, other in zip(eqmol.predict(mixed(), path), expected, strict=True):
        assert abs(result["energy"] - other["energy"]) < 1e-9
    assert sum(sizes) == len(mixed())
    assert len(sizes) > 2


def test_one_structure_gives_one_dict(path: Path) -> None:
    result = eqmol.predict(molecule("H2O"), eqmol.load(path), backend="escn", dtype="float32")
    assert abs(result["energy"] - direct(path, molecule("H2O"))["energy"]) < 3e-5
    assert eqmol.predict([], path) == []
    assert len(eqmol.predict((atoms for atoms in mixed()), path)) == len(mixed())


def test_bad_arguments_of_predict(path: Path) -> None:
    with pytest.raises(InputError, match="not str"):
        eqmol.predict("in.xyz", path)
    with pytest.raises(InputError, match="batch_size"):
        eqmol.predict(molecule("H2O"), path, batch_size=0)
    with pytest.raises(InputError, match=r"structure 1: atom 0 \(N\) is of an element"):
        eqmol.predict([molecule("H2O"), molecule("NH3")], path)


# --- files


@pytest.mark.parametrize("options", [[], ["--batch-size", "2"], ["--backend", "escn", "--dtype", "float64"]])
def test_predictions_in_the_file(path: Path, source: Path, tmp_path: Path, options: list[str], capfd: Any) -> None:
    out = tmp_path / "out.xyz"
    assert main([str(path), str(source), "-o", str(out), *options]) == 0
    structures, written = read(source, ":"), read(out, ":")
    assert len(written) == len(structures)
    for atoms, other in zip(structures, written, strict=True):
        expected = direct(path, atoms)
        assert abs(other.info["eqmol_energy"] - expected["energy"]) < 1e-9
        assert np.abs(other.arrays["eqmol_forces"] - expected["forces"]).max() < 1e-9
        assert ("eqmol_stress" in other.info) == atoms.pbc.all()
        if atoms.pbc.all():
            xx, yy, zz, yz, xz, xy = other.info["eqmol_stress"]
            stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            assert np.abs(stress - expected["stress"]).max() < 1e-9
        assert np.array_equal(atoms.positions, other.positions)
        assert np.array_equal(atoms.cell, other.cell)
        assert np.array_equal(atoms.pbc, other.pbc)
        assert np.array_equal(atoms.numbers, other.numbers)
    printed = capfd.readouterr()
    assert f"{len(structures)} structures" in printed.out
    assert "MAE" not in printed.out
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["in.xyz", "out.xyz"]


def test_float32_is_close(path: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.xyz"
    assert main([str(path), str(source), "-o", str(out), "--dtype", "float32"]) == 0
    for atoms in read(out, ":"):
        expected = direct(path, atoms)
        assert abs(atoms.info["eqmol_energy"] - expected["energy"]) < 1e-5 * len(atoms)
        assert np.abs(atoms.arrays["eqmol_forces"] - expected["forces"]).max() < 1e-4


def labelled(seed: int, energy_key: str = "energy", forces_key: str = "forces") -> ase.Atoms:
    """Copper with all kinds of things that a file can carry."""
    rng = np.random.default_rng(seed)
    atoms = copper()
    forces = rng.normal(size=(len(atoms), 3))
    atoms.info |= {"config_type": "300K", "note": "two words", "flag": True, "vector": np.arange(3) / 7}
    atoms.info |= {"virial": rng.normal(size=(3, 3)), "table": rng.normal(size=(2, 2)), "eqmol_energy": 1e9}
    atoms.arrays |= {"charge_guess": rng.normal(size=len(atoms)), "name": np.array(["a", "b", "c", "d"])}
    atoms.set_velocities(rng.normal(size=(len(atoms), 3)))
    atoms.set_tags([0, 1, 2, 3])
    symmetric = rng.normal(size=6)
    results = {"stress": symmetric, "dipole": rng.normal(size=3), "magmoms": rng.normal(size=len(atoms))}
    if energy_key == "energy":
        results |= {"energy": 1 / 3 + seed, "forces": forces}
    else:
        atoms.info[energy_key], atoms.arrays[forces_key] = 1 / 3 + seed, forces
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize("keys", [("energy", "forces"), ("REF_energy", "REF_forces")])
def test_nothing_is_lost(path: Path, tmp_path: Path, keys: tuple[str, str]) -> None:
    structures = [labelled(seed, *keys) for seed in range(3)]
    structures[0].set_constraint(FixAtoms([1, 2]))
    structures[1].set_constraint(FixCartesian([3], mask=[True, False, True]))
    write(tmp_path / "in.xyz", structures)
    out = tmp_path / "out.xyz"
    assert main([str(path), str(tmp_path / "in.xyz"), "-o", str(out)]) == 0
    for atoms, other in zip(read(tmp_path / "in.xyz", ":"), read(out, ":"), strict=True):
        assert other.info.keys() == atoms.info.keys() | {"eqmol_stress"}
        for key in atoms.info.keys() - {"eqmol_energy"}:
            assert np.array_equal(atoms.info[key], other.info[key])
        assert other.arrays.keys() == atoms.arrays.keys() | {"eqmol_forces"}
        for key in atoms.arrays:
            assert np.array_equal(atoms.arrays[key], other.arrays[key])
        assert other.calc.results.keys() == atoms.calc.results.keys()
        for key, value in atoms.calc.results.items():
            assert np.array_equal(value, other.calc.results[key])
        assert other.info["eqmol_energy"] < 1e6
        assert np.abs(other.arrays["eqmol_forces"] - direct(path, atoms)["forces"]).max() < 1e-9
    first, second, third = read(out, ":")
    assert first.constraints[0].index.tolist() == [1, 2]
    assert first.arrays["eqmol_forces"][1].any()
    assert [c.index.tolist() for c in second.constraints if c.mask.any()] == [[3]]
    assert not third.constraints


def test_nested_information_is_kept(path: Path, tmp_path: Path) -> None:
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)  # carries a dictionary with arrays
    write(tmp_path / "in.traj", slab)
    assert main([str(path), str(tmp_path / "in.traj"), "-o", str(tmp_path / "out.xyz")]) == 0
    kept = read(tmp_path / "out.xyz").info["adsorbate_info"]
    assert np.allclose(kept["cell"], slab.info["adsorbate_info"]["cell"])


def test_fixed_atoms_keep_their_labels(path: Path, tmp_path: Path) -> None:
    atoms = labelled(0)
    atoms.set_constraint(FixAtoms([0, 1]))
    forces = atoms.calc.results["forces"]
    write(tmp_path / "in.xyz", atoms)
    assert main([str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]) == 0
    assert np.abs(read(tmp_path / "out.xyz").calc.results["forces"] - forces).max() < 1e-8


def test_output_is_input_again(path: Path, source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.xyz", tmp_path / "second.xyz"
    assert main([str(path), str(source), "-o", str(first)]) == 0
    assert main([str(path), str(first), "-o", str(second)]) == 0
    assert first.read_text() == second.read_text()


def test_read_by_ase_as_results(path: Path, source: Path, tmp_path: Path) -> None:
    from eqmol.inference.ase_plugin import read_eqmol

    out = tmp_path / "out.xyz"
    assert main([str(path), str(source), "-o", str(out)]) == 0
    with open(out) as file:
        for atoms in read_eqmol(file, slice(None)):
            expected = direct(path, atoms)
            assert abs(atoms.get_potential_energy() - expected["energy"]) < 1e-9
            assert np.abs(atoms.get_forces() - expected["forces"]).max() < 1e-9
            if atoms.pbc.all():
                assert np.abs(atoms.get_stress(voigt=False) - expected["stress"]).max() < 1e-9


@pytest.mark.parametrize("name", ["in.xyz.gz", "in.cif", "in.pdb", "in.vasp", "in.json"])
def test_other_formats(path: Path, tmp_path: Path, name: str) -> None:
    atoms = copper()
    if name.endswith(".gz"):
        with gzip.open(tmp_path / name, "wt") as file:
            write(file, atoms, format="extxyz")
    else:
        write(tmp_path / name, atoms)
    assert main([str(path), str(tmp_path / name), "-o", str(tmp_path / "out.xyz")]) == 0
    written = read(tmp_path / "out.xyz")
    assert abs(written.info["eqmol_energy"] - direct(path, written)["energy"]) < 1e-9


# --- several files


def test_several_files_of_several_kinds(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run=1, (é)~").mkdir()
    write("run=1, (é)~/b.xyz", mixed())
    write("run=1, (é)~/a.xyz", molecule("H2O"))
    write("c.traj", [copper(), copper()])
    write("d.cif", bulk("Cu", cubic=True))
    Path("d.cif.gz").write_bytes(gzip.compress(Path("d.cif").read_bytes()))
    shutil.copy(path, "m.safetensors")
    arguments = ["predict", "m*.safetensors", "run=*/*.xyz", "~/c.traj", "d.cif.gz", "-o", "~/out [1].xyz"]
    assert eqmol_command([*arguments, "--metrics", "~/m.json"]) == 2  # there are no labels
    assert eqmol_command(arguments) == 0
    sources = ["run=1, (é)~/a.xyz, frame 0", *(f"run=1, (é)~/b.xyz, frame {i}" for i in range(6))]
    sources += [f"{tmp_path}/c.traj, frame 0", f"{tmp_path}/c.traj, frame 1", "d.cif.gz, frame 0"]
    written = read(tmp_path / "out [1].xyz", ":")
    assert [atoms.info["eqmol_source"] for atoms in written] == sources
    for atoms in written[:4]:
        assert abs(atoms.info["eqmol_energy"] - direct(path, atoms)["energy"]) < 1e-9
    assert eqmol_command(["predict", "m.safetensors", "out*.xyz", "-o", "again.xyz"]) == 0
    assert not any("eqmol_source" in atoms.info for atoms in read("again.xyz", ":"))


RAW_QM9 = (
    "5\ngdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t"
    "-40.475117\t-40.498597\t6.469\t\nC\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\nH\t 0.002150416\t"
    "-6.0313176*^-3\t 0.0019761204\t 0.133921\nH\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\nH\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t3151.7078\nC\tC\t\nInChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)


def test_raw_files_of_qm9(path: Path, tmp_path: Path) -> None:
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text(RAW_QM9)
    with gzip.open(tmp_path / "dsgdb9nsd_000002.xyz.gz", "wt") as file:
        file.write(RAW_QM9.replace("gdb 1", "gdb 2"))
    assert main([str(path), str(tmp_path / "dsgdb9nsd_*"), "-o", str(tmp_path / "out.xyz")]) == 0
    first, second = read(tmp_path / "out.xyz", ":")
    assert (first.info["name"], second.info["name"]) == ("gdb_1", "gdb_2")
    assert first.positions[1, 1] == -6.0313176e-3
    assert first.info["U0"] == pytest.approx(-40.47893 * HARTREE)
    assert first.info["eqmol_energy"] == pytest.approx(direct(path, first)["energy"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "*.cif", "-o", "out.xyz"], "IN: no file matches '*.cif'"),
        (["MODEL", "in.xyz", "./in.xyz", "-o", "out.xyz"], "IN names in.xyz twice"),
        (["MODEL", "in.xyz", "", "-o", "out.xyz"], "IN=['in.xyz', ''] must be the path of a file"),
        (["MODEL", "gone.xyz", "-o", "out.xyz"], "gone.xyz does not exist"),
        (["MODEL", ".", "-o", "out.xyz"], ". is a folder; give its files: *"),
        (["MODEL", "in.xyz"], "give the file to write for in.xyz: -o OUT.xyz"),
        (["MODEL", "in.xyz", "in.smi", "-o", "out.xyz"], "in.xyz holds structures and in.smi molecules"),
        (["MODEL", "in.xyz.zip", "-o", "out.csv"], "in.xyz.zip is packed by zip"),
        (["in.*", "in.xyz", "-o", "out.xyz"], "argument MODEL: 'in.*' is 3 files, in.smi and others; give one"),
        (["*.model", "in.xyz", "-o", "out.xyz"], "argument MODEL: no file matches '*.model'"),
        (["", "in.xyz", "-o", "out.xyz"], "argument MODEL: an empty text is no path"),
        (["MODEL", "in.xyz", "-o", ""], "argument -o/--output: an empty text is no path"),
    ],
)
def test_files_that_are_none(
    path: Path, source: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(source.parent)
    Path("in.smi").write_text("C\n")
    Path("in.xyz.zip").write_bytes(b"PK\x03\x04")
    before = {file.name for file in source.parent.iterdir()}
    assert main([str(path) if argument == "MODEL" else argument for argument in arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert {file.name for file in source.parent.iterdir()} == before


# --- errors against labels


def shifted(path: Path, tmp_path: Path, prefix: str = "") -> tuple[Path, list[ase.Atoms]]:
    """A file whose labels are the predictions plus known errors; every third frame has none."""
    structures = mixed()
    for number, atoms in enumerate(structures):
        result = direct(path, atoms)
        if number % 3 == 2:
            continue
        atoms.info[prefix + "energy"] = result["energy"] - 0.1 * (number + 1)
        atoms.arrays[prefix + "forces"] = result["forces"] - 0.02
    write(tmp_path / "labelled.xyz", structures)
    return tmp_path / "labelled.xyz", structures


@pytest.mark.parametrize("prefix", ["", "REF_"])
def test_errors(path: Path, tmp_path: Path, capfd: Any, prefix: str) -> None:
    source, structures = shifted(path, tmp_path, prefix)
    options = ["--energy-key", prefix + "energy", "--forces-key", prefix + "forces"] if prefix else []
    arguments = [str(path), str(source), "-o", str(tmp_path / "out.xyz"), "--metrics", str(tmp_path / "m.json")]
    assert main([*arguments, *options, "--batch-size", "4"]) == 0
    errors = [(0.1 * (i + 1), len(atoms)) for i, atoms in enumerate(structures) if i % 3 != 2]
    per_atom = np.array([error / size for error, size in errors])
    energy = np.array([error for error, _ in errors])
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["structures"] == len(structures)
    assert metrics["energy_mae_mev"] == pytest.approx(1000 * energy.mean())
    assert metrics["energy_rmse_mev"] == pytest.approx(1000 * np.sqrt((energy**2).mean()))
    assert metrics["energy_mae_mev_per_atom"] == pytest.approx(1000 * per_atom.mean())
    assert metrics["energy_rmse_mev_per_atom"] == pytest.approx(1000 * np.sqrt((per_atom**2).mean()))
    assert metrics["forces_mae_mev_per_a"] == pytest.approx(20, abs=1e-4)
    assert metrics["forces_rmse_mev_per_a"] == pytest.approx(20, abs=1e-4)
    assert "stress_mae_mev_per_a3" not in metrics
    printed = capfd.readouterr().out
    for text in ("energy per atom", "forces", "meV/Å", "MAE", "RMSE", f"{1000 * energy.mean():.3f}", "20.000"):
        assert text in printed
    first = read(tmp_path / "out.xyz", 0)  # the labels are still there
    found = first.info if prefix else first.calc.results
    assert found[prefix + "energy"] == pytest.approx(first.info["eqmol_energy"] - 0.1)


def spaced(text: str) -> str:
    """Text of a table without its lines."""
    return " ".join("".join(c if c.isascii() or c.isalpha() or c in "³" else " " for c in text).split())


def test_errors_count_the_labels_that_are_there(path: Path, tmp_path: Path, capfd: Any) -> None:
    labels = [{"energy": -1.0, "forces": np.zeros((4, 3))}, {"energy": -1.0}, {"forces": np.ones((4, 3))}, {}]
    frames = [copper() for _ in labels]
    for atoms, given in zip(frames, labels, strict=True):
        atoms.calc = SinglePointCalculator(atoms, **given)
    write(tmp_path / "in.xyz", frames)
    assert main([str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]) == 0
    rows = [line.split("│")[1:4] for line in capfd.readouterr().out.splitlines() if "│" in line]
    counts = {name.strip(): int(count) for name, _, count in rows}
    assert counts == {"energy": 2, "energy per atom": 2, "forces": 24}


def test_the_model_knows_the_keys_of_labels(path: Path, tmp_path: Path, capfd: Any) -> None:
    known = eqmol.load(path)
    known.set_labels({"energy": "REF_energy", "forces": "REF_forces"})
    save(known, tmp_path / "known.safetensors")
    source, structures = shifted(path, tmp_path, "REF_")
    arguments = [str(tmp_path / "known.safetensors"), str(source), "-o", str(tmp_path / "out.xyz")]
    assert main([*arguments, "--metrics", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["forces_mae_mev_per_a"] == pytest.approx(20, abs=1e-4)
    assert "(REF_energy, REF_forces)" in spaced(capfd.readouterr().out)
    for number, atoms in enumerate(structures):
        if number % 3 != 2:
            atoms.info["E_dft"] = atoms.info.pop("REF_energy")
            del atoms.arrays["REF_forces"]
    write(source, structures)
    assert main(arguments) == 0
    assert capfd.readouterr().out == f"6 structures -> {tmp_path}/out.xyz\n"
    assert main([*arguments, "--energy-key", "E_dft"]) == 0
    assert "(E_dft, REF_forces)" in spaced(capfd.readouterr().out)


def test_a_virial_in_a_file_with_brackets_in_its_name(path: Path, tmp_path: Path, capfd: Any) -> None:
    atoms = copper()
    atoms.info["vir"] = -direct(path, atoms)["stress"] * atoms.cell.volume - 1e-3 * np.eye(3) * atoms.cell.volume
    write(tmp_path / "a[b].xyz", atoms)
    arguments = [str(path), str(tmp_path / "a[b].xyz"), "-o", str(tmp_path / "out.xyz"), "--stress-key", "vir [eV]"]
    assert main([*arguments, "--metrics", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["stress_mae_mev_per_a3"] == pytest.approx(1 / 3)
    printed = " ".join(capfd.readouterr().out.split())
    assert "a[b].xyz" in printed
    assert "(vir [eV])" in printed


def test_labels_that_may_be_meant_are_told(path: Path, tmp_path: Path, capfd: Any) -> None:
    source, _ = shifted(path, tmp_path, "dft_")
    assert main([str(path), str(source), "-o", str(tmp_path / "out.xyz")]) == 0
    assert (
        "no frame has energy or forces; if these are labels, give --energy-key dft_energy --forces-key dft_forces"
        in (capfd.readouterr().out)
    )


def test_labels_that_cannot_be_used_are_left_out(path: Path, tmp_path: Path, capfd: Any) -> None:
    structures = [molecule("H2O") for _ in range(6)]
    energy = direct(path, structures[0])["energy"]
    for number, atoms in enumerate(structures):
        atoms.info["E"] = (np.nan, "high", energy + 0.1, energy + 0.1, energy - 0.1, energy + 0.1)[number]
        atoms.arrays["F"] = np.zeros((3, 2))
    write(tmp_path / "in.xyz", structures)
    arguments = [str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]
    assert main([*arguments, "--energy-key", "E", "--forces-key", "F", "--metrics", str(tmp_path / "m.json")]) == 0
    assert len(read(tmp_path / "out.xyz", ":")) == 6
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["energy_mae_mev"] == pytest.approx(100)
    assert not any(name.startswith("forces") for name in metrics)
    printed = spaced(capfd.readouterr().out)
    assert "energy meV 4 100.000 100.000" in printed
    assert "forces 0" in printed
    assert (
        f"energy: 2 labels cannot be used and are not compared; {tmp_path}/in.xyz, frame 0: 'E' in info is nan"
        in printed
    )
    assert "forces: 6 labels cannot be used" in printed
    assert "'F' in arrays has shape [3, 2], but 3 atoms need [3, 3]" in printed


def test_errors_of_each_file(path: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, error in (("a", 0.1), ("b", 0.3)):
        structures = [copper() for _ in range(2)]
        for atoms in structures:
            atoms.info["energy"] = direct(path, atoms)["energy"] + error
            error = -error
        write(f"{name}.xyz", structures)
    write("c.xyz", copper())
    assert main([str(path), "?.xyz", "-o", "out.xyz", "--metrics", "m.json"]) == 0
    printed = spaced(capfd.readouterr().out)
    for row in ("a.xyz energy meV 2 100.000", "b.xyz energy meV 2 300.000", "all energy meV 4 200.000"):
        assert row in printed
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["energy_mae_mev"] == pytest.approx(200)
    assert metrics["files"]["b.xyz"]["energy_mae_mev"] == pytest.approx(300)
    assert metrics["files"]["c.xyz"] == {"structures": 1}
    assert metrics["input"] == ["a.xyz", "b.xyz", "c.xyz"]


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        (lambda size: -1.5 * size, "energy: the errors are nearly one constant, +1.5 eV/atom, and vary by"),
        (lambda size: 0.2, "energy: the errors are nearly one constant, -200 meV, and vary by"),
        (lambda size: 0.1 * (size - 4), ""),
    ],
)
def test_a_constant_error_is_named(path: Path, tmp_path: Path, capfd: Any, shift: Callable, expected: str) -> None:
    structures = mixed()
    for number, atoms in enumerate(structures):
        atoms.info["energy"] = direct(path, atoms)["energy"] + shift(len(atoms)) + 1e-3 * (-1) ** number
    write(tmp_path / "in.xyz", structures)
    arguments = [str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]
    assert main([*arguments, "--metrics", str(tmp_path / "m.json")]) == 0
    printed = spaced(capfd.readouterr().out)
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert ("nearly one constant" in printed) == any("offset" in name for name in metrics) == bool(expected)
    assert expected in printed
    if "eV/atom" in expected:
        assert metrics["energy_offset_mev_per_atom"] == pytest.approx(1500, abs=1)
        assert "energy per atom eV/atom 6 1.5" in printed  # and no 1500 meV/atom


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--key", "alpha=POL"], "the model does not predict 'alpha'; it predicts energy, forces, stress"),
        (["--key", "alpha"], "--key alpha must name a property and its key"),
        (["--stress-key", "virial"], "no frame has 'virial', which was given as the key of stress; correct it"),
    ],
)
def test_keys_of_nothing(path: Path, source: Path, options: list[str], message: str, capsys: Any) -> None:
    assert main([str(path), str(source), "-o", str(source.with_name("out.xyz")), *options]) == 2
    assert message in capsys.readouterr().err


def test_stress_errors(path: Path, tmp_path: Path) -> None:
    atoms = copper()
    stress = direct(path, atoms)["stress"] + 0.003
    atoms.calc = SinglePointCalculator(atoms, stress=stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])
    write(tmp_path / "in.xyz", [atoms, molecule("H2O")])
    arguments = [str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]
    assert main([*arguments, "--metrics", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["stress_rmse_mev_per_a3"] == pytest.approx(3.0)


def test_other_states_are_counted(path: Path, tmp_path: Path, capfd: Any) -> None:
    structures = [molecule("H2O") for _ in range(4)]
    for atoms in structures[1:3]:
        atoms.info |= {"charge": 1, "multiplicity": 2}
    write(tmp_path / "in.xyz", structures)
    arguments = [str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz"), "--electronic-state", "warn"]
    with pytest.warns(UserWarning, match="frame 1: the structure has charge"):
        assert main(arguments) == 0
    assert "2 of 4 structures state another charge or spin than the training set (charge 0" in capfd.readouterr().out
    first, *_, last = (atoms.info["eqmol_energy"] for atoms in iread(tmp_path / "out.xyz"))
    assert first == last


def test_labels_that_are_not_there(path: Path, source: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.xyz"
    assert main([str(path), str(source), "-o", str(out), "--energy-key", "REF_enrgy"]) == 2
    assert "'REF_enrgy'" in capsys.readouterr().err
    assert main([str(path), str(source), "-o", str(out), "--metrics", str(tmp_path / "m.json")]) == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["in.xyz"]


# --- bad input


def bad(name: str, tmp_path: Path, path: Path) -> tuple[list[str], str]:
    """Arguments and what the error must say."""
    source, out = tmp_path / "in.xyz", tmp_path / "out.xyz"
    arguments = [str(path), str(source), "-o", str(out)]
    structures = mixed()
    match name:
        case "unseen element":
            structures[4] = molecule("NH3")
            match = f"error: {source}, frame 4: atom 0 (N) is of an element that the model does not know; it knows H, C, O, Cu"
        case "dummy atom":
            structures[4].numbers[1] = 0
            match = f"error: {source}, frame 4: atom 1 is a dummy or ghost atom"
        case "another charge":
            structures[0].info["total_charge"] = -1
            match = f"error: {source}, frame 0: the structure has charge -1"
        case "NaN position":
            structures[1].positions[2, 0] = np.nan
            match = "frame 1: the position of atom 2"
        case "two atoms at one place":
            structures[3].positions[0] = structures[3].positions[1]
            match = "frame 3: atom 0 (Cu) and atom 1 (Cu) are at the same place"
        case "singular cell":
            structures[0].pbc = True
            match = "frame 0: the cell"
        case "backend of the other family":
            arguments += ["--backend", "gaunt"]
            match = "coupled"
        case "unknown backend":
            arguments += ["--backend", "numpy"]
            match = "'numpy'"
        case "unknown device":
            arguments += ["--device", "warp"]
            match = "'warp'"
        case "output is the input":
            arguments[3] = str(source)
            match = "overwrite"
        case "output is the input by another name":
            os.symlink(source, tmp_path / "link.xyz")
            arguments[3] = str(tmp_path / "link.xyz")
            match = "overwrite"
        case "metrics is the model":
            arguments += ["--metrics", str(path)]
            match = "overwrite"
        case "metrics is the output":
            arguments += ["--metrics", str(tmp_path / "." / "out.xyz")]
            match = "two names"
        case "output of another format":
            arguments[3] = str(tmp_path / "out.traj")
            match = ".extxyz"
        case "folder that is not there":
            arguments[3] = str(tmp_path / "absent" / "out.xyz")
            match = "absent"
        case "folder for the metrics that is not there":
            arguments += ["--metrics", str(tmp_path / "absent" / "m.json")]
            match = "absent"
        case "no model":
            arguments[0] = str(tmp_path / "absent.safetensors")
            match = "absent.safetensors"
        case "no input":
            arguments[1] = str(tmp_path / "absent.xyz")
            match = "absent.xyz"
        case _:
            assert name in ("empty", "truncated", "text")
            match = str(source)
    write(source, structures)
    text = source.read_text()
    contents = {"empty": "", "truncated": text[: len(text) - 300], "text": "not a structure\n" * 5}
    source.write_text(contents.get(name, text))
    return arguments, match


BAD = [
    "unseen element",
    "dummy atom",
    "another charge",
    "NaN position",
    "two atoms at one place",
    "singular cell",
    "backend of the other family",
    "unknown backend",
    "unknown device",
    "output is the input",
    "output is the input by another name",
    "metrics is the model",
    "metrics is the output",
    "output of another format",
    "folder that is not there",
    "folder for the metrics that is not there",
    "no model",
    "no input",
    "empty",
    "truncated",
    "text",
]


@pytest.mark.parametrize("name", BAD)
def test_bad_input(path: Path, tmp_path: Path, name: str, capfd: Any) -> None:
    arguments, match = bad(name, tmp_path, path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    model_before = path.read_bytes()
    assert main([*arguments, "--batch-size", "2"]) == 2
    printed = capfd.readouterr()
    message = printed.err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert match in message
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert path.read_bytes() == model_before


@pytest.mark.parametrize(
    "options", [["--batch-size", "0"], ["--batch-size", "two"], ["--dtype", "float16"], ["--nothing"]]
)
def test_bad_options(path: Path, source: Path, options: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main([str(path), str(source), "-o", str(tmp_path / "out.xyz"), *options]) == 2
    assert "error" in capsys.readouterr().err


def test_old_output_is_kept_until_the_new_one_is_complete(path: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.xyz"
    out.write_text("old")
    broken = tmp_path / "broken.xyz"
    broken.write_text(source.read_text() + "3\n\nH 0 0 0\n")
    assert main([str(path), str(broken), "-o", str(out), "--batch-size", "1"]) == 2
    assert out.read_text() == "old"
    assert main([str(path), str(source), "-o", str(out)]) == 0
    assert len(read(out, ":")) == len(mixed())


def test_interrupt(path: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eqmol.inference.extxyz.write_frame", interrupted)
    assert main([str(path), str(source), "-o", str(tmp_path / "out.xyz")]) == 130
    assert "interrupted" in capfd.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["in.xyz"]


# --- size


def test_memory_does_not_grow_with_the_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    atoms = ase.Atoms("O100", positions=10.0 * np.arange(300).reshape(100, 3))  # no neighbours: fast
    for number in (20, 100):
        write(tmp_path / f"{number}.xyz", [atoms] * number)

    def peak(number: int) -> int:
        tracemalloc.start()
        assert main([str(path), str(tmp_path / f"{number}.xyz"), "-o", str(tmp_path / "out.xyz")]) == 0
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(20)  # first use fills caches
    small = peak(20)
    assert peak(100) < small + 300_000
    assert sum(1 for _ in iread(tmp_path / "out.xyz", ":")) == 100


# --- the script itself


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    # torch_geometric scripts helpers at import
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "predict.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False, **options)


def test_script(path: Path, tmp_path: Path) -> None:
    source, _ = shifted(path, tmp_path)
    done = run(str(path), str(source), "-o", str(tmp_path / "out.xyz"), "--metrics", str(tmp_path / "m.json"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "RMSE" in done.stdout
    assert len(read(tmp_path / "out.xyz", ":")) == len(mixed())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_nothing(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.xyz", mixed() * 400)
    command = [sys.executable, "predict.py", str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell's background jobs, and so the tests among them, ignore Ctrl-C
    restored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=restored, **pipes)
    wait_until(lambda: any(file.name.endswith(".tmp") and file.stat().st_size for file in tmp_path.iterdir()))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.strip().endswith("interrupted; nothing was written")
    assert [file.name for file in tmp_path.iterdir()] == ["in.xyz"]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""Predictions for molecules, from the command line to the files."""

import csv
import gzip
import io
import json

import ase.io
import numpy as np
import pytest
import torch
from rdkit import Chem

import eqmol
from eqmol import checkpoint
from eqmol.cli.predict import main
from eqmol.data.qm9.targets import TARGETS
from eqmol.errors import InputError
from eqmol.graph import collate
from eqmol.graph.keys import FEATURES
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.inference.molecules import FMAX
from eqmol.molecules.features import atom_features, expand
from eqmol.molecules.molecule import Molecule, from_smiles
from eqmol.tuning.first_use import settle
from eqmol.units import HARTREE
from tests.inference.test_predict import RAW_QM9
from tests.recipes import recipe

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def properties_recipe():
    backbone = {**recipe()["backbone"], "elements": [1, 6, 8], "degree_out": 1}
    entry = {"e0": [-13.0, -1036.0, -2044.0], "mean": 1.0, "scale": 0.5, "spread": 0.5}
    statistics = {name: TARGETS[name].plain() | entry for name in ("U0", "mu", "homo")}
    return {
        "_target_": "eqmol.models.Properties",
        "backbone": backbone,
        "elements": [1, 6, 8],
        "statistics": statistics,
    }


@pytest.fixture
def model_file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    checkpoint.save(checkpoint.build(properties_recipe()), path)
    return path


def test_a_model_of_properties_survives_its_file(model_file):
    torch.manual_seed(0)
    built = checkpoint.build(properties_recipe()).eval()
    from ase.build import molecule

    atoms = molecule("CH3OH")
    (expected,) = eqmol.predict([atoms], built)
    (found,) = eqmol.predict([atoms], eqmol.load(model_file))
    assert found.keys() == {"U0", "mu", "homo", "dipole", "charges"}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    with pytest.raises(InputError, match="properties of molecules and no forces"):
        eqmol.Calculator(model_file)


def test_smiles(model_file, capsys):
    assert main([str(model_file), "--smiles", ASPIRIN, "--conformers", "1"]) == 0
    out = capsys.readouterr().out
    assert "U0 (eV)" in out
    assert "mu (D)" in out


def test_table_and_sdf_list_failures_with_reasons(model_file, tmp_path, capsys):
    source = tmp_path / "in.smi"
    source.write_text("CO methanol\nC[N+](C)(C)C cation\nCF fluoride\nO water\nO[O] hydroperoxyl\n[C-]#[O+] monoxide\n")
    out = tmp_path / "out.csv"
    assert main([str(model_file), str(source), "-o", str(out), "--conformers", "1"]) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["name"] for row in rows] == ["methanol", "cation", "fluoride", "water", "hydroperoxyl", "monoxide"]
    assert [bool(row["problem"]) for row in rows] == [False, True, True, False, True, False]
    assert [row["structure"] for row in rows] == ["MMFF94s", "", "", "MMFF94s", "", "UFF"]
    assert "1 unpaired electron" in rows[4]["problem"]
    assert "charge +1" in rows[1]["problem"]
    assert "(F) is of an element" in rows[2]["problem"]
    assert rows[1]["U0 (eV)"] == ""
    norm = np.linalg.norm([float(rows[0][f"dipole_{axis} (D)"]) for axis in "xyz"])
    assert float(rows[0]["mu (D)"]) == pytest.approx(norm, rel=1e-6)
    records = list(Chem.SDMolSupplier(str(out.with_suffix(".sdf")), removeHs=False))
    assert [mol.GetProp("_Name") for mol in records] == ["methanol", "water", "monoxide"]
    assert float(records[1].GetProp("U0 (eV)")) == pytest.approx(float(rows[3]["U0 (eV)"]))
    printed = capsys.readouterr().out
    assert "cation: it has the charge +1" in printed
    assert "3 of 6 molecules" in printed
    assert "1 of 6 conformers are minimised by UFF, as MMFF94s lacks parameters (monoxide)" in printed


def test_a_table_comes_back_with_its_rows_and_columns(model_file, tmp_path, capsys):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    rows = [
        "id;Structure;U0 (eV);note",
        '7;CO;1;"a; b"',
        "3;CF;2;x",
        "5;c1cc[nH]c1;;",
        "1;O;4;x;y",
        "",
        ";;;",
        "9;O;3;é",
    ]
    source.write_text("\n".join(rows), encoding="latin-1")
    options = ["--conformers", "1", "--smiles-column", "structure"]
    assert main([str(model_file), str(source), "-o", str(out), *options]) == 0
    with open(out, encoding="utf-8", newline="") as file:
        header, *found = csv.reader(file, delimiter=";")
    assert header[:5] == ["id", "Structure", "U0 (eV)", "note", "eqmol U0 (eV)"]
    assert header[-1] == "problem"
    assert [row[:4] for row in found] == [
        ["7", "CO", "1", "a; b"],
        ["3", "CF", "2", "x"],
        ["5", "c1cc[nH]c1", "", ""],
        ["1", "O", "4", "x;y"],
        ["9", "O", "3", "é"],
    ]
    assert {len(row) for row in found} == {len(header)}
    assert [bool(row[-1]) for row in found] == [False, True, True, True, False]
    assert "(F) is of an element" in found[1][-1]
    assert "5 cells and the header 4" in found[3][-1]
    assert found[1][4] == found[3][4] == ""
    molecule = from_smiles("CO", conformers=1)
    (expected,) = eqmol.predict([molecule.atoms()], eqmol.load(model_file))
    assert float(found[0][4]) == pytest.approx(expected["U0"], rel=1e-6)  # in other batches
    assert "2 of 5 molecules" in capsys.readouterr().out


def test_several_tables_come_back_as_one(model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("id,smiles,source\n7,CO,x\n3,CF,y\n")
    (tmp_path / "b.csv").write_text("id;smiles;source\n1;O;z\n")
    assert main([str(model_file), "?.csv", "-o", "out.csv", "--conformers", "1"]) == 0
    header, *rows = csv.reader(io.StringIO((tmp_path / "out.csv").read_text()))
    assert (header[:3], header[-2:]) == (["id", "smiles", "source"], ["problem", "eqmol source"])
    assert [row[:3] for row in rows] == [["7", "CO", "x"], ["3", "CF", "y"], ["1", "O", "z"]]
    assert [row[-1] for row in rows] == ["a.csv, line 2", "a.csv, line 3", "b.csv, line 2"]
    assert [bool(row[-2]) for row in rows] == [False, True, False]
    assert "left out" not in capsys.readouterr().out


def test_molecules_from_files_of_several_kinds(model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("id,smiles\n7,CO\n")
    (tmp_path / "b.csv").write_text("nr,smiles\n7,O\n")
    (tmp_path / "c.smi").write_text("C methane\n")
    mol = Chem.MolToMolBlock(from_smiles("CC", conformers=1).mol).replace("\n", "ethane\n", 1)
    (tmp_path / "d.mol.gz").write_bytes(gzip.compress(mol.encode()))
    (tmp_path / "e.sdf").write_text(mol + "$$$$\n")
    for inputs, sources in (
        (["[abc].*", "d.mol.gz", "e.sdf"], ["a.csv, line 2", "b.csv, line 2", "c.smi, line 1", "d.mol.gz, molecule 1"]),
        (["a.csv", "b.csv"], ["a.csv, line 2", "b.csv, line 2"]),
    ):
        assert main([str(model_file), *inputs, "-o", "out.csv", "--conformers", "1"]) == 0
        rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
        assert [row["source"] for row in rows][: len(sources)] == sources
        assert list(rows[0])[:2] == ["name", "smiles"]
        assert all(row["U0 (eV)"] for row in rows)
        assert "the columns of a.csv, b.csv are left out" in capsys.readouterr().out
    assert main([str(model_file), "d.mol.gz", "-o", "out.tsv"]) == 2


def test_properties_are_compared_with_labels_of_structures(model_file, tmp_path, capsys):
    model = eqmol.load(model_file)
    structures = [from_smiles(smiles, conformers=1).atoms() for smiles in ("CO", "C", "O", "CC")]
    results = eqmol.predict(structures, model)
    for number, (atoms, result) in enumerate(zip(structures, results, strict=True)):
        atoms.info |= {"U": result["U0"] - 2.0 * len(atoms), "mu": result["mu"] + 0.1 * (-1) ** number, "homo": 1.0}
    structures[1].info["mu"] = "unknown"
    ase.io.write(tmp_path / "in.xyz", structures)
    model.set_labels({"U0": "U", "mu": "mu"})
    checkpoint.save(model, tmp_path / "known.safetensors")
    arguments = [str(tmp_path / "known.safetensors"), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]
    assert main([*arguments, "--metrics", str(tmp_path / "m.json")]) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["mu_mae"] == pytest.approx(0.1)
    assert metrics["U0_offset_per_atom"] == pytest.approx(2000)
    assert not any(name.startswith("homo") for name in metrics)
    printed = capsys.readouterr().out
    assert "U0: the errors are nearly one constant, +2 eV/atom" in printed
    assert "mu: 1 label cannot be used and is not compared" in printed
    assert main([*arguments, "--key", "homo=homo", "--metrics", str(tmp_path / "m.json")]) == 0
    assert "homo_mae" in json.loads((tmp_path / "m.json").read_text())
    assert main([*arguments, "--energy-key", "U"]) == 2
    assert "does not predict 'energy'; it predicts U0, mu, homo" in capsys.readouterr().err


def test_tables_and_records_are_compared_with_their_labels(model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = eqmol.load(model_file)
    model.set_labels({"mu": "dipole / D"})
    checkpoint.save(model, "known.safetensors")
    molecules = {smiles: from_smiles(smiles, conformers=1) for smiles in ("CO", "O", "C", "CC")}
    mu = {smiles: eqmol.predict(molecule.atoms(), model)["mu"] for smiles, molecule in molecules.items()}
    rows = [f"CO,{mu['CO'] + 0.2}", f"O,{mu['O'] - 0.2}", "C,none", "C,about 0", "C(,1", "CC,"]
    (tmp_path / "in.csv").write_text("smiles,dipole / D\n" + "\n".join(rows))
    arguments = ["known.safetensors", "in.csv", "-o", "out.csv", "--conformers", "1"]
    assert main([*arguments, "--metrics", "m.json"]) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["mu_mae"] == pytest.approx(0.2, rel=1e-5)
    assert metrics["structures"] == 5  # with a prediction
    printed = capsys.readouterr().out
    assert "mu: 1 label cannot be used and is not compared; in.csv, line 5: 'about 0' under 'dipole / D'" in printed
    assert "errors against the labels of in.csv (dipole / D)" in " ".join(printed.split())
    (tmp_path / "in.sdf").write_text(
        Chem.MolToMolBlock(molecules["CO"].mol) + f">  <dipole / D>\n{mu['CO'] + 0.3}\n\n$$$$\n"
    )
    assert main(["known.safetensors", "in.sdf", "-o", "out.csv", "--metrics", "m.json"]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["mu_mae"] == pytest.approx(0.3, rel=1e-2)  # four decimals of Å
    assert main([str(model_file), "in.sdf", "-o", "out.csv", "--metrics", "m.json"]) == 2
    assert "no molecule has a label that --metrics could be about; name the labels" in capsys.readouterr().err


def test_properties_beside_energies_are_predicted_and_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    given = recipe()
    entry = TARGETS["mu"].plain() | {"e0": [0.0] * 4, "mean": 1.0, "scale": 0.5, "spread": 0.5}
    both = checkpoint.build(given | {"backbone": given["backbone"] | {"degree_out": 1}, "properties": {"mu": entry}})
    both.set_labels({"mu": "mu"})
    checkpoint.save(both, "both.safetensors")
    structures = [from_smiles(smiles, conformers=1).atoms() for smiles in ("CO", "O")]
    for atoms, result in zip(structures, eqmol.predict(structures, both), strict=True):
        atoms.info |= {"mu": result["mu"] + 0.1, "energy": result["energy"] + 0.2}
    ase.io.write("in.xyz", structures)
    assert main(["both.safetensors", "in.xyz", "-o", "out.xyz", "--metrics", "m.json"]) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert (metrics["mu_mae"], metrics["energy_mae_mev"]) == (
        pytest.approx(0.1, rel=1e-4),
        pytest.approx(200, rel=1e-3),
    )
    (tmp_path / "in.csv").write_text("smiles,mu\nO,1.0\n")
    assert main(["both.safetensors", "in.csv", "-o", "out.csv"]) == 0
    (row,) = csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))
    assert {"energy (eV)", "mu (D)"} <= row.keys()


def test_raw_files_of_qm9_have_labels(model_file, tmp_path):
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text(RAW_QM9)
    arguments = [str(model_file), str(tmp_path / "dsgdb9nsd_000001.xyz"), "-o", str(tmp_path / "out.xyz")]
    assert main([*arguments, "--metrics", str(tmp_path / "m.json")]) == 0
    written = ase.io.read(tmp_path / "out.xyz")
    error = 1000 * abs(written.info["eqmol_U0"] - (-40.47893 * HARTREE))
    assert json.loads((tmp_path / "m.json").read_text())["U0_mae"] == pytest.approx(error)


def test_relaxation_by_a_potential(tmp_path):
    potential, out = tmp_path / "potential.safetensors", tmp_path / "a.csv"
    torch.manual_seed(0)
    checkpoint.save(checkpoint.build(recipe()), potential)
    forces = []
    for option in ([], ["--relax", str(potential)]):
        assert main([str(potential), "--smiles", "O", *option, "-o", str(out)]) == 0
        (mol,) = Chem.SDMolSupplier(str(out.with_suffix(".sdf")), removeHs=False)
        atoms = Molecule("", "", mol).atoms()
        atoms.calc = eqmol.Calculator(potential)
        forces.append(abs(atoms.get_forces()).max())
    assert forces[1] < 2 * FMAX < forces[0]  # an SDF has four decimals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smiles", "C("], "no molecule could be predicted"),
        (["in.smi"], "-o OUT.csv"),
        (["in.smi", "-o", "out.xyz"], "ends in .csv"),
        (["in.sdf", "-o", "in.csv"], "which is the input in.sdf"),
        (["in.csv", "-o", "in.csv"], "which is the input in.csv"),
        (["in.csv", "in.smi", "-o", "out.tsv"], "ends in .csv"),
        (["in.csv", "-o", "out.sdf"], "ends in .csv or .tsv"),
        (["in.smi", "-o", "out.csv", "--smiles-column", "x"], "--smiles-column is for a .csv"),
        (["in.smi", "--smiles", "C"], "not both"),
        ([], "--smiles SMILES"),
        (["in.xyz", "-o", "out.xyz", "--relax", "p.safetensors"], "--relax is for molecules"),
        (["in.xyz", "-o", "out.xyz", "--smiles-column", "x"], "--smiles-column is for molecules"),
        (["--smiles", "C", "--metrics", "m.json"], "leave it out"),
    ],
)
def test_refused(model_file, arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("in.smi", "in.sdf", "in.csv", "in.xyz", "p.safetensors"):
        (tmp_path / name).write_text("x")
    before = {path.name for path in tmp_path.iterdir()}
    assert main([str(model_file), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_features_come_from_the_bonds(tmp_path):
    torch.manual_seed(0)
    path, out = tmp_path / "model.safetensors", tmp_path / "out.csv"
    entry = {"mean": 1.0, "scale": 2.0}
    features = dict.fromkeys(("TPSA", *expand(["bonds"])), entry)
    checkpoint.save(checkpoint.build(properties_recipe() | {"features": features}), path)
    assert main([str(path), "--smiles", "CC=O", "-o", str(out)]) == 0
    (with_bonds,) = csv.DictReader(io.StringIO(out.read_text()))
    molecule = from_smiles("CC=O")
    model = eqmol.load(path)
    graph = graph_of(model, molecule.atoms())
    graph[FEATURES] = torch.from_numpy(atom_features(molecule.mol, model.features))
    (expected,) = evaluate_graphs(model, [graph])
    assert float(with_bonds["U0 (eV)"]) == pytest.approx(expected["U0"], rel=1e-9)
    molecule.atoms().write(tmp_path / "in.xyz")
    assert main([str(path), str(tmp_path / "in.xyz"), "-o", str(tmp_path / "out.xyz")]) == 2


@pytest.mark.parametrize("mode", ["energy", "forces", "training"])
def test_algorithms_are_chosen_for_properties_too(mode, tmp_path, monkeypatch):
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path))
    torch.manual_seed(0)
    model = checkpoint.build(properties_recipe()).train(mode == "training")
    graph = collate([graph_of(model, from_smiles(smiles, conformers=1).atoms()) for smiles in ("CO", "C=O")])
    before = model(graph)
    tuning = settle(model, graph, mode, check=True)
    assert tuning is not None
    assert tuning.choices
    after = model(graph)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-4)

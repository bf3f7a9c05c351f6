"""Molecules of one's own from tables and SDFs, to splits and statistics."""

import csv
import json

import numpy as np
import pytest
from rdkit import Chem

from eqmol.data.molecules import splits
from eqmol.data.molecules.datamodule import MoleculeSets
from eqmol.errors import InputError
from eqmol.molecules.molecule import from_smiles

SMILES = ("C", "CO", "CCO", "CC", "CCC", "C=C", "CC=O", "C#C", "N", "CN", "CCN", "O", "C1CC1", "C1CO1", "C1CC1C", "OCC")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "cache"))


def table(tmp_path, *rows: str):
    """logS is the number of the row, tpsa is known of every second one."""
    path = tmp_path / "mine.csv"
    lines = [f"{smiles},{number},{2.5 * number if number % 2 else ''}" for number, smiles in enumerate(SMILES, start=1)]
    path.write_text("\n".join(["smiles,logS,tpsa", *lines, *rows]) + "\n")
    return path


def sets(path, **options) -> MoleculeSets:
    data = MoleculeSets(**{"cutoff": 3.0, "file": path, "required": ("logS", "tpsa"), "conformers": 1} | options)
    data.setup()
    return data


@pytest.mark.filterwarnings("ignore:4 of 20 molecules")
def test_a_table_gives_sets_with_gaps_and_names_its_failures(tmp_path):
    options = {"split_file": str(tmp_path / "split.json"), "failures_file": str(tmp_path / "failures.csv")}
    path = table(tmp_path, "C(,1,2", "[Na+].[Cl-],2,1", "CS,,", "CC,1,2,3")
    declared = {"tpsa": {"kind": "extensive", "unit": "Å²"}}
    data = sets(path, targets=declared, test_fraction=0.2, max_failures=1.0, **options)
    numbers = json.loads((tmp_path / "split.json").read_text())
    every = data.evaluation_dataloaders()
    assert {name: len(loader.dataset) for name, loader in every.items()} == {"train": 9, "val": 2, "test": 5}
    for name, loader in every.items():
        graphs = loader.dataset
        labels = [graph["target_logS"].item() for graph in graphs]
        assert labels == numbers[name]
        gaps = [np.isnan(graph["target_tpsa"].item()) for graph in graphs]
        assert gaps == [number % 2 == 0 for number in labels]
    with open(options["failures_file"], newline="") as file:
        failures = list(csv.DictReader(file))
    reasons = {int(row["row"]): row["reason"] for row in failures}
    assert list(reasons) == [17, 18, 19, 20]
    assert "not a SMILES" in reasons[17]
    assert "2 separate parts" in reasons[18]
    assert reasons[19] == "no value of logS or tpsa is known for it"
    assert failures[0]["source"] == f"{path}, line 18"
    measured = data.statistics()
    assert measured["properties"]["tpsa"]["kind"] == "extensive"
    known = [graph["target_logS"].item() for graph in data.train_graphs]
    assert measured["properties"]["logS"]["mean"] == pytest.approx(np.mean(known))
    again = sets(path, targets=declared, seed=9, max_failures=1.0, **options)  # the file, not the seed
    assert [graph.source for graph in again.train_graphs] == [graph.source for graph in data.train_graphs]


@pytest.mark.filterwarnings("ignore:1 of 18 molecules")
def test_several_files_are_numbered_through(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = table(tmp_path)
    other = tmp_path / "other (2).csv"
    other.write_text("smiles,logS,tpsa\nC(,1,2\nCC#N,18,\n")
    for given in ([str(first), str(other)], "*.csv", f"mine.csv,{other}"):
        data = sets(tmp_path / "*.csv" if given == "*.csv" else given, split_file="split.json", test_fraction=0.0)
        graphs = [*data.train_graphs, *data.val_graphs]
        numbers = json.loads((tmp_path / "split.json").read_text())
        assert [graph["target_logS"].item() for graph in graphs] == [*numbers["train"], *numbers["val"]]
        assert sorted(graph["target_logS"].item() for graph in graphs) == [*range(1, 17), 18]
        assert [(number, failure.source) for number, failure in data.failures] == [(17, f"{other}, line 2")]


def test_the_same_molecule_is_in_one_split_only():
    written = ("CCO", "OCC", "C(O)C", "C[C@H](O)F", "CC(O)F", "[2H]C", "C", "CC", "CCC", "N", "O", "CN", "CO", "CF")
    molecules = {number: from_smiles(smiles, conformers=1) for number, smiles in enumerate(written, start=1)}
    seen = set()
    for seed in range(10):
        parts = splits.divide(molecules, "random", 0.2, 0.2, seed)
        assert sorted(number for part in parts.values() for number in part) == list(molecules)
        place = {number: name for name, part in parts.items() for number in part}
        assert place[1] == place[2] == place[3]
        assert place[4] == place[5]
        assert place[6] == place[7]
        assert 2.8 <= len(parts["test"]) <= 5
        assert splits.leaks(molecules, parts, "file") == ""
        seen.add(tuple(parts["test"]))
    assert len(seen) > 3
    assert splits.divide(molecules, "random", 0.2, 0.2, 1) == splits.divide(molecules, "random", 0.2, 0.2, 1)


def test_scaffolds_stay_together():
    rings = ("c1ccccc1", "C1CC1", "C1CO1", "c1ccncc1", "C1CCC1")
    written = [f"{'C' * number}{ring}" for number in range(3) for ring in rings] + ["CC", "CCC", "CCCC", "CCCCC"]
    molecules = {number: from_smiles(smiles, conformers=1) for number, smiles in enumerate(written, start=1)}
    assert molecules[6].scaffold == "c1ccccc1"
    assert molecules[16].scaffold == ""
    parts = splits.divide(molecules, "scaffold", 0.15, 0.15, 0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 13, "val": 3, "test": 3}
    assert {16, 17, 18, 19} <= set(parts["train"])  # the most frequent one
    scaffolds = [{molecules[number].scaffold for number in part} for part in parts.values()]
    assert sum(map(len, scaffolds)) == len(set.union(*scaffolds)) == 6
    chains = {number: molecules[number] for number in (16, 17, 18, 19)}
    with pytest.raises(InputError, match="the 1 scaffolds of 4 molecules leave nothing"):
        splits.divide(chains, "scaffold", 0.2, 0.2, 0)


def test_given_splits(tmp_path):
    """Elements that are not learnt and molecules in two sets are said."""
    path, given = table(tmp_path, "CBr,1,2"), tmp_path / "split.json"
    given.write_text(json.dumps({"train": [1, 2, 3, 4, 9], "val": [5, 16], "test": [6, 17]}))
    with pytest.warns(UserWarning, match=r"split.json: 1 molecules are in several splits, CCO first"):
        data = sets(path, split_file=str(given))
    assert [failure.reason for _, failure in data.failures] == ["it has Br, which no molecule of the training set has"]
    assert len(data.test_graphs["test"]) == 1
    given.write_text(json.dumps({"train": [1], "val": [2], "test": [18]}))
    with pytest.raises(InputError, match="molecule 18 of 'test' is not in the data set"):
        sets(path, split_file=str(given))


def test_an_sdf_with_data(tmp_path):
    """Coordinates in space are kept; what is flat or missing gets a conformer."""
    path, molecules = tmp_path / "mine.sdf", []
    with Chem.SDWriter(str(path)) as writer:
        for number, smiles in enumerate(SMILES[:12], start=1):
            mol = from_smiles(smiles, conformers=1, seed=5).mol if number % 2 else Chem.MolFromSmiles(smiles)
            mol.SetProp("log S", f" {number}.5 ")
            molecules.append(mol)
            writer.write(mol)
    data = sets(path, required=("logS",), targets={"logS": {"unit": "log(mol/L)", "key": "log S"}})
    found = {graph["target_logS"].item(): graph for graph in [*data.train_graphs, *data.val_graphs]}
    assert set(found) <= {number + 0.5 for number in range(1, 13)}
    for label, graph in found.items():
        mol = molecules[int(label) - 1]
        if int(label) % 2:  # four decimals in the file
            np.testing.assert_allclose(graph.pos, mol.GetConformer().GetPositions(), atol=1e-4)
        else:
            assert graph.num_nodes > mol.GetNumAtoms()
    with pytest.raises(InputError, match=r"no molecule has the data 'pKa' \(> <pKa>\); its data are 'log S'"):
        sets(path, required=("pKa",))


def test_features_come_with_the_molecules(tmp_path):
    data = sets(table(tmp_path), features=["bonds", "MolWt"])
    graph = data.train_graphs[0]
    assert graph.features.shape == (graph.num_nodes, 8)
    values = np.concatenate([graph.features.numpy() for graph in data.train_graphs])
    assert data.statistics()["features"]["MolWt"]["mean"] == pytest.approx(values[:, -1].mean())


def test_conformers_of_many_molecules_are_made_by_several_processes(tmp_path, monkeypatch):
    from eqmol.data.molecules import reader

    plain = sets(table(tmp_path))
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(reader, "_SHARE", 4)
    monkeypatch.setattr(reader, "num_cores", lambda: 2)
    shared = sets(table(tmp_path))
    assert len(list((tmp_path / "other").glob("conformers/*/*.json"))) == len(SMILES)
    for one, other in zip(plain.train_graphs, shared.train_graphs, strict=True):
        np.testing.assert_array_equal(one.pos, other.pos)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": None}, r"data\.file=null names no file"),
        ({"file": "absent.csv"}, "absent.csv does not exist"),
        ({"file": "mine.xyz"}, "neither a table .* nor an .sdf"),
        ({"smiles_column": "SMI"}, "no column 'SMI': its first line names 'smiles', 'logS', 'tpsa'"),
        ({"required": ("pKa",)}, "no column 'pKa': its first line names"),
        ({"required": ("smiles",)}, "line 2: 'C' under 'smiles' is not a number"),
        ({"split": "time"}, "data.split='time' must be one of random, scaffold"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "must leave molecules to train on"),
        ({"val_fraction": "many"}, "a number between 0 and 1"),
        ({"val_fraction": 0.9, "test_fraction": 0.09}, "leave nothing to train or validate on"),
        ({"targets": {"logS": {"kind": "tensor"}}}, "logS is tensor, but a cell holds one number"),
        ({"targets": [1]}, r"data.targets=\[1\] must be declarations"),
        (
            {"max_failures": 0.1},
            "4 of 20 molecules of .* cannot be used, 4 of them since .*raise data.max_failures=0.1",
        ),
        ({"features": ["bonds", "nothing"]}, "the feature 'nothing' is unknown"),
    ],
)
def test_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    table(tmp_path, *["C(,1,2"] * 4)
    with pytest.raises(InputError, match=message):
        sets("mine.csv", **options)


def test_many_failures_are_said(tmp_path):
    with pytest.warns(
        UserWarning, match="4 of 20 molecules of .* cannot be used, 4 of them since 'C\\(' is not a SMILES"
    ):
        data = sets(table(tmp_path, *["C(,1,2"] * 4))
    assert len(data.tables()) == 4


def test_debugging_makes_conformers_of_a_few_molecules_only(tmp_path, monkeypatch):
    split = tmp_path / "split.json"
    split.write_text("of all molecules")
    made = []
    monkeypatch.setattr("eqmol.molecules.table.from_smiles", lambda *args: made.append(args[0]) or from_smiles(*args))
    data = MoleculeSets(cutoff=3.0, file=table(tmp_path), required=("logS",), conformers=1, split_file=str(split))
    data.few = 2
    data.setup()
    assert made == list(SMILES[:8])
    data.keep_first(data.few)
    assert [len(loader.dataset) for loader in data.evaluation_dataloaders().values()] == [2, 2, 1]
    assert split.read_text() == "of all molecules"

"""Bonds and descriptors of data sets in QM9's form."""

import shutil

import numpy as np
import pytest

from eqmol.data.qm9.datamodule import QM9
from eqmol.data.qm9.features import with_features
from eqmol.data.qm9.reader import read_sdf
from eqmol.errors import InputError
from eqmol.files import shipped

SAMPLE = shipped("data") / "qm9_sample"
NAMES = ("bond_order", "MolWt")


def sample(**options) -> QM9:
    data = QM9(cutoff=4.0, folder="qm9_sample", features=NAMES, **options)
    data.setup()
    return data


def test_graphs_carry_features_of_their_own_molecule():
    data = sample()
    for graphs in (data.train_graphs, data.val_graphs, data.test_graphs["test"]):
        for graph in graphs:
            masses = graph.features[:, 1]
            assert masses.tolist() == [masses[0]] * graph.num_nodes
        atoms = graphs.molecules.atoms(int(graphs.rows[-1]))
        assert graph.features[0, 1].item() == pytest.approx(atoms.get_masses().sum(), abs=0.02)
        assert (graph.features[atoms.numbers == 1, 0] == 1).all()


def test_statistics_are_those_of_the_training_set():
    data = sample()
    values = np.concatenate([graph.features.numpy() for graph in data.train_graphs])
    measured = data.statistics()["features"]
    assert list(measured) == list(NAMES)
    np.testing.assert_allclose([measured[name]["mean"] for name in NAMES], values.mean(0))
    np.testing.assert_allclose([measured[name]["scale"] for name in NAMES], values.std(0))


def test_molecules_that_rdkit_cannot_sanitise_are_left_out_by_name(tmp_path):
    for name in ("gdb9.sdf", "gdb9.sdf.csv"):
        shutil.copy(SAMPLE / name, tmp_path)
    records = (tmp_path / "gdb9.sdf").read_text().split("$$$$\n")
    records[4] = records[4].replace("  1  0\n", "  3  0\n")
    (tmp_path / "gdb9.sdf").write_text("$$$$\n".join(records))
    molecules = read_sdf(tmp_path / "gdb9.sdf", tmp_path / "gdb9.sdf.csv")
    with pytest.warns(UserWarning, match=r"left out: gdb_5 \(Explicit valence"):
        kept, found = with_features(molecules, tmp_path / "gdb9.sdf", NAMES)
    assert kept.ids.tolist() == [number for number in range(1, 261) if number != 5]
    assert [len(one) for one in found] == np.diff(kept.offsets).tolist()


def test_files_without_bonds_are_refused(tmp_path):
    molecules = read_sdf(SAMPLE / "gdb9.sdf", SAMPLE / "gdb9.sdf.csv")
    with pytest.raises(InputError, match=r"data\.features needs bonds"):
        with_features(molecules, tmp_path, NAMES)
    with pytest.raises(InputError, match="the feature 'bond' is unknown"):
        QM9(cutoff=4.0, folder="qm9_sample", features=("bond",))

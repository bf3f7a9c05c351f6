"""3BPA and the embedded sample: where they are looked for, what is verified, how they are split."""

import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from eqmol.data import places
from eqmol.data.bpa import datamodule as bpa
from eqmol.data.bpa import download
from eqmol.data.bpa.datamodule import Sample, ThreeBPA
from eqmol.data.bpa.download import SHA256, TESTS, URL, git_blob_id
from eqmol.data.xyz.reader import read_frames
from eqmol.errors import InputError

REPOSITORY = Path(__file__).parents[3]
SAMPLE = REPOSITORY / "data" / "sample"


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """An empty current folder, without EQMOL_DATA and without the checkout's data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EQMOL_DATA", raising=False)
    monkeypatch.setattr(places, "shipped", lambda name: tmp_path / "checkout" / name)
    return tmp_path


def test_the_sample_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EQMOL_DATA", raising=False)
    datamodule = Sample(cutoff=5.0)
    datamodule.prepare_data()
    datamodule.setup("fit")
    sets = {name: len(loader.dataset) for name, loader in datamodule.evaluation_dataloaders().items()}
    assert sets == {"train": 270, "val": 30, "300K": 50, "600K": 50}
    statistics = datamodule.statistics()
    assert statistics["elements"] == [1, 6, 7, 8]
    assert 0.8 < statistics["scale"] < 1.0
    positions = [
        graph.pos for graphs in (datamodule.train_graphs, *datamodule.test_graphs.values()) for graph in graphs
    ]
    assert len(torch.stack(positions).unique(dim=0)) == len(positions)


def test_the_sample_is_small_and_in_the_format_of_3bpa():
    assert sum(path.stat().st_size for path in SAMPLE.iterdir() if path.is_file()) < 1.5e6
    lines = (SAMPLE / "train_300K.xyz").read_text().splitlines()
    assert lines[0] == "27"
    assert lines[1].startswith(
        'Lattice="50.0 0.0 0.0 0.0 50.0 0.0 0.0 0.0 50.0" Properties=species:S:1:pos:R:3:forces:R:3'
    )
    assert lines[1].endswith('pbc="F F F"')


def test_the_sample_has_the_temperatures_of_its_names():
    rms = {}
    for name in ("train_300K", "test_300K", "test_600K"):
        forces = [labels["forces"] for _, labels, _ in read_frames(SAMPLE / f"{name}.xyz")]
        assert np.abs(np.sum(forces, axis=1)).max() < 1e-6  # no net force
        rms[name] = np.sqrt(np.mean(np.square(forces)))
    assert rms["test_300K"] == pytest.approx(rms["train_300K"], rel=0.05)
    assert rms["test_600K"] / rms["train_300K"] == pytest.approx(np.sqrt(2), rel=0.05)  # harmonic forces


def test_the_generating_script_makes_the_labels_of_the_sample(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the script sets it: restore it afterwards
    pytest.importorskip("tblite", reason="the labels are made with the extra [generate]")
    script = runpy.run_path(str(SAMPLE / "generate.py"))
    atoms, labels, _ = next(iter(read_frames(SAMPLE / "test_600K.xyz")))
    frame = script["labelled_frame"](atoms.get_chemical_symbols(), atoms.positions).splitlines()
    energy = float(frame[1].split("energy=")[1].split()[0])
    forces = np.array([[float(number) for number in line.split()[4:]] for line in frame[2:]])
    assert energy == pytest.approx(labels["energy"], abs=1e-5)
    assert np.allclose(forces, labels["forces"], atol=1e-5)


def test_a_sample_that_is_nowhere_is_named(nowhere):
    with pytest.raises(InputError, match=r"the data set sample is in none of data/sample, .*checkout"):
        Sample(cutoff=5.0).setup()


def test_without_files_and_network_one_sentence_says_what_to_do(nowhere, monkeypatch):
    monkeypatch.setenv("EQMOL_DATA", str(nowhere / "mine"))

    def unreachable(url, **_):
        raise ConnectionError(f"Max retries exceeded with {url}")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    with pytest.raises(InputError) as error:
        ThreeBPA(cutoff=5.0).prepare_data()
    message = str(error.value)
    for word in (str(nowhere / "mine" / "3bpa"), "data/3bpa", "ConnectionError", "EQMOL_DATA", "data=sample"):
        assert word in message
    assert not (nowhere / "data" / "3bpa").exists()
    with pytest.raises(InputError, match=r"data set 3bpa is in none of"):
        ThreeBPA(cutoff=5.0).setup()


def test_what_is_absent_is_fetched_and_checked_by_sha256(nowhere, monkeypatch):
    fetched = []

    def retrieve(url, known_hash, fname, path):
        fetched.append((url, known_hash, str(path)))
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_text("of another hash, which pooch would have refused")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    blobs = dict(TESTS.values())
    monkeypatch.setattr(download, "git_blob_id", lambda path: blobs[path.name])
    datamodule = ThreeBPA(cutoff=5.0)
    datamodule.prepare_data()
    files = [(name, f"sha256:{sha}") for name, sha in SHA256.items()] + [(name, None) for name in blobs]
    assert fetched == [(URL + name, known, "data/3bpa") for name, known in files]
    datamodule.prepare_data()
    assert len(fetched) == 7
    with pytest.raises(InputError, match=r"data/3bpa/train_300K\.xyz is not the published file: its sha256 is"):
        datamodule.setup()


def test_a_test_set_of_another_hash_does_not_stay(nowhere, monkeypatch):
    def retrieve(url, known_hash, fname, path):
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_text("other content")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(InputError, match=r"the git blob id of test_300K\.xyz is \w+, not 6ea840"):
        ThreeBPA(cutoff=5.0).prepare_data()
    assert not (nowhere / "data" / "3bpa" / "test_300K.xyz").exists()


def test_all_test_sets_are_found_and_have_published_errors(tmp_path, monkeypatch):
    """Files of the form of 3BPA, made from the sample."""
    folder = tmp_path / "3bpa"
    folder.mkdir()
    train = (SAMPLE / "train_300K.xyz").read_text().splitlines(keepends=True)
    (folder / "train_300K.xyz").write_text("".join(train[: 29 * 20]))
    (folder / "train_mixedT.xyz").write_text("".join(train[29 * 20 : 29 * 30]))
    shutil.copyfile(SAMPLE / "iso_atoms.xyz", folder / "iso_atoms.xyz")
    for number, (file, _) in enumerate(TESTS.values()):
        (folder / file).write_text("".join(train[29 * (30 + number) : 29 * (33 + number)]))
    monkeypatch.setenv("EQMOL_DATA", str(tmp_path))
    for table, hash_of in (
        (SHA256, lambda file: pooch.file_hash(str(folder / file))),
        (TESTS, lambda test: (TESTS[test][0], git_blob_id(folder / TESTS[test][0]))),
    ):
        for name in table:
            monkeypatch.setitem(table, name, hash_of(name))
    monkeypatch.setattr(bpa, "HOT", slice(0, 5))
    datamodule = ThreeBPA(cutoff=5.0)
    datamodule.prepare_data()
    datamodule.setup()
    assert {name: len(graphs) for name, graphs in datamodule.test_graphs.items()} == {"mixedT_hot": 5} | dict.fromkeys(
        TESTS, 3
    )
    published = datamodule.published()
    assert list(published) == list(TESTS)
    assert published["dihedral"]["MACE"] == {"energy_rmse_mev": 7.8, "forces_rmse_mev_per_a": 16.5}
    (folder / "test_dih.xyz").unlink()
    again = ThreeBPA(cutoff=5.0)
    again.setup()
    assert "dihedral" not in {*again.test_graphs, *again.published()}


@pytest.mark.realdata
def test_3bpa_is_split_as_documented():
    datamodule = ThreeBPA(cutoff=5.0, seed=3)
    datamodule.prepare_data()
    datamodule.setup("fit")
    published = {name for name, (file, _) in TESTS.items() if (datamodule.folder / file).is_file()}
    assert len(datamodule.train_graphs) == 450
    assert len(datamodule.val_graphs) == 50
    assert set(datamodule.test_graphs) == {"mixedT_hot", *published}
    hot = datamodule.test_graphs["mixedT_hot"]
    assert [int(graph.source.split()[-1]) for graph in hot] == list(range(315, 500))
    seen = torch.stack([graph.pos for graph in (*datamodule.train_graphs, *datamodule.val_graphs)])
    assert len(seen.unique(dim=0)) == 500
    for graph in hot:
        assert (seen - graph.pos).abs().amax(dim=(1, 2)).min() > 0.1  # not even a similar structure

    statistics = datamodule.statistics()
    assert statistics["elements"] == [1, 6, 7, 8]
    assert statistics["e0"] == [-13.587222780835477, -1029.4889999855063, -1484.9814568572233, -2041.9816003861047]
    forces = torch.stack([graph.forces for graph in (*datamodule.train_graphs, *datamodule.val_graphs)])
    assert float(forces.square().mean().sqrt()) == pytest.approx(0.948, abs=1e-3)
    energies = torch.cat([graph.energy for graph in (*datamodule.train_graphs, *datamodule.val_graphs)])
    assert float(energies.min()) == pytest.approx(-17660.814, abs=1e-3)


@pytest.mark.realdata
@pytest.mark.parametrize(("file", "kind"), [("test_600K.xyz", "git blob id"), ("train_mixedT.xyz", "sha256")])
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch, file, kind):
    folder = tmp_path / "3bpa"
    folder.mkdir()
    for name in SHA256:
        shutil.copyfile(Path(os.environ["EQMOL_DATA"], "3bpa", name), folder / name)
    with open(folder / file, "a") as changed:
        changed.write("\n")
    monkeypatch.setenv("EQMOL_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"{file} is not the published file: its {kind} is"):
        ThreeBPA(cutoff=5.0).setup()


def test_git_blob_ids_are_those_of_git(tmp_path):
    path = tmp_path / "file"
    path.write_text("what is up, doc?")  # the example of the book Pro Git, chapter 10.2
    assert git_blob_id(path) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"

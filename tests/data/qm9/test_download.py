"""Downloading QM9, with a network made up here."""

import zipfile
from pathlib import Path

import pooch
import pytest

from eqmol.data import places
from eqmol.data.qm9 import download
from eqmol.data.qm9.datamodule import QM9
from eqmol.errors import InputError
from eqmol.files import shipped

SAMPLE = shipped("data") / "qm9_sample"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data set is anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EQMOL_DATA", raising=False)
    monkeypatch.setattr(places, "shipped", lambda name: tmp_path / "checkout" / name)
    return tmp_path


@pytest.fixture
def network(monkeypatch):
    """Serves the embedded sample in the place of QM9."""

    def retrieve(url, known_hash, fname, path, processor=None):
        file = Path(path, fname)
        if url.endswith(".zip"):
            with zipfile.ZipFile(file, "w") as archive:
                for name in download.FILES[:2]:
                    archive.write(SAMPLE / name, name)
        else:
            file.write_bytes((SAMPLE / "uncharacterized.txt").read_bytes())
        return processor(str(file), "download", None) if processor else str(file)

    monkeypatch.setattr(pooch, "retrieve", retrieve)


def module() -> QM9:
    return QM9(cutoff=4.0, required=("U0",), num_train=200, num_val=10)


def test_files_are_downloaded_and_used(nowhere, network, monkeypatch):
    monkeypatch.setattr(download, "MOLECULES", 260)
    monkeypatch.setattr(download, "UNCHARACTERIZED", 0)
    data = module()
    data.prepare_data()
    assert sorted(file.name for file in (nowhere / "data" / "qm9" / "raw").iterdir()) == sorted(download.FILES)
    data.setup()
    assert len(data.test_graphs["test"]) == 50
    monkeypatch.setattr(pooch, "retrieve", None)
    module().prepare_data()  # it is there now


@pytest.mark.parametrize(
    ("molecules", "message"),
    [(133_885, "260 molecules instead of gdb_1 to gdb_133885"), (260, "lists 0 molecules instead of 3054")],
)
def test_other_files_are_refused(nowhere, network, monkeypatch, molecules, message):
    monkeypatch.setattr(download, "MOLECULES", molecules)
    with pytest.raises(InputError, match=message):
        module().prepare_data()
    assert not list(nowhere.glob("data/qm9/raw/*"))


def test_without_a_network(nowhere, monkeypatch):
    def retrieve(*args, **options):
        raise ConnectionError

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(
        InputError, match=r"failed \(ConnectionError\); put gdb9\.sdf, .* use data=qm9_sample"
    ) as caught:
        module().prepare_data()
    assert "\n" not in str(caught.value)
    assert not (nowhere / "data" / "qm9" / "raw").exists()


def test_the_sample_needs_no_network(monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", None)
    QM9(cutoff=4.0, folder="qm9_sample").prepare_data()

"""The file for OC20's evaluation server."""

import pickle
from pathlib import Path

import ase.db
import numpy as np
import pytest

import eqmol
from eqmol.checkpoint import save
from eqmol.cli.predict import main
from eqmol.data.oc20.prepare import prepare
from tests.data.oc20.files import record, relaxation, write_lmdb, write_s2ef
from tests.recipes import model

SYSTEMS = {"random12": relaxation(frames=3), "random7": relaxation(adsorbate="O", seed=1, frames=2)}
IDS = ["12_0", "12_1", "12_2", "7_0", "7_1"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    write_s2ef(tmp_path / "raw", SYSTEMS)
    save(model(), tmp_path / "model.safetensors")
    return tmp_path / "raw"


def predictions(folder: Path, *data: str) -> dict[str, np.ndarray]:
    out = folder / "out.npz"
    assert main([str(folder / "model.safetensors"), *data, "-o", str(out), "--batch-size", "2"]) == 0
    with np.load(out) as file:
        return dict(file)


def test_what_the_server_reads_is_what_the_model_predicts(tmp_path: Path, raw: Path) -> None:
    arrays = predictions(tmp_path, f"id={raw}", f"ood_ads={next(raw.glob('*.extxyz*'))}")
    assert {name.removeprefix("id_") for name in arrays if name.startswith("id_")} == {
        "ids", "energy", "forces", "chunk_idx"
    }  # fmt: skip
    np.testing.assert_array_equal(arrays["id_forces"], arrays["ood_ads_forces"])
    frames = [atoms for frames in SYSTEMS.values() for atoms in frames]
    expected = eqmol.predict(frames, tmp_path / "model.safetensors")
    order = [arrays["id_ids"].tolist().index(name) for name in IDS]
    parts = np.split(arrays["id_forces"], arrays["id_chunk_idx"])
    assert len(parts) == len(frames)
    for i, atoms, prediction in zip(order, frames, expected, strict=True):
        free = np.setdiff1d(np.arange(len(atoms)), atoms.constraints[0].index)
        assert arrays["id_energy"][i] == pytest.approx(prediction["energy"], rel=1e-6)
        np.testing.assert_allclose(parts[i], prediction["forces"][free], rtol=1e-3, atol=1e-6)


def test_shards_give_the_same(tmp_path: Path, raw: Path) -> None:
    prepare(raw, tmp_path / "shards", workers=1)
    ours, theirs = predictions(tmp_path, str(tmp_path / "shards")), predictions(tmp_path, str(raw))
    assert ours.keys() == theirs.keys() == {"ids", "energy", "forces", "chunk_idx"}
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_several_files_of_a_split(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b=(1)").mkdir()
    write_s2ef(tmp_path / "b=(1)", {"random9": relaxation(frames=1)})
    monkeypatch.chdir(tmp_path)
    assert predictions(tmp_path, "raw", "b=(1)")["ids"].tolist() == [*IDS, "9_0"]
    assert predictions(tmp_path, "[br]*")["ids"].tolist() == ["9_0", *IDS]
    named = predictions(tmp_path, "id=raw/*.extxyz*", "id=b=(1)", "ood=b=*")
    assert (named["id_ids"].tolist(), named["ood_ids"].tolist()) == ([*IDS, "9_0"], ["9_0"])


@pytest.mark.parametrize("form", ["lmdb", "db"])
def test_a_test_set_has_no_labels(tmp_path: Path, raw: Path, form: str) -> None:
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    if form == "lmdb":
        pytest.importorskip("lmdb")
        records = [record(atoms, name, i) for name, frames in SYSTEMS.items() for i, atoms in enumerate(frames)]
        for data in records:
            del data.y, data.force
        write_lmdb(folder, {str(i).encode(): pickle.dumps(data) for i, data in enumerate(records)})
    else:
        with ase.db.connect(folder / "frames.db") as rows:
            for name, frames in SYSTEMS.items():
                for i, atoms in enumerate(frames):
                    bare = atoms.copy()
                    bare.calc = None
                    rows.write(bare, data={"sid": name, "fid": i})
    ours, theirs = predictions(tmp_path, str(folder)), predictions(tmp_path, str(raw))
    assert sorted(ours["ids"]) == sorted(theirs["ids"]) == sorted(IDS)
    mine, others = (np.argsort(arrays["ids"]) for arrays in (ours, theirs))
    np.testing.assert_allclose(ours["energy"][mine], theirs["energy"][others], rtol=1e-6)
    parts = [np.split(arrays["forces"], arrays["chunk_idx"]) for arrays in (ours, theirs)]
    for i, j in zip(mine, others, strict=True):
        np.testing.assert_allclose(parts[0][i], parts[1][j], rtol=1e-3, atol=1e-6)  # half precision


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["nowhere"], "nowhere is no file of OC20"),
        (["a", "id=b"], "'a' must name its split"),
        (["id={raw}", "id={raw}"], "twice; give every file once"),
    ],
)
def test_bad_input(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str], data: list[str], message: str
) -> None:
    given = [item.format(raw=raw) for item in data]
    assert main([str(tmp_path / "model.safetensors"), *given, "-o", str(tmp_path / "out.npz")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_a_frame_twice(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_s2ef(raw, {"random7": SYSTEMS["random7"]}, name="1")
    assert main([str(tmp_path / "model.safetensors"), str(raw), "-o", str(tmp_path / "out.npz")]) == 2
    assert "are both frame 0 of random7" in capsys.readouterr().err

"""One run, one folder: the lock, the checkpoint that cannot be damaged unseen, and nothing foreign taken for the run's."""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import UnixFileLock
from safetensors.torch import load_file

import eqmol
from eqmol.errors import InputError
from eqmol.train import lock, resume
from eqmol.train.folder import open_folder
from eqmol.train.lock import FolderLock
from eqmol.train.log import read_rows
from tests.recipes import model
from tests.train.runs import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two epochs; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    train(folder, "run", "trainer.max_epochs=2")
    return folder


@pytest.fixture
def again(finished, tmp_path):
    """A copy of it, in a folder with the same data; returns what continues the run."""
    shutil.copytree(finished / "run", tmp_path / "run")

    def go(*options):
        files = [f"data.{name}_file={finished / name}.xyz" for name in ("train", "val")]
        files.append(f"data.test_files={{later: {finished / 'test.xyz'}}}")
        return train(tmp_path, "run", *files, "trainer.max_epochs=3", "resume=auto", *options)

    return go


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- the lock


def test_the_second_is_refused_and_the_folder_is_free_afterwards(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with open_folder(str(tmp_path / "run"), None):
        for name in ("run", "run/", "link", "run/../run"):
            for resumed in (None, "auto"):
                with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on .*, started at 20"):
                    open_folder(f"{tmp_path}/{name}", resumed)
    assert not (tmp_path / "run").exists()  # that run never began
    with open_folder(str(tmp_path / "run"), None):
        pass


def test_a_living_run_is_not_read_either(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("eqmol.train.folder.SHORT_WAIT", 0.1)
    shutil.copytree(finished / "run", tmp_path / "run")
    with open_folder(str(tmp_path / "run"), "auto"), pytest.raises(InputError, match="of the checkpoint is in use"):
        open_folder(str(tmp_path / "other"), str(tmp_path / "run" / "last.ckpt"))
    assert not (tmp_path / "other").exists()


def test_temporaries_of_dead_runs_are_cleared_and_those_of_others_kept(again, tmp_path):
    for name in (".last.ckpt.1.tmp", ".config.yaml.99.tmp", ".predictions.xyz.7.tmp", ".lock"):
        (tmp_path / "run" / name).write_text("half")
    again()
    hidden = [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert hidden == [".predictions.xyz.7.tmp"]
    assert [row["epoch"] for row in read_rows(tmp_path / "run" / "log.csv")] == ["1", "2", "3"]


def test_a_killed_process_leaves_no_lock_with_its_workers(tmp_path):
    """A worker of the data, forked while the lock was held, outlives its parent by seconds."""
    code = f"""
import pathlib, time, torch.utils.data as data, eqmol.train.lock as lock
folder = pathlib.Path({str(tmp_path)!r})
held = lock.FolderLock(folder, "here")
next(iter(loader := data.DataLoader(range(9), num_workers=1, persistent_workers=True, multiprocessing_context="fork")))
(folder / "ready").touch()
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            with pytest.raises(InputError, match=f"in use by process {process.pid} on"):
                FolderLock(tmp_path, "here")
        finally:
            process.kill()
    FolderLock(tmp_path, "here").release()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_heartbeat_decides(tmp_path, monkeypatch, capfd, number):
    def acquire(self):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(UnixFileLock, "_acquire", acquire)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)
    first = FolderLock(tmp_path, "here")
    with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        FolderLock(tmp_path, "here")
    assert "waiting up to 1 s for a sign of life" in capfd.readouterr().err
    first._lock._stop_heartbeat()  # the process stands still, or its host is gone
    second = FolderLock(tmp_path, "here")
    second.check()
    second.release()
    assert not list(tmp_path.iterdir())


# --- the checkpoint


def mutant(content, rng):
    """One flipped bit, anywhere."""
    changed = bytearray(content)
    changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def test_no_flipped_bit_of_a_checkpoint_is_loaded(finished, tmp_path):
    content = (finished / "run" / "last.ckpt").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "last.ckpt"
    ends = [content[:-1], content + b"\0", content[: len(content) // 2], content[: -resume.SEAL_BYTES], b""]
    for changed in [*(mutant(content, rng) for _ in range(60)), *ends]:
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"^[^\n]*cannot be read as a checkpoint[^\n]*$"):
            resume.load(path)


def test_a_compressed_checkpoint_is_not_unpacked(finished, tmp_path):
    bomb = tmp_path / "last.ckpt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    bomb.write_bytes(resume.seal(bomb.read_bytes()))
    with pytest.raises(InputError, match="its members are compressed"):
        resume.load(bomb)


def replaced(state):
    """The parts of a checkpoint, each as another type; a sealed file of this kind is made on purpose only."""
    for name in [*resume.PARTS, "current_model_state"]:
        for other in ("text", 7, [7], None, {}):
            if type(other) is not type(state[name]) or (isinstance(other, dict) and name != "lr_schedulers"):
                yield name, state | {name: other}
    for name in resume.OWN_PARTS:
        yield name, state | {"eqmol": state["eqmol"] | {name: None}}
    some = next(iter(state["current_model_state"]))
    for name in ("state_dict", "current_model_state"):
        yield some, state | {name: state[name] | {some: torch.zeros(99, 99)}}
    (last,) = (key for key in state["callbacks"] if "LastCheckpoint" in key)
    for name in state["callbacks"][last]:
        callbacks = state["callbacks"] | {last: state["callbacks"][last] | {name: "text"}}
        yield name, state | {"callbacks": callbacks}


def test_parts_of_other_types_are_one_sentence(finished, tmp_path, again, monkeypatch):
    state = torch.load(finished / "run" / "last.ckpt", weights_only=True)
    early, late = 0, []
    for name, wrong in replaced(state):
        resume.write(wrong, tmp_path / "last.ckpt")
        try:
            resume.load(tmp_path / "last.ckpt")
        except InputError as error:
            early += "\n" not in str(error)
        else:
            late.append((name, wrong))
    assert early > 50
    for name, wrong in late[:: max(1, len(late) // 6)]:  # whole runs: some of them
        monkeypatch.setattr(resume, "load", lambda path, wrong=wrong: wrong)
        with pytest.raises(InputError) as refused:
            again()
        assert re.search("does not fit this run|the run to be resumed had", str(refused.value)), name
        assert "\n" not in str(refused.value)


# --- what lies beside it


def test_a_foreign_model_is_not_taken_for_the_best(again, tmp_path):
    path = tmp_path / "run" / "model.safetensors"
    own = eqmol.load(path)
    header = eqmol.checkpoint.read_header(path).document["metrics"]
    assert header["run"]
    for metrics in ({}, {"val_loss": 1e-9, "epoch": 1}, header | {"run": "another"}, header | {"val_loss": None}):
        eqmol.save(own, path, metrics=metrics)
        before = listing(tmp_path / "run")
        with pytest.raises(InputError, match="is not the best model of this run; move it away"):
            again()
        assert listing(tmp_path / "run") == before
    for content in (b"", b"foreign", path.read_bytes()[:-5]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^[^\n]*model\.safetensors[^\n]*$"):
            again()
    path.unlink()
    again()
    assert load_file(path)


def test_a_model_without_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    eqmol.save(model(), tmp_path / "run" / "model.safetensors")
    before = listing(tmp_path / "run")
    with pytest.raises(InputError, match="is not the best model of this run"):
        train(tmp_path, "run", "resume=auto")
    assert listing(tmp_path / "run") == before


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"\xff\xfe\n",
        b"epoch,step\n1\n",
        b"epoch,step\n1,4\n1,8\n",
        b"epoch,step\n2,4\n1,8\n",
        b"epoch\nx\n",
    ],
)
def test_a_foreign_log_is_not_continued(again, tmp_path, content):
    (tmp_path / "run" / "log.csv").write_bytes(content)
    before = listing(tmp_path / "run")
    with pytest.raises(InputError, match=r"log\.csv is (not the log of a run|damaged).*; move it away"):
        again()
    assert listing(tmp_path / "run") == before


def test_what_a_resumed_run_does_not_need_may_be_gone(again, tmp_path):
    for name in ("config.yaml", "log.csv", "parity.npz"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "metrics.json").write_text('{"train": ')
    again()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "log.csv", "parity.npz", "metrics.json"} <= names

"""Several processes train one model: the same as one process with larger batches, and they end together."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from eqmol.data.loader import fill, share_of
from eqmol.errors import InputError
from eqmol.train import processes
from tests.train.runs import TINY, configuration, train

ROOT = Path(__file__).parents[2]


def two_processes(
    folder: Path, out: str, *options: str, launcher: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start train.py on two processes of this machine."""
    cfg = configuration(folder, out)
    files = [f"data.{name}_file={cfg.data[f'{name}_file']}" for name in ("train", "val")]
    command = [
        sys.executable,
        *launcher,
        "train.py",
        *TINY,
        *files,
        f"output_dir={folder / out}",
        "trainer.devices=2",
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def rows(folder: Path) -> np.ndarray:
    """All columns of log.csv but the times."""
    with (folder / "log.csv").open() as file:
        return np.array([[float(v or "nan") for k, v in row.items() if k != "seconds"] for row in csv.DictReader(file)])


def test_two_processes_are_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    options = ["trainer.precision=float64", "trainer.max_epochs=5"]
    code, out, err = finish(two_processes(tmp_path, "two", *options, "data.batch_size=1"))
    assert code == 0, err
    assert not err
    assert out.count("epoch 5/5") == 1
    train(tmp_path, "one", *options, "data.batch_size=2")
    two, one = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert one[-1, 1] == 30  # steps
    np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-9)
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in expected.items():
        # of the uncertainty: roots of inverses of nearly singular matrices
        rtol = 1e-6 if name.startswith("aux.uncertainty") else 1e-9
        np.testing.assert_allclose(weights[name], tensor, rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.slow
def test_a_signal_to_the_first_stops_all(tmp_path: Path) -> None:
    process = two_processes(tmp_path, "run", "trainer.max_epochs=10000", "trainer.checkpoint_minutes=null")
    log = tmp_path / "run" / "log.csv"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # to the first alone
    code, out, err = finish(process)
    assert code == 143, err
    assert out.splitlines()[-1].endswith("resume=auto")
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["the first", "another"])
def test_a_killed_process_ends_all(tmp_path: Path, killed: str) -> None:
    options = ["trainer.max_epochs=100000", "trainer.checkpoint_minutes=0.01"]
    process = two_processes(tmp_path, "run", *options)
    log, checkpoint = tmp_path / "run" / "log.csv", tmp_path / "run" / "last.ckpt"
    while process.poll() is None and not (checkpoint.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.1)
    (other,) = (child for child in psutil.Process(process.pid).children() if "train.py" in " ".join(child.cmdline()))
    os.kill(process.pid if killed == "the first" else other.pid, signal.SIGKILL)
    begin = time.monotonic()
    code, _, err = finish(process)
    psutil.wait_procs([other], timeout=30)
    assert not other.is_running()
    assert time.monotonic() - begin < 30
    assert code == (-signal.SIGKILL if killed == "the first" else 1)
    if killed == "another":
        assert "error: another process of this run has ended" in err
        assert "resume=auto" in err
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
    code, out, err = finish(two_processes(tmp_path, "run", "trainer.max_epochs=1", "resume=auto"))
    assert code == 0, err
    assert "(continues)" in out
    assert not list((tmp_path / "run").glob(".*.tmp"))


@pytest.mark.slow
def test_four_processes_are_as_two_with_twice_the_batch(tmp_path: Path) -> None:
    options = ["trainer.precision=float64", "trainer.max_epochs=3"]
    for out, devices, batch in (("four", 4, 1), ("two", 2, 2)):
        code, printed, err = finish(
            two_processes(tmp_path, out, *options, f"trainer.devices={devices}", f"data.batch_size={batch}")
        )
        assert code == 0, err
        assert f"{devices} processes, " in printed
    np.testing.assert_allclose(rows(tmp_path / "four"), rows(tmp_path / "two"), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "by hand"])
def test_two_machines_are_as_one(tmp_path: Path, launcher: str) -> None:
    """Both on this one: each with a process of its own, connected by the address of the first."""
    options = [
        "trainer.precision=float64",
        "trainer.max_epochs=3",
        "data.batch_size=1",
        "trainer.devices=1",
        "trainer.num_nodes=2",
    ]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    found = []
    for node in (0, 1):
        if launcher == "torchrun":
            where = [f"--master-addr={address['MASTER_ADDR']}", f"--master-port={address['MASTER_PORT']}"]
            first = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}", *where]
            found.append(two_processes(tmp_path, "two", *options, launcher=first))
        else:
            found.append(two_processes(tmp_path, "two", *options, environment={**address, "NODE_RANK": str(node)}))
    for process in found:
        code, _, err = finish(process)
        assert code == 0, err
    train(tmp_path, "one", "trainer.precision=float64", "trainer.max_epochs=3", "data.batch_size=2")
    np.testing.assert_allclose(rows(tmp_path / "two"), rows(tmp_path / "one"), rtol=1e-9, atol=1e-9)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_torchrun_with_another_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"torchrun has started 4 processes, and .* are 2; make"):
        processes.start("cpu", 1, 2)


@pytest.mark.slow
def test_an_error_is_said_once(tmp_path: Path) -> None:
    code, _, err = finish(two_processes(tmp_path, "run", "data.train_file=nowhere.xyz"))
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_validation_structures_are_shared_out_without_repetition() -> None:
    class Loader:
        dataset, collate_fn, num_workers = list(range(7)), staticmethod(list), 0
        batch_sampler = fill(range(7), 3)

    parts = [list(share_of(Loader(), rank, 4)) for rank in range(4)]
    assert all(parts)
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(7))
    with pytest.raises(InputError, match="8 processes cannot share 7 validation structures"):
        share_of(Loader(), 0, 8)

"""Several processes train one model: the same as one process with larger batches, and they end together."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from eqmol.data.loader import fill, share_of
from eqmol.errors import InputError
from tests.train.runs import TINY, configuration, train

ROOT = Path(__file__).parents[2]


def two_processes(folder: Path, out: str, *options: str) -> subprocess.Popen[str]:
    """Start train.py on two processes of this machine."""
    cfg = configuration(folder, out)
    files = [f"data.{name}_file={cfg.data[f'{name}_file']}" for name in ("train", "val")]
    command = [sys.executable, "train.py", *TINY, *files, f"output_dir={folder / out}", "trainer.devices=2", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def rows(folder: Path) -> np.ndarray:
    """All columns of log.csv but the times."""
    with (folder / "log.csv").open() as file:
        return np.array([[float(v or "nan") for k, v in row.items() if k != "seconds"] for row in csv.DictReader(file)])


@pytest.mark.slow
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
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-9, atol=1e-9, err_msg=name)


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

"""What a user sees of a wrong command: one sentence, a non-zero exit code, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eqmol.cli import predict
from eqmol.cli import train as cli

ROOT = Path(__file__).parents[2]


def train_py(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("backend=fft", "backend=fft is unknown; choose one of auto, cg, escn, gaunt, grid"),
        ("model.channles=3", "there is no option model.channles; did you mean model.channels?"),
        ("data=[xyz", "cannot read the option data=[xyz"),
        ("data=xyz", "data.train_file is missing"),  # composes, so it gets as far as the run
    ],
)
def test_one_sentence(tmp_path, option, message):
    done = train_py(tmp_path, option)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "predict"])
@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_one_thread_unless_the_environment_says_otherwise(monkeypatch, command, given, expected):
    monkeypatch.setattr(os, "environ", given.copy())
    monkeypatch.setattr(cli, "_launch", lambda command, program: None)
    monkeypatch.setattr(predict, "_run", lambda arguments: 0)
    if command == "train":
        cli.main([])
    else:
        predict.main(["model.safetensors", "in.xyz"])
    assert os.environ["OMP_NUM_THREADS"] == expected


def test_commands_begin_without_torch():
    """It reads the number of threads when it is imported."""
    names = "train, eqmol.cli.predict, eqmol.cli.convert, eqmol.cli.report, eqmol.cli.prepare, eqmol.cli.main"
    code = f"import sys, eqmol.cli.{names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0

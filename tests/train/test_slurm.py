"""The job script of a sweep, with commands of SLURM that start things here."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.train.runs import TINY, configuration

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "examples" / "slurm" / "sweep.sh"
COMMANDS = {
    "srun": '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": '#!/bin/bash\necho "$@" >> "$QUEUE"\n',
    "squeue": '#!/bin/bash\necho "${STATE:-RUNNING}"\n',
    "eqmol": f'#!/bin/bash\nexec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "train.py"))} "${{@:2}}"\n',
}


def start(folder: Path, index: int, options: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "QUEUE": str(folder / "queue"),
        "OMP_NUM_THREADS": "1",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": str(index),
        "EQMOL_OPTIONS": options,
    }
    pipe = subprocess.PIPE
    command = ["bash", str(SCRIPT)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def files_of(folder: Path) -> list[str]:
    data = configuration(folder, "x").data
    return [f"data.{name}_file={data[f'{name}_file']}" for name in ("train", "val")]


def put_commands(folder: Path, **others: str) -> None:
    (folder / "bin").mkdir()
    for name, text in (COMMANDS | others).items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)


@pytest.mark.parametrize(
    ("code", "state", "queued"),
    [(143, "RUNNING", "requeue 77_0\n"), (143, "COMPLETING", ""), (130, "RUNNING", ""), (0, "RUNNING", "")],
)
def test_what_is_queued_again(
    tmp_path: Path, code: int, state: str, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_commands(tmp_path, eqmol=f"#!/bin/bash\nexit {code}\n")
    monkeypatch.setenv("STATE", state)
    job = start(tmp_path, 0, "")
    job.communicate(timeout=60)
    assert job.returncode == code
    queue = tmp_path / "queue"
    assert (queue.read_text() if queue.exists() else "") == queued


@pytest.mark.slow
def test_a_job_that_is_stopped_is_queued_again_and_continues(tmp_path: Path) -> None:
    put_commands(tmp_path)
    tiny = [option for option in TINY if not option.startswith(("model=", "backend=")) and "correlation" not in option]
    options = " ".join([*tiny, *files_of(tmp_path), "trainer.max_epochs=60"])
    log = tmp_path / "runs" / "sweep" / "1" / "log.csv"
    for index in range(3):
        job = start(tmp_path, index, options)
        if index == 1:
            while job.poll() is None and not (log.exists() and log.read_text().count("\n") > 3):
                time.sleep(0.05)
            (step,) = psutil.Process(job.pid).children()
            step.send_signal(signal.SIGTERM)  # as SLURM to the step
        _, errors = job.communicate(timeout=300)
        assert job.returncode == (143 if index == 1 else 0), errors
    assert (tmp_path / "queue").read_text() == "requeue 77_1\n"
    epochs = log.read_text().count("\n") - 1
    assert epochs < 60
    again = start(tmp_path, 1, options)  # as SLURM does then
    printed, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "(continues)" in printed
    assert log.read_text().count("\n") - 1 == 60
    for index in range(3):
        assert (tmp_path / "runs" / "sweep" / str(index) / "model.safetensors").exists()


@pytest.mark.slow
def test_a_job_of_submitit_that_is_preempted_continues(tmp_path: Path) -> None:
    """Three jobs of a sweep on this machine; submitit starts the stopped one again."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "-m",
        "hydra/launcher=submitit_local",
        "seed=0,1,2",
        "resume=auto",
    ]
    options = [*TINY, *files_of(tmp_path), "trainer.max_epochs=20", f"output_dir={tmp_path / 'sweep'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SUBMITIT_PREEMPT_SIGNAL": "TERM"}
    pipe = subprocess.PIPE
    sweep = subprocess.Popen([*command, *options], cwd=tmp_path, env=environment, stderr=pipe, text=True)
    runs = [tmp_path / "sweep" / str(index) for index in range(3)]
    log = runs[1] / "log.csv"
    while sweep.poll() is None and not (log.exists() and log.read_text().count("\n") > 3):
        time.sleep(0.05)
    os.kill(int((runs[1] / ".lock").read_text().split()[1]), signal.SIGTERM)
    _, errors = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, errors
    printed = [path.read_text() for path in sorted((tmp_path / "sweep" / ".submitit").glob("*/*_0_log.out"))]
    assert sorted(text.count("(continues)") for text in printed) == [0, 0, 1]
    for run in runs:
        assert (run / "log.csv").read_text().count("\n") - 1 == 20
        assert (run / "model.safetensors").exists()

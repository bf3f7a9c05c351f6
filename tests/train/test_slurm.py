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


@pytest.mark.slow
def test_a_job_that_is_stopped_is_queued_again_and_continues(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    cfg = configuration(tmp_path, "x")
    files = [f"data.{name}_file={cfg.data[f'{name}_file']}" for name in ("train", "val")]
    tiny = [option for option in TINY if not option.startswith(("model=", "backend=")) and "correlation" not in option]
    options = " ".join([*tiny, *files, "trainer.max_epochs=60"])
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

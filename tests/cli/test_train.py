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
        ("backend=fft", "backend=fft is unknown; choose one of auto, cg, escn, gaunt, gaunt_fft, grid"),
        ("model.channles=3", "there is no option model.channles; did you mean model.channels?"),
        ("data=[xyz", "cannot read the option data=[xyz"),
        ("data=xyz", "data.train_file=null names no file"),  # composes, so it gets as far as the run
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


# --- paths


@pytest.fixture
def configurations(monkeypatch, tmp_path):
    """The configurations that runs would have."""
    from eqmol.train import run

    found = []
    monkeypatch.setattr(run, "run", lambda cfg, **_: found.append(cfg))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return found


def exit_code(options) -> int:
    try:
        return cli.main(options)
    except SystemExit as end:  # as errors of a job end, which Hydra would print
        return end.code


def test_paths_arrive_as_they_are_typed(configurations, tmp_path):
    options = ["data=xyz", "data.train_file=[a=1 (é).xyz,b.xyz]", "data.val_file=~/v,1.xyz", "output_dir=300"]
    assert cli.main([*options, "init_from=~/m=1.safetensors"]) == 0
    (cfg,) = configurations
    assert cfg.data.train_file == ["a=1 (é).xyz", "b.xyz"]
    assert cfg.data.val_file == f"{tmp_path}/v,1.xyz"
    assert cfg.output_dir == "300"
    assert cfg.init_from == f"{tmp_path}/m=1.safetensors"


def test_the_configuration_of_a_run_lies_anywhere(configurations, tmp_path):
    folder = tmp_path / "lr=0.1, é"
    folder.mkdir()
    (folder / "config.yaml").write_text("output_dir: x\nresume: ~/r=1\ninit_from: null\nseed: 3\nmodel: {}\n")
    assert cli.main(["lr=0.1, é/config.yaml", "output_dir=~/new=1"]) == 0
    (cfg,) = configurations
    assert (cfg.seed, cfg.output_dir, cfg.resume) == (3, f"{tmp_path}/new=1", f"{tmp_path}/r=1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["output_dir=[a]"], "output_dir=['a'] must be a path"),
        (["init_from={a: b}"], "init_from={'a': 'b'} must be a path"),
        (["resume="], "resume='' must be a path"),
        (["model.channels=a(b"], "; if the value is meant as it is, type 'model.channels=\"a(b\"'"),
        (["data.train_file=a,b.xyz", "data=xyz"], "for several files type 'data.train_file=[a,b.xyz]'"),
        (["bad.yaml", "output_dir=new"], "bad.yaml cannot be read: ParserError"),
        (["gone=1/config.yaml"], "there is no option gone"),
        (["data=3"], "data=3 must name one of the group data; python train.py --help lists them"),
        (["logger=null"], "logger=null must name one of the group logger"),
        (["experiment=[1]"], "experiment=[1] must name one of the group experiment"),
    ],
)
def test_paths_that_are_none(configurations, tmp_path, capsys, options, message):
    for name in ("a", "b.xyz"):
        (tmp_path / name).touch()
    (tmp_path / "bad.yaml").write_text("a: [\n")
    assert exit_code(options) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not configurations

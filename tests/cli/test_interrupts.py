"""Ctrl-C, SIGTERM and a full disk, wherever a command is: one line, a telling exit code, and nothing left behind."""

import importlib.abc
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from ase.io import write
from rich.console import Console

from eqmol import checkpoint
from eqmol.cli.main import main
from eqmol.cli.options import UNREAD, exit_code
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.train.run import run
from tests.inference.test_molecules import properties_recipe
from tests.recipes import model
from tests.train.runs import configuration

#: Command and a module that it imports late.
IMPORTS = {
    "train": ("eqmol.train.run", ["output_dir=run"]),
    "predict": ("eqmol.checkpoint", ["model.safetensors", "in.xyz", "-o", "out.xyz"]),
    "convert": ("eqmol.convert.convert", ["model.safetensors", "out.safetensors"]),
    "report": ("eqmol.analysis.show", ["-o", "out"]),
    "prepare": ("eqmol.data.oc20.prepare", ["."]),
}


class Slow(importlib.abc.MetaPathFinder):
    """An import during which a signal arrives."""

    def __init__(self, name: str, signum: int, native: bool) -> None:
        self.name, self.signum, self.native = name, signum, native

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname != self.name:
            return
        try:
            signal.raise_signal(self.signum)
            raise AssertionError("the signal is ignored")
        except KeyboardInterrupt as error:
            if self.native:
                raise ImportError("initialization failed") from error
            raise


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a model and structures to predict."""
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    checkpoint.save(model(), tmp_path / "model.safetensors")
    write(tmp_path / "in.xyz", [molecule("CH3CH2OH")] * 20)
    yield tmp_path
    signal.signal(signal.SIGINT, before)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("command", IMPORTS)
def test_interrupt_of_an_import(folder, monkeypatch, capsys, command: str, native: bool) -> None:
    module, arguments = IMPORTS[command]
    signum = signal.SIGTERM if native else signal.SIGINT
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Slow(module, signum, native), *sys.meta_path])
    before = names(folder)
    assert main([command, *arguments]) == 128 + signum
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("interrupted")
    assert printed.err.count("\n") == 1
    assert names(folder) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_the_first_is_obeyed(folder, monkeypatch, capsys, signum: int) -> None:
    unlink = Path.unlink

    def interrupted(*_: Any) -> None:
        signal.raise_signal(signum)

    def again(path: Path, *arguments: Any, **options: Any) -> None:
        signal.raise_signal(signum)
        unlink(path, *arguments, **options)

    monkeypatch.setattr("eqmol.inference.extxyz.write_frame", interrupted)
    monkeypatch.setattr(Path, "unlink", again)
    assert main(["predict", "model.safetensors", "in.xyz", "-o", "out.xyz"]) == 128 + signum
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert names(folder) == {"model.safetensors", "in.xyz"}


def test_signals_that_a_shell_ignores_stay_ignored(folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr("eqmol.inference.extxyz.write_frame", lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert main(["predict", "model.safetensors", "in.xyz", "-o", "out.xyz"]) == 0
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# --- a full disk


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file become larger, bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("arguments", "size", "file"),
    [
        (["model.safetensors", "in.xyz", "-o", "out.xyz", "--batch-size", "4"], 5000, "out.xyz"),
        (["model.safetensors", "in.xyz", "-o", "out.xyz"], 100, "out.xyz"),
        (["model.safetensors", "short.xyz", "-o", "out.xyz", "--metrics", "m.json"], 200, "m.json"),
        (["properties.safetensors", "few.smi", "-o", "out.csv"], 300, "out.sdf"),
        (["properties.safetensors", "in.smi", "-o", "out.csv"], 1500, "out.csv"),
        (["properties.safetensors", "in.csv", "-o", "out.csv"], 1500, "out.csv"),
        (["model.safetensors", "random1.traj", "-o", "out.npz"], 300, "out.npz"),
    ],
)
def test_no_room(folder, capsys, arguments: list[str], size: int, file: str) -> None:
    torch.manual_seed(0)
    checkpoint.save(checkpoint.build(properties_recipe()), folder / "properties.safetensors")
    (folder / "few.smi").write_text("O water\n")
    (folder / "in.smi").write_text("O water\n" + "[O-] anion\n" * 20)
    (folder / "in.csv").write_text("smiles\nO\n" + "[O-]\n" * 20)
    (folder / "short.xyz").write_text("1\nenergy=1\nO 0 0 0\n")
    write(folder / "random1.traj", [molecule("CH3CH2OH")] * 5)
    outputs = [folder / arguments[3], folder / "out.sdf", folder / "m.json"]
    for output in outputs:
        output.write_text("old")
    before = names(folder)
    with room(size):
        assert main(["predict", *arguments]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0] == f"error: cannot write {file}: File too large; make room, or write to another disk"
    assert {output.read_text() for output in outputs} == {"old"}
    assert names(folder) == before


def test_what_killed_processes_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a[1].xyz"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        writing = replacing(target)
        writing.__enter__()  # and is killed
    left = names(tmp_path)
    assert len(left) == 1
    (living,) = left
    others = {f".a[1].xyz.elsewhere-{dead.pid}.tmp", living.replace("[1]", "1"), living.replace(str(os.getppid()), "x")}
    for other in others:
        (tmp_path / other).touch()
    monkeypatch.undo()
    with replacing(target) as file:
        file.write("new")
    assert names(tmp_path) == {"a[1].xyz", living, *others}


@contextmanager
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output into a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        yield


@pytest.mark.parametrize("kind", ["print", "rich", "help", "argparse"])
def test_output_that_nobody_reads_ends_a_command_quietly(monkeypatch, capsys, kind: str) -> None:
    commands = {
        "print": lambda: exit_code(lambda: print("words")),
        "rich": lambda: exit_code(lambda: Console().print("words")),
        "help": lambda: main(["train", "--help"]),
        "argparse": lambda: main(["predict", "--help"]),
    }
    with unread(monkeypatch):
        assert commands[kind]() == UNREAD
        print("more", flush=True)  # into nothing
    assert capsys.readouterr().err == ""


def test_an_error_is_told_also_when_nobody_reads_the_output(monkeypatch, capsys) -> None:
    def command() -> None:
        print("words")
        raise InputError("no such file")

    with unread(monkeypatch):
        assert exit_code(command) == 2
    assert capsys.readouterr().err == "error: no such file\n"


def test_a_run_whose_screen_nobody_reads_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Head(io.StringIO):
        def write(self, text: str) -> int:
            if "epoch 1" in text:
                raise BrokenPipeError
            return super().write(text)

    def close(self: Console) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(Console, "on_broken_pipe", close)
    assert exit_code(lambda: run(configuration(tmp_path), Console(file=Head())) and None) == UNREAD


def test_interrupt_before_the_command_begins() -> None:
    code = (
        "import importlib.abc, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells let jobs in the background ignore it
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'ase': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "sys.argv = ['/usr/bin/eqmol']\n"
        "from eqmol.cli.main import main\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")

"""Runs with compiled tensor products: resumed to the bit by the same code, and not silently by other code."""

import io
import shutil

import pytest
import torch
from rich.console import Console

from eqmol.errors import InputError
from eqmol.train import resume
from eqmol.train.resume import LastCheckpoint
from eqmol.train.run import run
from tests.train.runs import assert_same, configuration, train, weights

pytestmark = pytest.mark.usefixtures("kernels")
EPOCHS = "trainer.max_epochs=2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kernel_cache):
    """A complete run, and its folder as it was after the first epoch."""
    path, original = tmp_path_factory.mktemp("runs"), LastCheckpoint._save

    def save(self, trainer):
        original(self, trainer)
        if trainer.current_epoch == 0:
            shutil.copytree(path / "whole", path / "killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQMOL_CACHE", str(kernel_cache))
        patch.setenv("EQMOL_KERNELS", "auto")
        patch.setattr(LastCheckpoint, "_save", save)
        train(path, "whole", EPOCHS)
    return path


def resumed(folder, name: str) -> str:
    """What a resumed run prints."""
    shutil.copytree(folder / "killed", folder / name)
    printed = io.StringIO()
    run(configuration(folder, name, EPOCHS, "resume=auto"), Console(file=printed, width=1000))
    return printed.getvalue()


def pretend(monkeypatch, **changed: str) -> None:
    """Compiled code has another identity."""
    found = resume.compiled_code
    monkeypatch.setattr(resume, "compiled_code", lambda model: found(model) | changed)


def test_killed_and_resumed_is_as_uninterrupted(folder):
    identity = torch.load(folder / "killed" / "last.ckpt", weights_only=True)["eqmol"]["kernels"]
    assert identity.keys() == {"compiler", "flags", "processor", "kernels"}
    assert "last.ckpt was trained" not in resumed(folder, "same")
    assert_same(weights(folder, "same"), weights(folder, "whole"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"processor": "another"}, "(processor)"),
        ({"compiler": "another", "flags": "-O1"}, "(compiler, flags)"),
        ({"kernels": "another"}, "(by another version of eqmol)"),
    ],
    ids=["processor", "compiler", "version"],
)
def test_other_code_is_announced(folder, changed, words, monkeypatch):
    pretend(monkeypatch, **changed)
    monkeypatch.setenv("EQMOL_KERNELS", "auto")
    (line,) = [line for line in resumed(folder, min(changed)).splitlines() if "last.ckpt was trained" in line]
    assert f"by tensor products compiled otherwise {words}: results differ by rounding" in line


def test_no_code_is_announced(folder, monkeypatch):
    monkeypatch.setenv("EQMOL_KERNELS", "off")
    assert "last.ckpt was trained with compiled tensor products, unlike this run: results" in resumed(folder, "off")


def test_other_code_is_refused_where_kernels_are_required(folder, monkeypatch):
    pretend(monkeypatch, flags="-O1")
    with pytest.raises(InputError, match=r"compiled otherwise \(flags\), and EQMOL_KERNELS=require refuses"):
        resumed(folder, "refused")

"""The scripts of docs/examples in shortened form, and what they say."""

import re
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SMALL = ["model.channels=4", "model.filter_degree=1", "model.correlation=2", "model.radial_hidden=[8]"]
SHORT = [*SMALL, "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=csv"]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script with options, in a temporary folder and without plots, which take longest."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(name: str, *options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, *options])
        return runpy.run_path(str(EXAMPLES / f"{name}.py"))

    return run


def test_backends(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results = example("backends")["results"]
    assert list(results) == ["cg", "escn", "gaunt", "gaunt_fft", "grid"]
    for other in results.values():
        torch.testing.assert_close(other, results["cg"], rtol=1e-4, atol=1e-4)  # sums of 20 edges in float32
    assert len(re.findall(r"[\d.]+ ms, differs from cg by", capsys.readouterr().out)) == 5


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_xyz_to_md(example: Any) -> None:
    found = example("xyz_to_md", *SHORT)
    assert abs(found["drift"]) < 1e-3  # eV per atom
    assert found["atoms"].get_temperature() > 100


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few molecules
def test_own_property(example: Any) -> None:
    found = example("own_property", *SHORT)
    assert found["difference"] < 1e-10
    assert abs(found["before"]["alpha"]).max() > 1
    assert found["before"]["q"].shape == (5,)


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few molecules
def test_larger_model(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = example("larger_model", *(option for option in SHORT if "channels" not in option))
    assert found["after"] == pytest.approx(found["before"], abs=1e-4)
    printed = capsys.readouterr().out
    assert "starts from" in printed
    assert (found["folder"] / "large" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_active_learning(example: Any) -> None:
    found = example("active_learning", *SHORT)
    frames = [len(found["read"](path, ":")) for path in sorted(found["folder"].glob("chosen_*.xyz"))]
    assert frames
    assert all(frames)
    assert len(found["read"](found["train_file"], ":")) == 16 + sum(frames)
    assert found["model"].parent.name == f"round_{len(frames)}"

"""The examples of an algorithm and of a model of one's own, trained and used as their pages say."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule

import eqmol
from eqmol.checkpoint import build, load
from eqmol.cli.main import main
from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.models.registry import BACKBONES
from eqmol.ops import Spec, check
from eqmol.ops.registry import ALGORITHMS, RESERVED
from tests import recipes
from tests.train.runs import TINY, frames

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SPECS = [Spec(o, f, "so3", 1, 2, 1) for o in ("convolution", "product") for f in ("coupled", "gaunt")]
SPECS.append(Spec("convolution", "coupled", "o3", 2, 4, 2, order_max=1))


@pytest.fixture
def dense(registration: None) -> None:
    runpy.run_path(str(EXAMPLES / "own_algorithm.py"))


@pytest.fixture
def gated(registration: None) -> None:
    runpy.run_path(str(EXAMPLES / "own_model.py"))


def command(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> int:
    """What the script does with arguments, in this process, where it has registered already."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    return main()


def options(folder: Path, *more: str) -> list[str]:
    train, val = frames(folder / "train.xyz", 0, 4), frames(folder / "val.xyz", 4, 2)
    given = [
        *TINY,
        f"data.train_file={train}",
        f"data.val_file={val}",
        "trainer.max_epochs=1",
        f"output_dir={folder / 'run'}",
    ]
    return ["train", *given, *more]


def graph(cutoff: float, angle: float = 0.0) -> Any:
    atoms = molecule("CH3CH2OH")
    atoms.rotate(angle, (1, 2, 3))
    return collate([from_atoms(atoms, cutoff)])


# --- an algorithm


@pytest.mark.usefixtures("dense")
def test_the_algorithm_obeys_the_laws() -> None:
    assert len((EXAMPLES / "own_algorithm.py").read_text().splitlines()) < 60
    assert check("dense", SPECS) == SPECS


@pytest.mark.usefixtures("dense")
def test_the_algorithm_trains_a_model_as_cg_does(monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = []
    for backend in ("cg", "dense"):
        model = recipes.model(backend=backend).train()
        results = model(graph(3.5))
        (results["energy"].sum() + results["forces"].square().sum()).backward()
        slopes.append([results["forces"].detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(slopes[1], slopes[0], atol=1e-8, rtol=1e-8)


@pytest.mark.usefixtures("dense")
def test_a_run_with_the_algorithm_and_its_file(tmp_path, monkeypatch, capsys) -> None:
    assert command(monkeypatch, "own_algorithm.py", *options(tmp_path, "backend=dense")) == 0
    assert "backend dense on cpu" in capsys.readouterr().out
    path = tmp_path / "run" / "model.safetensors"
    expected = load(path)(graph(3.0))["forces"]
    for name in ALGORITHMS.keys() - RESERVED:
        del ALGORITHMS[name]
    sentence = "the algorithm 'dense' is not registered here (eqmol.ops.register); 'cg' computes the same"
    with pytest.warns(UserWarning, match=re.escape(f"{path}: {sentence}")):  # and nothing else
        model = load(path)
    assert model.recipe["backbone"]["backend"] == "cg"
    torch.testing.assert_close(model(graph(3.0))["forces"], expected, atol=1e-4, rtol=0)  # float32
    with pytest.raises(InputError, match="'dense' for the power is unknown"):
        load(path, backend="dense")


def test_a_mixture_with_an_unknown_algorithm(tmp_path, monkeypatch) -> None:
    path, mixture = tmp_path / "model.safetensors", {"convolution": "escn", "power": "own"}
    monkeypatch.setitem(ALGORITHMS, "own", ALGORITHMS["cg"])
    eqmol.save(recipes.model(backend=mixture), path)
    monkeypatch.delitem(ALGORITHMS, "own")
    with pytest.warns(UserWarning, match="'power': 'own'} is not registered here .* 'power': 'cg'} computes"):
        assert load(path).recipe["backbone"]["backend"] == {"convolution": "escn", "power": "cg"}


@pytest.mark.usefixtures("dense")
def test_help_lists_what_is_registered(monkeypatch, capsys) -> None:
    assert command(monkeypatch, "own.py", "train", "--help", "backend=dense") == 0
    printed = capsys.readouterr().out
    assert "   *dense                registered by you" in printed
    assert "usage: python own.py train KEY=VALUE" in printed


# --- a model


@pytest.mark.usefixtures("gated")
def test_a_run_with_the_model_and_its_file(tmp_path, monkeypatch, capsys) -> None:
    own = [option for option in options(tmp_path) if not option.startswith("model.")]
    assert command(monkeypatch, "own_model.py", *own, "model=gated", "model.cutoff=3.0", "backend=escn") == 0
    assert "family coupled, float32; backend escn on cpu" in capsys.readouterr().out
    path = tmp_path / "run" / "model.safetensors"
    model = load(path)
    assert model.recipe["backbone"]["_target_"] == "gated"
    energy, turned = model(graph(3.0))["energy"], load(path, backend="cg")(graph(3.0, 33.0))["energy"]
    torch.testing.assert_close(energy, turned, atol=1e-3, rtol=0)  # float32
    del BACKBONES["gated"]
    with pytest.raises(
        InputError, match=r"'gated', but only .* can stand here; .* is made known with eqmol.models.register"
    ):
        load(path)


@pytest.mark.usefixtures("gated")
def test_a_file_of_a_stranger_with_the_model() -> None:
    backbone = {"_target_": "gated", "elements": [1], "avg_num_neighbors": 3.0, "backend": "cg", "family": "coupled"}
    recipe = {"_target_": "eqmol.models.Potential", "elements": [1], "e0": [0.0], "scale": 1.0, "backbone": backbone}
    build(recipe)
    for change in ({"channels": 10**9}, {"cutoff": "far"}, {"hook": 1}, {"family": "other"}):
        with pytest.raises(InputError):
            build(recipe | {"backbone": backbone | change})

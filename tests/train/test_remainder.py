"""Constants of the elements that a run leaves in its energies are taken up when it ends."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write
from rich.console import Console

from eqmol import checkpoint
from eqmol.graph import collate, from_atoms
from eqmol.train import folder
from eqmol.train.objectives import PotentialObjective
from eqmol.train.remainder import fit, take_up
from eqmol.train.run import run
from eqmol.train.schedule import Cosine
from eqmol.train.task import Task
from tests.recipes import recipe
from tests.train.runs import bare
from tests.train.test_start import SETS
from tests.train.test_start import graphs_of as graphs_of_frames

NAMES = ["CH3OH", "H2O", "CO2", "C2H2", "C2H4", "H2CO", "CH3CHO", "CH4", "C2H6", "CO"]


def structures(cutoff: float) -> list[ase.Atoms]:
    free = [ase.Atoms(symbol) for symbol in "HCO"]
    return [*map(molecule, NAMES), *free]


def graphs_of(model: Any, shift: dict[str, float], noise: float) -> list[Any]:
    """Molecules with energies of a model, shifted by constants of their elements, and disturbed."""
    rng, graphs = np.random.default_rng(0), []
    for atoms in structures(model.cutoff):
        energy = float(model(from_atoms(atoms, model.cutoff))["energy"])
        bound = len(atoms) > 1
        energy += bound * sum(shift.get(symbol, 0.0) for symbol in atoms.symbols)
        graphs.append(from_atoms(atoms, model.cutoff, energy=energy + noise * len(atoms) * rng.normal()))
    return graphs


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    with checkpoint.default_dtype(torch.float64):
        model = checkpoint.build(recipe(cutoff=6.0) | {"binding": [0.1, 0.2, 0.3, 0.4]}).eval()
    checkpoint.save(model, tmp_path / folder.MODEL, metrics={"val_loss": 0.5, "epoch": 3})
    return tmp_path / folder.MODEL, model


def data_of(graphs: list[Any], e0: str = "fit") -> Any:
    return SimpleNamespace(representatives=lambda number: graphs[:number], e0=e0)


def test_constants_are_found(saved: tuple[Any, Any]) -> None:
    path, model = saved
    shift = {"H": -0.5, "C": 1.0, "O": -2.0}
    graphs = graphs_of(model, shift, 0.0)
    before = model(collate(graphs))
    words = take_up(path, model, data_of(graphs))
    assert words is not None
    assert "O -2.00" in words
    again = checkpoint.load(path, dtype="float64")
    batch = collate(graphs)
    after = again(batch)
    left = ((after["energy"] - batch.energy) / batch.ptr.diff()).abs()
    assert float(left.max()) < 2e-2  # atoms far from neighbours are bound in part
    assert float(((before["energy"] - batch.energy) / batch.ptr.diff()).abs().max()) > 0.5
    torch.testing.assert_close(after["energy"][-3:], before["energy"][-3:], rtol=0, atol=1e-10)  # free atoms
    assert float((after["forces"] - before["forces"]).abs().max()) < 0.1 * float(before["forces"].abs().max())
    assert checkpoint.read_header(path).document["metrics"] == {"val_loss": 0.5, "epoch": 3}
    torch.testing.assert_close(model(batch)["energy"], after["energy"])
    assert take_up(path, again, data_of(graphs)) is None  # nothing is left to take


def test_each_value_is_judged_without_itself() -> None:
    rng = np.random.default_rng(0)
    composition, values = rng.random((9, 3)), rng.random(9)
    composition[:, 2] = 2 * composition[:, 1]  # not told apart
    found, others = fit(composition, values)
    np.testing.assert_allclose(found, np.linalg.lstsq(composition, values, rcond=1e-6)[0], atol=1e-10)
    for left_out in range(9):
        kept = np.arange(9) != left_out
        twin = np.linalg.lstsq(composition[kept], values[kept], rcond=1e-6)[0]
        assert others[left_out] == pytest.approx(values[left_out] - composition[left_out] @ twin, abs=1e-10)


@pytest.mark.parametrize("case", ["learnt", "too few to tell", "no energies", "e0=keep"])
def test_constants_stay_where_there_is_nothing_to_gain(saved: tuple[Any, Any], case: str) -> None:
    path, model = saved
    graphs = graphs_of(model, {"H": 1.0} if case in ("too few to tell", "e0=keep") else {}, 0.05)
    if case == "no energies":
        for graph in graphs:
            graph.energy.fill_(torch.nan)
    content = path.read_bytes()
    data = data_of(graphs[:1] if case == "too few to tell" else graphs, "keep" if case == "e0=keep" else "fit")
    assert take_up(path, model, data) is None
    assert path.read_bytes() == content


@pytest.mark.parametrize("takes_up", [True, False])
def test_the_best_epoch_is_judged_by_constants_that_stay(saved: tuple[Any, Any], takes_up: bool) -> None:
    model = saved[1]
    objective = PotentialObjective({"energy": {"weight": 1.0}, "forces": {"weight": 0.0}}, torch.optim.Adam, Cosine())
    task = Task(model, objective, {}, takes_up=takes_up)
    task.validation_step(collate(graphs_of(model, {"H": 1.0}, 0.0)), 0)
    assert (task.validation.score < 1e-3) == takes_up


@pytest.mark.parametrize("label", ["water", pytest.param("slab", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("model", "backend"), [("mace", "cg"), ("mace", "grid"), ("equiformer", "cg")])
def test_twenty_steps_are_better_than_none(tmp_path: Path, label: str, model: str, backend: str) -> None:
    frames, _, cutoff = SETS[label]()
    for atoms in frames:
        atoms.get_forces()
    write(tmp_path / "train.xyz", frames)
    options = ["data=xyz", f"data.train_file={tmp_path / 'train.xyz'}", f"model={model}", f"backend={backend}"]
    options += [f"model.cutoff={cutoff}", "trainer.max_epochs=5", "model.channels=8", "data.batch_size=4"]
    run(bare(tmp_path, "run", *options), Console(file=io.StringIO()))
    trained = checkpoint.load(tmp_path / "run" / folder.MODEL)
    batch = collate(graphs_of_frames(frames, cutoff))
    found, free = trained(batch), trained.references("energy", batch)
    pairs = (found["energy"], batch.energy, free), (found["forces"], batch.forces, 0.0)
    for predicted, labels, reference in pairs:
        assert float((predicted - labels).norm()) < float((labels - reference).norm())

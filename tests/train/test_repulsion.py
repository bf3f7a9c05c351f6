"""The repulsion of nuclei that a run decides by its data."""

import io
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.io import read, write
from rich.console import Console

import eqmol
from eqmol import checkpoint
from eqmol.errors import InputError
from eqmol.graph.contacts import SHORTEST
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from eqmol.models.repulsion import ZBLRepulsion
from eqmol.train.run import run
from tests.train.runs import assert_same, configuration, train, weights

SHORT = ["trainer.max_epochs=1", "model.channels=2", "model.layers=1"]


def model_of(folder: Path, out: str) -> Potential:
    found = checkpoint.load(folder / out / "model.safetensors", dtype=torch.float64)
    assert isinstance(found, Potential)
    return found


def repulsion_of(folder: Path, out: str) -> ZBLRepulsion:
    found = model_of(folder, out).repulsion
    assert found is not None
    return found


def test_it_changes_nothing_but_what_the_data_do_not_have(tmp_path: Path) -> None:
    said = {}
    for name, zbl in (("with", "auto"), ("without", "false")):
        screen = io.StringIO()
        run(configuration(tmp_path, name, f"predictor.zbl={zbl}", *SHORT), Console(file=screen, width=100))
        said[name] = screen.getvalue()
    files = [weights(tmp_path, name) for name in said]
    reach = [files[0].pop(name) for name in list(files[0]) if name.endswith("repulsion.reach")]
    assert_same(*files)
    whole, bare = (model_of(tmp_path, name) for name in said)
    assert whole.recipe["zbl"] == "auto"
    shortest = whole.aux[SHORTEST]
    assert float(reach[0][1, 1]) == pytest.approx(0.9 * float(shortest[1, 1]))
    assert f"C-C ({float(reach[0][1, 1]):.2f} Å)" in said["with"]
    assert "repulsion of nuclei" not in said["without"]
    for factor, added in ((0.9, 0.0), (0.6, 10.0)):
        pair = Atoms("C2", [[0, 0, 0], [0, 0, factor * float(shortest[1, 1])]])
        a, b = (evaluate_graphs(model, [graph_of(model, pair)])[0]["energy"] for model in (whole, bare))
        assert a - b >= added if added else a == b
    with pytest.raises(InputError, match=r"Å apart, while the shortest distance"):  # the guard stays
        eqmol.predict([pair], tmp_path / "with" / "model.safetensors")


@pytest.mark.slow
def test_a_run_from_a_model_keeps_away_from_both_data(tmp_path: Path) -> None:
    train(tmp_path, "first", *SHORT)
    structures = read(tmp_path / "train.xyz", ":")
    for atoms in structures:
        atoms.positions *= 0.95
    write(tmp_path / "closer.xyz", structures)
    closer = f"data.train_file={tmp_path / 'closer.xyz'}"
    train(tmp_path, "second", f"init_from={tmp_path / 'first' / 'model.safetensors'}", closer, *SHORT)
    old, new = (repulsion_of(tmp_path, name).reach for name in ("first", "second"))
    assert float(new[1, 1]) == pytest.approx(0.95 * float(old[1, 1]), rel=1e-4)
    train(tmp_path, "third", f"init_from={tmp_path / 'second' / 'model.safetensors'}", *SHORT)
    assert torch.equal(repulsion_of(tmp_path, "third").reach, new)


@pytest.mark.slow
def test_a_run_from_a_model_without_has_none(tmp_path: Path) -> None:
    train(tmp_path, "first", "predictor.zbl=false", *SHORT)
    train(tmp_path, "second", f"init_from={tmp_path / 'first' / 'model.safetensors'}", *SHORT)
    assert model_of(tmp_path, "second").repulsion is None

"""Relaxed energies of initial structures, with the way to the relaxed positions as an auxiliary task."""

import numpy as np
import pytest
import torch

from eqmol.data.oc20.datamodule import OC20
from eqmol.errors import InputError
from eqmol.graph import collate
from eqmol.models import MACE, Potential
from eqmol.train.objectives import RelaxedObjective
from eqmol.train.task import Task
from tests.data.oc20.files import relaxation, write_s2ef
from tests.train.test_oc20 import train

SYSTEMS = {f"random{i}": relaxation(adsorbate="CO", seed=i, frames=20) for i in range(5)}
TARGETS = {"energy": {"weight": 2.0, "loss": "mae"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oc20")
    write_s2ef(folder / "raw", SYSTEMS)
    options = {"folder": folder / "raw", "prepared": folder / "shards", "required": ("energy",), "held_out": 0}
    found = OC20(cutoff=3.5, kind="is2re", **options)
    found.prepare_data()
    found.setup()
    return found


@pytest.fixture
def batch(data):
    return collate([data.train_graphs[i] for i in range(3)])


def make_task(data, denoise=True, **options) -> Task:
    elements = data.statistics()["elements"]
    torch.manual_seed(0)
    backbone = MACE("cg", "coupled", "o3", 1, 1, 4, 1, 2, 1, 3.5, elements, 10.0, degree_out=1)
    predictor = Potential(backbone, elements, [0.0] * len(elements), 1.0, denoise=denoise)
    objective = RelaxedObjective(TARGETS, torch.optim.Adam, None, **options)
    return Task(predictor, objective, {"label_scales": {"energy": 0.5}})


def test_the_way_leads_to_the_last_positions(data):
    for graph in data.train_graphs:
        library = data.train_graphs.library
        system = library.systems.index(graph.source.split(", ")[1].split()[0])
        last = library.frame(np.flatnonzero(library.system == system)[-1])
        torch.testing.assert_close(graph.pos + graph.displacement, torch.tensor(last.positions), atol=1e-9, rtol=0)
        assert not graph.displacement[graph.fixed].any()


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("interpolate", [0.0, 1.0])
def test_free_atoms_are_displaced_and_the_way_leads_back(data, batch, interpolate, noise):
    trained = make_task(data, displacement_weight=1.0, interpolate=interpolate, noise=noise)
    before, free = batch.pos.clone(), ~batch.fixed
    positions, way = trained.objective._displaced(batch)
    relaxed = batch.pos + batch.displacement
    torch.testing.assert_close((positions + way)[free], relaxed[free])
    assert positions[batch.fixed].equal(before[batch.fixed])
    assert way[batch.fixed].isnan().all()
    step = (positions - before)[free]
    if noise:
        assert step.std() == pytest.approx(noise, rel=0.3)
    elif interpolate:  # every structure by a part of its own
        for i in range(3):
            mine, direction = step[batch.batch[free] == i], batch.displacement[free & (batch.batch == i)]
            part = float((mine * direction).sum() / direction.square().sum())
            assert 0 < part < 1
            torch.testing.assert_close(mine, part * direction)
    else:
        assert not step.any()


def test_the_loss_has_the_mean_error_of_free_atoms(data, batch):
    trained = make_task(data, displacement_weight=3.0, interpolate=0.5, noise=0.1)
    before, edges = batch.pos.clone(), batch.edge_index.clone()
    output = trained(batch)
    assert "forces" not in output
    assert batch.pos.equal(before)
    assert batch.edge_index.equal(edges)
    error = (output["noise"] - output["way"])[~batch.fixed].abs().mean()
    per_atom = ((output["energy"] - batch.energy) / batch.ptr.diff()).abs().mean() / 0.5
    torch.testing.assert_close(trained.loss_of(output, batch, 0.0, False), 2 * per_atom + 3 * error, rtol=1e-10, atol=0)
    assert "noise" not in trained.eval()(batch)


def test_by_default_structures_are_as_they_are(data, batch):
    trained, plain = make_task(data, noise=0.3, interpolate=1.0), make_task(data, denoise=False)
    output = trained(batch)
    assert "way" not in output
    torch.testing.assert_close(output["energy"], plain(batch)["energy"])


def test_structures_without_relaxed_positions_stay(data, batch):
    batch.displacement[batch.batch == 1] = torch.nan
    trained = make_task(data, displacement_weight=1.0, interpolate=1.0, noise=0.3)
    positions, way = trained.objective._displaced(batch)
    assert positions[batch.batch == 1].equal(batch.pos[batch.batch == 1])
    assert way[batch.batch == 1].isnan().all()
    assert torch.isfinite(trained.loss_of(trained(batch), batch, 0.0, False))
    batch.displacement[:] = torch.nan
    assert torch.isfinite(trained.loss_of(trained(batch), batch, 0.0, False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"displacement_weight": -1.0}, "task.displacement_weight=-1.0 must be a number from 0"),
        ({"interpolate": 1.5}, "task.interpolate=1.5 must be a number from 0 to 1"),
        ({"noise": "much"}, "task.noise=much must be a number"),
        ({"displacement_weight": 1.0, "denoise": False}, "set predictor.denoise=true"),
    ],
)
def test_what_cannot_be_is_refused(data, options, message):
    with pytest.raises(InputError, match=message):
        make_task(data, **options)


def test_other_data_are_refused(data, batch):
    del batch.displacement
    with pytest.raises(InputError, match=r"data\.kind=is2re, or displacement_weight=0"):
        make_task(data, displacement_weight=1.0)(batch)


def test_a_run_learns_both(tmp_path):
    write_s2ef(tmp_path / "raw", SYSTEMS)
    options = ["data.kind=is2re", "data.held_out=0", "data.split=systems", "task=is2re", "task.displacement_weight=1"]
    metrics, _ = train(tmp_path, tmp_path / "raw", *options, "predictor.denoise=true", "model.degree_out=1")
    assert np.isfinite(metrics["val"]["energy_mae"])
    assert "forces_mae" not in metrics["val"]

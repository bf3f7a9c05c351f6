"""Compiled tensor products change nothing but speed in whole models."""

import pytest
import torch

from eqmol.train.muon import Muon
from tests.models.systems import graph_of, make_model, structures

pytestmark = pytest.mark.usefixtures("kernels", "float64")
SIZES = {"degree": 1, "filter_degree": 2, "layers": 2}


def trained(mode: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], torch.Tensor]:
    """Losses of some steps on forces, and the forces afterwards."""
    monkeypatch.setenv("EQMOL_KERNELS", mode)
    model, graph = make_model("cg", variant=variant, **SIZES).train(), graph_of(structures()["molecule"])
    optimizer = Muon([{"params": list(model.parameters())}], lr=1e-3)
    losses = []
    for _ in range(10):
        results = model(graph, forces=True)
        loss = (results["forces"] - 0.1).square().mean() + results["energy"].square().mean() * 1e-6
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, model.eval()(graph, forces=True)["forces"].detach()


@pytest.mark.parametrize("variant", ["mace", "equiformer"])
def test_training_is_the_same(variant, monkeypatch):
    losses, forces = trained("require", variant, monkeypatch)
    expected_losses, expected = trained("off", variant, monkeypatch)
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(expected_losses, rel=1e-8)
    torch.testing.assert_close(forces, expected, atol=1e-8, rtol=1e-8)

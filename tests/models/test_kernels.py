"""Compiled tensor products change nothing but speed in whole models, and the laws of physics hold."""

import inspect

import pytest
import torch

from eqmol.train.muon import Muon
from tests.models import test_physics as physics
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
        loss.backward(inputs=list(model.parameters()))
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


LAWS = [
    physics.test_forces_and_virial_are_derivatives,
    physics.test_rotation_translation_permutation,
    physics.test_extensivity_and_isolated_atoms,
    physics.test_smooth_when_the_last_neighbor_leaves,
    physics.test_batches_equal_single_structures,
    physics.test_float32_agrees_with_float64,
    physics.test_force_loss_can_be_trained,
]
SETTING = {"family": "coupled", "backend": "cg", "parity": "o3", "variant": "mace", "options": {}}
SETTING |= {"forces": "conservative", "formula": "COH"}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws_of_physics(law):
    law(**{name: SETTING[name] for name in inspect.signature(law).parameters})

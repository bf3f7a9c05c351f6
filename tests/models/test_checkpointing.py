"""Recomputed activations: the same numbers, also where gradients are differentiated, from less memory."""

import pytest
import torch

from eqmol.graph import collate
from tests.models.systems import FAMILIES, VARIANTS, graph_of, make_model, structures
from tests.models.test_same_function import training_step

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("family", "backend"), FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_changes(family: str, backend: str, variant: str) -> None:
    (stored, gradients), (recomputed, other_gradients) = (
        training_step(make_model(backend, family, variant=variant, checkpointing=flag), "triclinic")
        for flag in (False, True)
    )
    torch.testing.assert_close(recomputed, stored, atol=1e-12, rtol=1e-12, equal_nan=True)
    torch.testing.assert_close(other_gradients, gradients, atol=1e-12, rtol=1e-12)


def test_noise_is_that_of_the_first_evaluation() -> None:
    # a gradient of other noise than the value's would not be the slope
    model = make_model("grid", "gaunt", variant="equiformer", checkpointing=True, drop_path=0.3, alpha_drop=0.3).train()
    graph = graph_of(structures()["molecule"])
    weight = model.backbone.layers[0].attention.down.weight

    def energy(change: float) -> torch.Tensor:
        torch.manual_seed(5)
        weight.data += change
        value = model(graph, forces=False)["energy"].sum()
        weight.data -= change
        return value

    (gradient,) = torch.autograd.grad(energy(0.0), weight)
    slope = (energy(1e-5) - energy(-1e-5)).item() / 2e-5
    assert abs(slope - gradient.sum().item()) < 1e-5 * max(1, abs(slope))


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_less_is_stored_for_the_backward_pass(forces: str) -> None:
    graph = collate([graph_of(structures()["bulk"])] * 4)

    def stored(checkpointing: bool) -> int:
        sizes = {"layers": 6, "checkpointing": checkpointing}
        model = make_model("grid", "gaunt", variant="equiformer", forces=forces, **sizes).train()
        size = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel() * (not isinstance(tensor, torch.nn.Parameter))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(graph)
        return size

    assert stored(True) < 0.6 * stored(False)

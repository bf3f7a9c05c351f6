"""Steps of matrices against singular value decompositions, those of the rest against AdamW, and which is which."""

import pytest
import torch
from torch import nn

from eqmol.models.feedforward import ProductFeedForward, SelfMix
from eqmol.nn import AttentionLogits, ElementEmbedding, LinearReadout, Norm, parameter_groups
from eqmol.train.muon import ADAM_RMS, COEFFICIENTS, STEPS, Muon, orthogonalized
from tests.models.systems import VARIANTS, make_model

#: Own tables of elements, factors of channels and vectors only.
WITHOUT_MATRICES = (AttentionLogits, ElementEmbedding, LinearReadout, Norm, ProductFeedForward, SelfMix)
#: Such parameters of other modules.
NO_MATRICES = ("ends", "sender", "receiver", "power_weight", "last")


def by_singular_values(matrices: torch.Tensor) -> torch.Tensor:
    """The same odd polynomials, of the singular values alone."""
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag_embed(s) @ v


def filled(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 4, 7), (2, 7, 4), (1, 1, 6)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = orthogonalized(matrices)
    torch.testing.assert_close(result, by_singular_values(matrices), rtol=0, atol=1e-10)
    values = torch.linalg.svdvals(result)
    assert 0.3 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_every_parameter_is_in_one_group(variant, forces):
    options = {"pair_radial": True} if variant == "mace" else {}
    model = make_model(variant=variant, forces=forces, **options)
    groups = parameter_groups(model)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(set(grouped)) == len(grouped) == len(list(model.parameters()))
    others = {parameter for group in groups if group["inputs"] is None for parameter in group["params"]}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            assert (parameter in others) == (isinstance(module, WITHOUT_MATRICES) or name in NO_MATRICES), name


@pytest.mark.parametrize("variant", ["mace", "equiformer"])
def test_steps_are_as_defined(variant):
    """Two steps of every matrix one by one, the second with momentum; all other parameters beside AdamW."""
    model, twin = (make_model(variant=variant, seed=3).double() for _ in range(2))
    lr, factor, momentum, decay = 0.01, 3.0, 0.9, 0.1
    groups = parameter_groups(model)
    optimizer = Muon(groups, lr=lr, matrix_factor=factor, momentum=momentum, weight_decay=decay)
    axes = {id(p): group["inputs"] for group in groups for p in group["params"]}
    pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
    rest = torch.optim.AdamW([t for p, t in pairs if axes[id(p)] is None], lr=lr, weight_decay=decay)
    means = {id(p): torch.zeros_like(p) for p in model.parameters()}
    for seed in (0, 1):
        filled(model, seed), filled(twin, seed)
        optimizer.step()
        rest.step()
        for p, t in pairs:
            axis = axes[id(p)]
            if axis is None:
                continue
            means[id(p)] = momentum * means[id(p)] + (1 - momentum) * t.grad
            ahead = (momentum * means[id(p)] + (1 - momentum) * t.grad).movedim(axis, -2)
            a, b = ahead.shape[-2:]
            update = by_singular_values(ahead.reshape(-1, a, b)).view(ahead.shape).movedim(-2, axis)
            with torch.no_grad():
                t -= lr * factor * (decay * t + ADAM_RMS * max(a, b) ** 0.5 * update)
    for p, t in pairs:
        torch.testing.assert_close(p, t, rtol=0, atol=1e-10)


def test_without_a_gradient_matrices_stay():
    """Also where momentum would move them: elements that a batch lacks must not drift."""
    weight = nn.Parameter(torch.ones(2, 3, 3))
    optimizer = Muon([{"params": [weight], "inputs": 1}], lr=0.1)
    weight.grad = torch.eye(3).repeat(2, 1, 1)
    optimizer.step()
    before = weight.detach().clone()
    weight.grad[1] = 0.0
    optimizer.step()
    assert torch.equal(weight[1], before[1])
    assert not torch.equal(weight[0], before[0])


def test_any_parameters_will_do():
    """Without groups every parameter is AdamW's, as for other optimisers."""
    ours, theirs = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    a, b = Muon([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for p, optimizer in ((ours, a), (theirs, b)):
        p.grad = torch.arange(9.0).view(3, 3)
        optimizer.step()
    assert torch.equal(ours, theirs)


def test_state_is_saved_and_loaded():
    model = make_model(forces="direct")
    state = Muon(parameter_groups(filled(model, 0)))
    state.step()
    fresh = Muon(parameter_groups(model))
    fresh.load_state_dict(state.state_dict())
    for p in model.parameters():
        assert all(torch.equal(v, fresh.state[p][k]) for k, v in state.state[p].items())

"""Steps of matrices against singular value decompositions, those of the rest against AdamW, and which is which."""

import copy

import pytest
import torch
from torch import nn

from eqmol.models.feedforward import ProductFeedForward, SelfMix
from eqmol.models.force_head import ForceHead
from eqmol.nn import (
    AttentionLogits,
    ElementEmbedding,
    Gate,
    Linear,
    LinearReadout,
    NonlinearReadout,
    Norm,
    parameter_groups,
)
from eqmol.nn.linear import GroupLinear
from eqmol.nn.radial import PairNetwork, RadialMatrix, RadialNetwork
from eqmol.train.muon import ADAM_RMS, COEFFICIENTS, STEPS, Muon, orthogonalized
from tests.models.systems import VARIANTS, make_model

#: Own tables of elements, factors of channels and vectors only.
WITHOUT_MATRICES = (AttentionLogits, ElementEmbedding, LinearReadout, Norm, ProductFeedForward, SelfMix)
#: Such parameters of other modules.
NO_MATRICES = ("density", "ends", "sender", "receiver", "power_weight", "last")


def by_singular_values(matrices: torch.Tensor) -> torch.Tensor:
    """The same odd polynomials, of the singular values alone."""
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag_embed(s) @ v


#: Modules and their matrices, inputs × outputs.
MATRICES = [
    (Linear(2, 1, 3, 5), {"weight": (3, 5)}),
    (GroupLinear(4, 2, 1, 3, 5), {"weight": (3, 5)}),
    (Gate(2, 3), {"weight": (3, 3)}),
    (NonlinearReadout(3, 5), {"weight": (3, 5)}),
    (RadialNetwork(2, [3, 5], 4, 6, num_elements=7), {"layers.0": (2, 3), "layers.1": (3, 5), "matrix": (5, 6)}),
    (PairNetwork(2, [3, 5], 4), {"first": (2, 3), "layers.0": (3, 5)}),
    (RadialMatrix(2, 3, 4), {"weight": (2, 4)}),
    (ForceHead(3), {"gate": (3, 3), "vector": (3, 3)}),
]


def filled(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 4, 7), (2, 7, 4), (1, 1, 6)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = orthogonalized(matrices, eps=1e-8)
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


@pytest.mark.parametrize(("module", "expected"), MATRICES, ids=[type(module).__name__ for module, _ in MATRICES])
def test_matrices_map_inputs_to_outputs(module, expected):
    axes = {p: group["inputs"] for group in parameter_groups(module) for p in group["params"]}
    matrices = {name: p.movedim(axes[p], -2).shape[-2:] for name, p in module.named_parameters() if axes[p] is not None}
    assert matrices == expected


@pytest.mark.parametrize("variant", ["mace", "equiformer"])
def test_steps_are_as_defined(variant):
    """Two steps of every matrix one by one, the second with momentum; all other parameters beside AdamW."""
    model, twin = (make_model(variant=variant, seed=3).double() for _ in range(2))
    lr, factor, momentum, decay, eps = 0.01, 3.0, 0.9, 0.1, 0.01
    groups = parameter_groups(model)
    optimizer = Muon(groups, lr=lr, matrix_factor=factor, momentum=momentum, eps=eps, weight_decay=decay)
    axes = {id(p): group["inputs"] for group in groups for p in group["params"]}
    pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
    rest = torch.optim.AdamW([t for p, t in pairs if axes[id(p)] is None], lr=lr, eps=eps, weight_decay=decay)
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
            update = by_singular_values(ahead.reshape(-1, a, b)).view(ahead.shape)
            size = torch.linalg.matrix_norm(t.grad.movedim(axis, -2), keepdim=True) / (a * b) ** 0.5
            with torch.no_grad():
                moved = t.movedim(axis, -2)
                moved -= lr * factor * size / (size + eps) * (decay * moved + ADAM_RMS * max(a, b) ** 0.5 * update)
    for p, t in pairs:
        torch.testing.assert_close(p, t, rtol=0, atol=1e-10)


def test_without_a_gradient_matrices_stay():
    """Also where momentum would move them: elements that a batch lacks must not drift."""
    weight = nn.Parameter(torch.ones(2, 3, 3))
    optimizer = Muon([{"params": [weight], "inputs": 1}], lr=0.1, weight_decay=0.1)
    weight.grad = torch.eye(3).repeat(2, 1, 1)
    optimizer.step()
    before = weight.detach().clone()
    weight.grad[1] = 0.0
    optimizer.step()
    assert torch.equal(weight[1], before[1])
    assert not torch.equal(weight[0], before[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-12, 1e-24, 1e-36, 1e-180])
def test_rounding_is_no_direction(size, dtype):
    """Gradients that symmetry makes zero, as those of most degrees in perfect crystals, are rounding of any size."""
    weight = nn.Parameter(torch.zeros(2, 4, 4, dtype=dtype))
    optimizer = Muon([{"params": [weight], "inputs": 1}], lr=0.1)
    for seed in range(20):
        noise = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * size
        weight.grad = torch.stack([torch.eye(4, dtype=torch.float64), noise]).to(dtype)
        optimizer.step()
    assert weight.isfinite().all()
    assert weight[0].abs().max() > 1
    assert weight[1].abs().max() < 1e-2


def test_any_parameters_will_do():
    """Without groups every parameter is AdamW's, as for other optimisers."""
    ours, theirs = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    a, b = Muon([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for p, optimizer in ((ours, a), (theirs, b)):
        p.grad = torch.arange(9.0).view(3, 3)
        optimizer.step()
    assert torch.equal(ours, theirs)


def test_state_is_saved_and_loaded():
    """Another step after a save is the same step."""
    model = make_model(forces="direct")
    optimizer = Muon(parameter_groups(filled(model, 0)))
    optimizer.step()
    twin = copy.deepcopy(model)
    other = Muon(parameter_groups(twin))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, other)):
        filled(m, 1)
        o.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)

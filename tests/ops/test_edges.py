"""Sums over edges chunk by chunk."""

import pytest
import torch

from eqmol.ops import Spec, edges
from eqmol.ops.chunks import Limit
from eqmol.ops.contract import RadialWeight
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from tests.ops.cases import spec_id

pytestmark = pytest.mark.usefixtures("float64")

SPECS = [
    Spec("convolution", "coupled", "so3", *degrees, order_max=order_max)
    for *degrees, order_max in ((0, 2, 3, None), (2, 3, 0, None), (2, 3, 1, None), (2, 4, 2, 1))
]


def derivatives(spec: Spec, *, edges: int = 70) -> list[torch.Tensor]:
    torch.manual_seed(1)
    op, case = create(spec, "escn"), make_case(spec, nodes=5, channels=3, edges=edges)
    leaves = [t.detach().clone().requires_grad_() for t in (*case.features, *case.weights, case.vectors)]
    out = case.evaluate(op, leaves[:1], leaves[1:3], leaves[3])
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    return [out, *first, *torch.autograd.grad(sum(g.sin().sum() for g in first), leaves)]


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_chunks_do_not_change_the_result(spec, monkeypatch):
    whole = derivatives(spec)
    monkeypatch.setattr(edges, "EDGES", Limit(1000, 1000))
    for a, b in zip(whole, derivatives(spec), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_no_edges(spec):
    for part in derivatives(spec, edges=0):
        assert part.isfinite().all()
        assert not part.any()


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (1, 3), (0, 2)], ids=str)
def test_gradients_of_some_inputs_only(spec, needed):
    op, case = create(spec, "escn"), make_case(spec)
    tensors = [t.detach().clone() for t in (*case.features, *case.weights, case.vectors)]

    def derivatives(leaves: tuple[int, ...]) -> list[torch.Tensor]:
        inputs = [t.clone().requires_grad_(i in leaves) for i, t in enumerate(tensors)]
        out = case.evaluate(op, inputs[:1], inputs[1:3], inputs[3])
        wanted = [inputs[i] for i in needed]
        first = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)]

    for some, every in zip(derivatives(needed), derivatives((0, 1, 2, 3)), strict=True):
        torch.testing.assert_close(some, every, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("spec", SPECS[:2], ids=spec_id)
def test_edges_that_send_a_sum(spec, monkeypatch):
    """Of scalar or invariant convolutions; the slow twin gathers and adds first."""
    monkeypatch.setattr(edges, "EDGES", Limit(1000, 1000))
    op, case = create(spec, "escn"), make_case(spec, nodes=5, channels=3, edges=70)
    ends, each = torch.stack((case.senders, (case.receivers + 1) % 5)), torch.arange(70)
    leaves = [t.detach().clone().requires_grad_() for t in (*case.features, *case.weights, case.vectors)]

    def derivatives(gather: bool) -> list[torch.Tensor]:
        x, hidden, matrix, vectors = leaves
        weight, geometry = RadialWeight(hidden, matrix), op.geometry(vectors)
        out = op.message(x[ends].sum(0), geometry, weight) if gather else op(x, geometry, weight, ends, each, 70)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        return [out, *first, *torch.autograd.grad(sum(g.sin().sum() for g in first), leaves)]

    for a, b in zip(derivatives(True), derivatives(False), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)

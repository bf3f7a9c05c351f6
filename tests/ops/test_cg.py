"""Clebsch-Gordan algorithms beyond the contract: chunks, groups, weights per node and third derivatives."""

import pytest
import torch

from eqmol.ops import Spec
from eqmol.ops import dense as reference
from eqmol.ops.cg import CGPower, CGProduct
from eqmol.ops.cg import power as power_module
from eqmol.ops.cg import product as product_module
from eqmol.ops.chunks import Limit
from eqmol.ops.laws import make_case
from eqmol.so3.layout import dim

pytestmark = pytest.mark.usefixtures("float64")

PRODUCT = Spec("product", "coupled", "so3", 2, 1, 2)
POWER = Spec("power", "coupled", "so3", 2, 0, 1, 3)


@pytest.mark.parametrize("elements", [1, 3 * 3 * 25])
@pytest.mark.parametrize(
    ("spec", "op", "module", "limit"),
    [(PRODUCT, CGProduct, product_module, "OUTER_PRODUCTS"), (POWER, CGPower, power_module, "MONOMIALS")],
)
def test_chunks_change_nothing(spec, op, module, limit, elements, monkeypatch):
    """Results and slopes; a product has chunks of one node, or of three and a shorter last one."""
    case = make_case(spec, nodes=70)
    case.group = torch.zeros_like(case.group)
    inputs = [t.requires_grad_() for t in (*case.features, *case.weights)]

    def evaluate():
        result = case.run(op(spec))
        return result, *torch.autograd.grad(result.sin().sum(), inputs)

    whole = evaluate()
    monkeypatch.setattr(module, limit, Limit(elements, elements))
    torch.testing.assert_close(evaluate(), whole, atol=1e-12, rtol=1e-12)


def test_product_with_weights_per_node():
    op = CGProduct(PRODUCT)
    x, y, weight = torch.randn(3, 9, 2), torch.randn(3, 4, 2), torch.randn(3, PRODUCT.num_weights, 2)
    expected = reference.product(PRODUCT, x, y, weight)
    torch.testing.assert_close(op(x, y, weight), expected, atol=1e-12, rtol=0)
    leaves = [t[:2, :, :1].clone().requires_grad_() for t in (x, y, weight)]
    assert torch.autograd.gradcheck(op, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, leaves, fast_mode=True)


@pytest.mark.parametrize("nodes", [0, 1])
def test_product_of_few_nodes(nodes):
    x, y = (torch.randn(nodes, n, 2, requires_grad=True) for n in (9, 4))
    weight = torch.randn(PRODUCT.num_weights, 2, requires_grad=True)
    result, expected = (
        (z, *torch.autograd.grad(z.sum(), (x, y, weight)))
        for z in (CGProduct(PRODUCT)(x, y, weight), reference.product(PRODUCT, x, y, weight.expand(nodes, -1, -1)))
    )
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("group", [[], [2], [1, 0, 1, 1], [2, 2, 0, 1]], ids=str)
def test_power_of_any_groups(group):
    """Empty, absent and mixed groups in any order."""
    x, weight = torch.randn(len(group), 9, 2), torch.randn(3, POWER.num_weights, 2)
    group = torch.tensor(group, dtype=torch.int64)
    expected = reference.power(POWER, x, weight, group) if len(x) else x.new_zeros(0, 4, 2)
    torch.testing.assert_close(CGPower(POWER)(x, weight, group), expected, atol=1e-10, rtol=0)


def test_third_derivatives_of_a_power():
    spec = Spec("power", "coupled", "o3", 1, 0, 1, 3)
    op, group = CGPower(spec), torch.tensor([0, 1, 0])
    leaves = [torch.randn(3, dim(1), 1, requires_grad=True), torch.randn(2, spec.num_weights, 1, requires_grad=True)]

    def slope(x, weight):
        return torch.autograd.grad(op(x, weight, group).square().sum(), (x, weight), create_graph=True)

    assert torch.autograd.gradgradcheck(slope, leaves, fast_mode=True)

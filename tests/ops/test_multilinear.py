"""Multilinear forms against the derivatives that autograd finds."""

import pytest
import torch

from eqmol.ops.multilinear import Polynomial, partials

SUBSCRIPTS = ("ni", "nj", "ij", "nj")


class Bilinear:
    """Σ x_ni y_nj w_ij g_nj."""

    def partials(self, slots, arguments):
        assert not torch.is_grad_enabled()
        return [self.partial(slot, arguments) for slot in slots]

    @staticmethod
    def partial(slot, arguments):
        others = [k for k in range(4) if k != slot]
        subscripts = ",".join(SUBSCRIPTS[k] for k in others) + "->" + SUBSCRIPTS[slot]
        return torch.einsum(subscripts, *(arguments[k] for k in others))


def arguments():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (3, 4), (2, 4)]
    return [torch.randn(s, dtype=torch.float64, generator=generator, requires_grad=True) for s in shapes]


def evaluate(x, y, w):
    (value,) = partials(Bilinear(), [3], [x, y, w, None])
    return value


def test_value_and_derivatives_of_three_orders():
    assert torch.equal(evaluate(*arguments()), Bilinear.partial(3, [*arguments(), None]))
    assert torch.autograd.gradcheck(evaluate, arguments())
    assert torch.autograd.gradgradcheck(evaluate, arguments())

    def slope(x, y, w):
        return torch.autograd.grad(evaluate(x, y, w).square().sum(), (x, y), create_graph=True)

    assert torch.autograd.gradgradcheck(slope, arguments())


def test_functional_transform():
    x, y, w = arguments()
    found = torch.func.grad(lambda x: evaluate(x, y, w).square().sum())(x)
    (expected,) = torch.autograd.grad(Bilinear.partial(3, [x, y, w, None]).square().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("leaf", [False, True])
def test_nothing_is_computed_that_is_not_asked_for(leaf, monkeypatch):
    """Though it has a gradient."""
    asked, original = [], Bilinear.partials
    monkeypatch.setattr(Bilinear, "partials", lambda *args: (asked.append(list(args[1])), original(*args))[1])
    x, y, w = arguments()
    out = evaluate(x * 1, y * 1, w if leaf else w * 1)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    assert asked == [[3], [0]]
    slope.square().sum().backward()
    assert asked[2:] == [[1, 2]]
    assert w.grad is not None


def test_nothing_is_computed_for_constant_arguments():
    x, y, w = arguments()
    y.requires_grad_(False)
    evaluate(x, y, w).sum().backward()
    assert y.grad is None
    assert x.grad is not None


class Cubic(Polynomial):
    """Σ_n x_n³ y_n, differentiated along tangents of x."""

    def partials(self, slots, arguments):
        x, y, *tangents = arguments
        return [self.partial(slot, x, y, tangents) for slot in slots]

    @staticmethod
    def partial(slot, x, y, tangents):
        factors = [t for i, t in enumerate(tangents, 2) if i != slot] + ([y] if slot != 1 else [])
        times = len(tangents) + (slot == 0)
        power = (x**3, 3 * x**2, 6 * x, 6 + 0 * x, 0 * x)[min(times, 4)]
        for factor in factors:
            power = power * factor
        return power


def test_polynomial_of_one_argument():
    x, y = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def cubic(x, y):
        return partials(Cubic(), [1], [x, y])[0] + 0 * y

    torch.testing.assert_close(cubic(x, y), x**3)

    def slope(x):
        return torch.autograd.grad(partials(Cubic(), [1], [x, y])[0] @ y, x, create_graph=True)[0]

    torch.testing.assert_close(slope(x), 3 * x**2 * y)
    assert torch.autograd.gradcheck(slope, [x])
    assert torch.autograd.gradgradcheck(slope, [x])

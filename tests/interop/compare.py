"""Values, derivatives and derivatives of derivatives of two functions, side by side."""

from collections.abc import Callable

import torch
from torch import Tensor


def assert_same(
    new: Callable[..., Tensor], old: Callable[..., Tensor], *inputs: Tensor, tolerance: float = 1e-10
) -> None:
    """To ``tolerance`` of the largest value of each tensor; inputs that require gradients are differentiated by, twice."""
    for own, expected in zip(derivatives(new, inputs), derivatives(old, inputs), strict=True):
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(own, expected, atol=tolerance * max(scale, 1e-300), rtol=0)


def derivatives(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    wanted = [i for i in inputs if i.requires_grad]
    value = function(*inputs)
    first = torch.autograd.grad(value.square().sum(), wanted, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(sum(f.square().sum() for f in first), wanted, materialize_grads=True)
    return [value.detach(), *(f.detach() for f in first), *second]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)

"""SiLU, twice differentiable at little cost, and the constants that restore unit second moments.

Training on forces differentiates the activation twice. Torch's own second derivative is a dozen elementwise operations;
here it is a handful.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

#: Inverse roots of the second moments of SiLU and the sigmoid under a standard normal distribution; what follows the activation
#: carries the factor.
SILU_GAIN = 1.6765324703310915
SIGMOID_GAIN = 1.8462285453386058


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)), any shape."""
    return _SiLU.apply(x)


class _SiLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.nn.functional.silu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _SiLUGradient.apply(grad, x)


class _SiLUGradient(torch.autograd.Function):
    """grad · silu'(x)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, x: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(grad, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        grad, x = ctx.saved_tensors
        by_grad = _SiLUGradient.apply(grad_grad, x) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return by_grad, None
        # silu'' = σ (1 - σ) (2 + x (1 - 2 σ))
        s = torch.sigmoid(x)
        second = torch.addcmul(s, s, s, value=-1) * torch.addcmul(x + 2, x, s, value=-2)
        return by_grad, second * grad * grad_grad


#: ``inspect.signature`` takes longer than a small operation, and torch asks for it at every call.
_SiLU.forward.__signature__ = inspect.signature(_SiLU.forward)  # type: ignore[attr-defined]
_SiLUGradient.forward.__signature__ = inspect.signature(_SiLUGradient.forward)  # type: ignore[attr-defined]

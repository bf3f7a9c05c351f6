"""One small matrix per edge times its features, and the products that are its derivatives.

The same as ``torch.bmm``, which on the CPU has a slow path for the smallest matrices and another for wide outer products.

Shapes: E edges, C channels.
"""

from typing import Any

import torch
from torch import Tensor

#: Below this many multiplications per edge ``torch.bmm`` uses a plain loop on the CPU instead of the matrix library.
BMM_LOOP = 400


def rotate(matrix: Tensor, features: Tensor) -> Tensor:
    """Product of matrix [E, a, b] and features [E, b, C]: [E, a, C]."""
    return Rotate.apply(matrix, features)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Sum over channels of left [E, a, C] times right [E, b, C]: [E, a, b]."""
    return Outer.apply(left, right)


class Rotate(torch.autograd.Function):
    """See :func:`rotate`."""

    @staticmethod
    def forward(matrix: Tensor, features: Tensor) -> Tensor:
        _, rows, columns = matrix.shape
        if features.device.type != "cpu" or rows * columns * features.shape[-1] >= BMM_LOOP:
            return torch.bmm(matrix, features)
        result = matrix[:, :, :1] * features[:, :1]
        for i in range(1, columns):
            result.addcmul_(matrix[:, :, i : i + 1], features[:, i : i + 1])
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        matrix, features = ctx.saved_tensors
        return (
            outer(grad, features) if ctx.needs_input_grad[0] else None,
            rotate(matrix.mT, grad) if ctx.needs_input_grad[1] else None,
        )


class Outer(torch.autograd.Function):
    """See :func:`outer`."""

    @staticmethod
    def forward(left: Tensor, right: Tensor) -> Tensor:
        # the matrix library prefers few columns
        if left.shape[1] < right.shape[1]:
            return torch.bmm(right, left.mT).mT
        return torch.bmm(left, right.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        return (
            rotate(grad, right) if ctx.needs_input_grad[0] else None,
            rotate(grad.mT, left) if ctx.needs_input_grad[1] else None,
        )

"""Differentiation of multilinear forms by the form itself.

A form F(a_1, ..., a_n) is a number, linear in every argument; a tensor product is its derivative with respect to the cotangent
of the result. All derivatives of such a product, of any order, are derivatives of the same form with other tensors in its
places, so an algorithm writes one function, which need not record its intermediates, and is differentiable any number of times.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Form(Protocol):
    """A number that is linear in every one of its tensor arguments; constants and indices are attributes."""

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> Sequence[Tensor]:
        """Derivatives with respect to ``arguments[slot]`` for every slot, given all the others.

        Each has the shape and dtype of its argument; ``arguments[slot]`` may be None where only its own derivative is asked for.
        Called without gradient recording.
        """


def partials(form: Form, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """``form.partials(slots, arguments)``, differentiable any number of times with respect to the arguments."""
    return _Partials.apply(form, tuple(slots), *arguments)


class _Partials(torch.autograd.Function):
    @staticmethod
    def forward(form: Form, slots: tuple[int, ...], *arguments: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(form.partials(slots, arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.form, ctx.slots, *arguments = inputs
        ctx.save_for_backward(*arguments)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
        # the outputs against their cotangents h_i are the sum over i of F with h_i in place of argument i
        total: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        for slot, gradient in zip(ctx.slots, gradients, strict=True):
            wanted = [j for j in range(len(total)) if j != slot and ctx.needs_input_grad[2 + j]]
            if gradient is None or not wanted:
                continue
            arguments = list(ctx.saved_tensors)
            arguments[slot] = gradient
            for j, value in zip(wanted, partials(ctx.form, wanted, arguments), strict=True):
                earlier = total[j]
                total[j] = value if earlier is None else earlier + value
        return None, None, *total

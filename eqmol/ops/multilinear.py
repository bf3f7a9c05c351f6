"""Differentiation of multilinear forms by the form itself.

A form F(a_1, ..., a_n) is a number, linear in every argument; a tensor product is its derivative with respect to the cotangent
of the result. All derivatives of such a product, of any order, are derivatives of the same form with other tensors in its
places, so an algorithm writes one function, which need not record its intermediates, and is differentiable any number of times.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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


class Polynomial(ABC):
    """A number that is a polynomial of argument 0 and linear in every other.

    Arguments after its own are tangents of argument 0, along which it is differentiated: then it is linear in them too.
    """

    @abstractmethod
    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> Sequence[Tensor]:
        """As :meth:`Form.partials`, for any number of appended tangents; the derivative for slot 0 depends on argument 0."""


class JointForm(ABC):
    """A form that differentiates a sum of itself, each term with another argument exchanged, in one sweep."""

    @abstractmethod
    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> Sequence[Tensor]:
        """As :meth:`Form.partials`."""

    @abstractmethod
    def joint_partials(
        self, slots: Sequence[int], arguments: Sequence[Tensor | None], exchanged: Mapping[int, Tensor]
    ) -> Sequence[Tensor] | None:
        """Derivatives of Σ_i F(..., exchanged[i] in place of argument i, ...) with respect to ``arguments[slot]`` for every slot;
        None where they must be computed one by one.
        """


def partials(
    form: Form | Polynomial | JointForm, slots: Sequence[int], arguments: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """``form.partials(slots, arguments)``, differentiable any number of times with respect to the arguments."""
    # before they are saved: forms take them side by side, and copies would be made in every evaluation
    return _Partials.apply(form, tuple(slots), *(a if a is None else a.contiguous() for a in arguments))


class _Partials(torch.autograd.Function):
    @staticmethod
    def forward(
        form: Form | Polynomial | JointForm, slots: tuple[int, ...], *arguments: Tensor | None
    ) -> tuple[Tensor, ...]:
        return tuple(form.partials(slots, arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.form, ctx.slots, *arguments = inputs
        ctx.save_for_backward(*arguments)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
        # the outputs against their cotangents h_i are the sum over i of F with h_i in place of argument i, or, where F is a
        # polynomial of it, of F differentiated along h_i
        total: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        needed = _needed(ctx)
        exchanged = {slot: g for slot, g in zip(ctx.slots, gradients, strict=True) if g is not None}
        if isinstance(ctx.form, JointForm) and len(exchanged) > 1 and not torch.is_grad_enabled():
            wanted = [j for j in range(len(total)) if needed[j]]
            joint = ctx.form.joint_partials(wanted, ctx.saved_tensors, exchanged)
            if joint is not None:
                for j, value in zip(wanted, joint, strict=True):
                    total[j] = value
                return None, None, *total
        for slot, gradient in zip(ctx.slots, gradients, strict=True):
            along = slot == 0 and isinstance(ctx.form, Polynomial)
            wanted = [j for j in range(len(total)) if (along or j != slot) and needed[j]]
            if gradient is None or not wanted:
                continue
            arguments = list(ctx.saved_tensors)
            if along:
                arguments.append(gradient)
            else:
                arguments[slot] = gradient
            for j, value in zip(wanted, partials(ctx.form, wanted, arguments), strict=True):
                earlier = total[j]
                total[j] = value if earlier is None else earlier + value
        return None, None, *total


#: ``inspect.signature`` takes longer than a small form, and torch asks for it at every call.
_Partials.forward.__signature__ = inspect.signature(_Partials.forward)  # type: ignore[attr-defined]


def _needed(ctx: Any) -> list[bool]:
    """Which arguments' derivatives are asked for: forces need none by weights, though these have gradients, too."""
    functions = iter(getattr(ctx, "next_functions", ()))
    nodes = [None if argument is None else next(functions, (None,))[0] for argument in ctx.saved_tensors]
    return [
        needs and (node is None or _runs(node)) for needs, node in zip(ctx.needs_input_grad[2:], nodes, strict=True)
    ]


def _runs(node: Any) -> bool:
    """Whether the engine will go on to a node; where it does not say, as of leaves, it may."""
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        return True

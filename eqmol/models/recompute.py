"""Layers that keep their inputs alone and evaluate themselves again wherever a derivative is taken.

Training on forces differentiates a gradient. Usual activation checkpointing then stores everything after all: what the first
backward pass recomputes, the second needs. Here the vector-Jacobian product of a recomputed function is itself a recomputed
function, to any order.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

Function = Callable[..., tuple[Tensor, ...]]


def recompute(layer: nn.Module, *arguments: Any) -> Tensor:
    """``layer(*arguments)`` with nothing but the arguments kept for derivatives.

    Args:
        layer: returns one tensor. Its random numbers follow a seed drawn here.
        arguments: tensors, in nested tuples, lists and dictionaries if need be.
    """
    leaves, structure = tree_flatten(arguments)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [leaves[i] for i in places]
    seed = int(torch.randint(2**62, ())) if layer.training else 0
    devices = [t.device for t in tensors[:1] if t.device.type == "cuda"]

    def run(*values: Tensor) -> tuple[Tensor]:
        filled = list(leaves)
        for place, value in zip(places, values, strict=False):
            filled[place] = value
        with torch.random.fork_rng(devices, enabled=layer.training):
            if layer.training:
                torch.manual_seed(seed)
            return (layer(*tree_unflatten(filled, structure)),)

    # the parameters are arguments too, as far as derivatives are concerned
    (result,) = _Recompute.apply(run, *tensors, *layer.parameters())
    return result


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return tuple(output.detach() for output in function(*inputs))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs, function = ctx.saved_tensors, ctx.function
        size = len(inputs)
        wanted = [i for i in range(size) if ctx.needs_input_grad[1 + i]]

        def product(*values: Tensor) -> tuple[Tensor, ...]:
            """Cotangents times Jacobian, for the wanted inputs."""
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                values = tuple(_separate(value, again) for value in values)
                outputs = function(*values[:size])
                sources = [values[i] for i in wanted]
                return torch.autograd.grad(outputs, sources, values[size:], create_graph=again, materialize_grads=True)

        gradients: list[Tensor | None] = [None] * size
        for i, gradient in zip(wanted, _Recompute.apply(product, *inputs, *cotangents), strict=True):
            gradients[i] = gradient
        return None, *gradients


def _separate(value: Tensor, connected: bool) -> Tensor:
    """The same values without the history that other arguments may share; ``connected``: as a function of the old ones."""
    if not value.requires_grad or isinstance(value, nn.Parameter):
        return value
    return value.view_as(value) if connected else value.detach().requires_grad_()

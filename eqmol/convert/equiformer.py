"""How Equiformer grows: in family and parity. Nothing else keeps its shape but the weights of its products."""

from collections.abc import Iterator

import torch
from torch import nn

from eqmol.convert.parts import put_weights
from eqmol.convert.weights import weight_map
from eqmol.errors import InputError
from eqmol.models.attention import GraphAttention
from eqmol.models.equiformer import EdgeDegreeEmbedding
from eqmol.models.feedforward import ProductFeedForward, SelfMix
from eqmol.models.mixing import MixingLayer
from eqmol.nn import Linear
from eqmol.ops.spec import Spec


def equiformer_specs(model: nn.Module) -> dict[str, Spec]:
    """Every product of an Equiformer, by the name of its weights."""
    return {name: spec for name, spec, _ in _products(model)}


def fill_equiformer(old: nn.Module, new: nn.Module) -> None:
    """Put the parameters of an old Equiformer into one of a larger family or parity."""
    parameters = dict(new.named_parameters())
    before = dict(old.named_parameters())
    for name in parameters.keys() - equiformer_specs(old).keys():
        parameters[name].copy_(before[name])
    for (name, old_spec, _), (_, new_spec, following) in zip(_products(old), _products(new), strict=True):
        found = weight_map(old_spec, new_spec)
        new_weight, old_weight = parameters[name].data, before[name].data
        if new_weight.dim() == 2:  # of a product, without radial features
            new_weight, old_weight = new_weight.unsqueeze(0), old_weight.unsqueeze(0)
        if new_spec.operation == "mixing":  # channels in come first
            new_weight, old_weight = new_weight.transpose(0, 1), old_weight.transpose(0, 1)
        put_weights(new_weight, old_weight, found.matrix, found.feeds)
        if following is not None:
            inputs = old_weight.shape[2]  # the result of the product is the last part of what the linear map sees
            following.weight[: len(found.scale), -inputs:] *= found.scale.to(following.weight)[:, None, None]
        elif not torch.allclose(found.scale, torch.ones_like(found.scale), rtol=1e-12):
            raise InputError(
                f"{name} is followed by a gate, which cannot take up the other constants of parity={new_spec.parity} in the "
                f"gaunt family; give family=coupled as well"
            )


def _products(model: nn.Module) -> Iterator[tuple[str, Spec, Linear | None]]:
    """Name of the weights, spec, and the linear map that follows, of every product."""
    for name, part in model.named_modules():
        if isinstance(part, EdgeDegreeEmbedding):
            yield f"{name}.matrix.weight", part.convolution.spec, None
        elif isinstance(part, GraphAttention):
            yield f"{name}.alpha_matrix.weight", part.invariants.spec, None
            if part.inner is not None:
                yield f"{name}.inner_matrix.weight", part.inner.spec, None
            yield f"{name}.matrix.weight", part.convolution.spec, part.down
        elif isinstance(part, MixingLayer):
            yield f"{name}.weight", part.mixing.spec, None
        elif isinstance(part, SelfMix | ProductFeedForward):
            yield f"{name}.weight", part.product.spec, part.down

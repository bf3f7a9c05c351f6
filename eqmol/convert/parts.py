"""Putting the parameters of a part into a larger part, such that old inputs give old outputs.

Shapes: W own weights of a spec, H hidden radial features, C channels.
"""

import math

import torch
from torch import Tensor, nn

from eqmol.nn import GroupLinear, Linear, RadialNetwork


def put_matrix(new: Tensor, old: Tensor) -> None:
    """Put a map [in, out], or a stack of them, into a larger one: new inputs do not reach old outputs."""
    size_in, size_out = old.shape[-2:]
    new[..., :size_out] = 0
    new[..., :size_in, :size_out] = old * math.sqrt(new.shape[-2] / size_in)


def put_linear(new: nn.Module, old: nn.Module, closed: bool = False) -> None:
    """Put a linear map per degree into a larger one.

    Args:
        new, old: both :class:`Linear`, or both :class:`GroupLinear`.
        closed: new degrees do not reach old outputs either.
    """
    assert isinstance(new, Linear | GroupLinear)
    assert isinstance(old, Linear | GroupLinear)
    degrees, outputs = old.weight.shape[-3], old.weight.shape[-1]
    put_matrix(new.weight[..., :degrees, :, :], old.weight)
    if closed:
        new.weight[..., degrees:, :, :outputs] = 0


def put_radial(new: RadialNetwork, old: RadialNetwork, matrix: Tensor, feeds: Tensor) -> None:
    """Put a radial network into a larger one; ``matrix`` and ``feeds`` as :func:`put_weights` takes them."""
    for after, before in zip(new.layers, old.layers, strict=True):
        put_matrix(after, before)
    if old.ends is not None:
        assert new.ends is not None
        new.ends[..., : old.ends.shape[-1]] = old.ends
    hidden = old.matrix.shape[0]
    scale = math.sqrt(new.matrix.shape[0] / hidden)
    new.matrix[hidden:, feeds, : old.matrix.shape[2]] = 0
    put_weights(new.matrix[:hidden], old.matrix, matrix * scale, feeds)


def put_weights(new: Tensor, old: Tensor, matrix: Tensor, feeds: Tensor) -> None:
    """Put the weights [H, W, C] of a product into those of a larger one.

    Args:
        new, old: weights.
        matrix: [W old, W new], old weights -> new weights of the same function.
        feeds: [W new] whether a new weight reaches what the old product computes; the others stay as they are.
    """
    mapped = torch.einsum("hwc,wv->hvc", old, matrix.to(old))
    new[:, feeds, : old.shape[2]] = mapped[:, feeds]

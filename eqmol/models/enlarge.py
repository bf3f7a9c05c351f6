"""Enlarging a model without changing what it computes: fewer to more channels, degrees, orders, paths.

The new model starts with random parameters; those that would change the old function are set to zero, and the old ones are put
in their places, rescaled where the model divides by the square root of a fan-in or of a number of paths. Of every pair of maps
that new features pass, the first stays random and the second is zero, so that gradients reach both.

Another model joins by an entry in :data:`GROWTHS`.

Shapes: W own weights of a spec, H hidden radial features, C channels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.models.mace import MACE, MACELayer
from eqmol.models.potential import Potential
from eqmol.models.weight_map import weight_map
from eqmol.nn import GroupLinear, Linear, LinearReadout, NonlinearReadout, RadialNetwork
from eqmol.ops.spec import Spec


class Growth(NamedTuple):
    """How models of one class grow.

    Attributes:
        sizes: arguments of the constructor that may become larger.
        specs: a name for each product of a model, and its function.
        fill: puts the parameters of an old backbone into a new, larger one.
    """

    sizes: tuple[str, ...]
    specs: Callable[[nn.Module], dict[str, Spec]]
    fill: Callable[[nn.Module, nn.Module], None]


@torch.no_grad()
def enlarge(old: Potential, new: Potential) -> None:
    """Make ``new``, which has random parameters, compute what ``old`` computes.

    Raises:
        InputError: the functions of ``new`` do not contain that of ``old``, saying how many weights are missing; or a part of the
            model for which no way to grow is known.
    """
    GROWTHS[type(old.backbone)].fill(old.backbone, new.backbone)
    for (name, before), after in zip(old.named_children(), new.children(), strict=True):
        if name != "backbone":
            _fill_part(before, after)


def _fill_part(old: nn.Module, new: nn.Module) -> None:
    """What reads the scalars of a backbone: new channels enter through zeros."""
    if isinstance(old, nn.ModuleList):
        for before, after in zip(old, new.children(), strict=True):
            _fill_part(before, after)
    elif isinstance(old, NonlinearReadout) and isinstance(new, NonlinearReadout):
        put_matrix(new.weight, old.weight)
        _fill_part(old.last, new.last)
    elif isinstance(old, LinearReadout) and isinstance(new, LinearReadout):
        put_matrix(new.weight.unsqueeze(-1), old.weight.unsqueeze(-1))
    elif any(True for _ in old.parameters()):
        raise InputError(f"a model with a {type(old).__name__} cannot be enlarged yet")
    else:
        new.load_state_dict(old.state_dict())


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


def _mace_specs(model: nn.Module) -> dict[str, Spec]:
    assert isinstance(model, MACE)
    specs = {}
    for number, layer in enumerate(model.layers, start=1):
        assert isinstance(layer, MACELayer)
        specs[f"convolution of layer {number}"] = layer.convolution.spec
        specs[f"power of layer {number}"] = layer.power.spec
    return specs


def _fill_mace(old: nn.Module, new: nn.Module) -> None:
    assert isinstance(old, MACE)
    assert isinstance(new, MACE)
    put_matrix(new.embedding.weight.unsqueeze(1), old.embedding.weight.unsqueeze(1))
    for before, after in zip(old.layers, new.layers, strict=True):
        assert isinstance(before, MACELayer)
        assert isinstance(after, MACELayer)
        _fill_mace_layer(before, after)


def _fill_mace_layer(old: MACELayer, new: MACELayer) -> None:
    """New degrees of the features are made (``down``, ``residual``) and enter old channels through zeros (``up``)."""
    convolution = weight_map(old.convolution.spec, new.convolution.spec)
    power = weight_map(old.power.spec, new.power.spec)
    # the weights of a gaunt power belong to all degrees of the field at once, and cannot keep new ones out
    shared = new.power.spec.family == "gaunt"
    if shared:
        _check_new_degrees_learn(old, new)
    put_linear(new.up, old.up, closed=True)
    put_radial(new.radial, old.radial, convolution.matrix, convolution.feeds)
    put_linear(new.mix, old.mix, closed=shared)
    fields = old.mix.weight.shape[2]
    new.mix.weight[: len(convolution.scale), :, :fields] *= convolution.scale.to(new.mix.weight)[:, None, None]
    put_weights(new.power_weight, old.power_weight, power.matrix, power.feeds)
    put_linear(new.down, old.down)
    put_linear(new.residual, old.residual)


def _check_new_degrees_learn(old: MACELayer, new: MACELayer) -> None:
    """A field that enters scalars only squared, and is zero, stays zero: its gradient is."""
    degree, larger, order = old.power.spec.degree_in, new.power.spec.degree_in, new.power.spec.order
    reach = (order - 1) * degree
    if order > 1 and larger > max(degree, reach) and new.power_weight.shape[2] == old.power_weight.shape[2]:
        raise InputError(
            f"filter_degree={larger} cannot be learned by the old fields of a gaunt model of correlation {order} and "
            f"filter_degree {degree}, whose powers see new degrees above {reach} only squared; add a field (fields=) or "
            f"channels at the same time, or give family=coupled"
        )


#: Class of the backbone -> how it grows.
GROWTHS: dict[type[nn.Module], Growth] = {
    MACE: Growth(("degree", "filter_degree", "channels", "correlation", "fields"), _mace_specs, _fill_mace)
}

"""How MACE grows: in family, parity, degrees, channels, fields and order of the powers."""

from torch import nn

from eqmol.convert.parts import put_linear, put_matrix, put_radial, put_weights
from eqmol.convert.weights import weight_map
from eqmol.errors import InputError
from eqmol.models.mace import MACE, MACELayer
from eqmol.models.mixing import MixingSum
from eqmol.ops.spec import Spec

SIZES = ("degree", "filter_degree", "channels", "correlation", "fields", "widen")


def mace_specs(model: nn.Module) -> dict[str, Spec]:
    """Every product of a MACE."""
    assert isinstance(model, MACE)
    specs = {}
    for number, layer in enumerate(model.layers, start=1):
        assert isinstance(layer, MACELayer)
        specs[f"convolution of layer {number}"] = layer.convolution.spec
        specs[f"power of layer {number}"] = layer.power.spec
    return specs


def fill_mace(old: nn.Module, new: nn.Module) -> None:
    """Put the parameters of an old MACE into a larger one."""
    assert isinstance(old, MACE)
    assert isinstance(new, MACE)
    if any(isinstance(part, MixingSum) for part in old.modules()):
        raise InputError("a MACE with messages=so2 cannot be enlarged yet")
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
    _put_mix(new, old, shared)
    fields = old.mix.weight.shape[-1]
    new.mix.weight[..., : len(convolution.scale), :, :fields] *= convolution.scale.to(new.mix.weight)[:, None, None]
    put_weights(new.power_weight, old.power_weight, power.matrix, power.feeds)
    put_linear(new.down, old.down)
    if old.residual is not None and new.residual is not None:
        put_linear(new.residual, old.residual)
    if old.density is not None and new.density is not None:
        new.density.copy_(old.density)


def _put_mix(new: MACELayer, old: MACELayer, closed: bool) -> None:
    """Blocks of separate paths lie side by side, each with channels of its own."""
    blocks = old.convolution.spec.num_blocks
    if blocks == 1:
        put_linear(new.mix, old.mix, closed=closed)
        return
    if new.convolution.spec != old.convolution.spec:
        raise InputError("a model with widen=paths grows in channels, fields and order only; train a new model instead")
    parts = (layer.mix.weight.chunk(blocks, dim=-2) for layer in (new, old))
    for after, before in zip(*parts, strict=True):
        put_matrix(after, before)


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

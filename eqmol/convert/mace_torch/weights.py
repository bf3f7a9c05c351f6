"""The weights of a model of mace-torch as those of eqmol.

The map of every weight, C channels, Z elements, P_l paths into degree l, H hidden radial features. Both scale a linear map by
1/√fan-in, so only what differs is named:

- embedding and maps by element: /√Z; radial basis: √3/r_c^1.5; what follows SiLU: their measured constant over ours;
- path weights: × (-1)^l2, since vectors point the other way; the k-th path into a degree is alone in the k-th block of channels;
- symmetric contraction: its polynomials, which the file holds, in the basis of :mod:`eqmol.so3.symmetric`, by least squares;
- layers with a residual return (a + b)/√2 here and a + b there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.convert.mace_torch.parts import Part
from eqmol.convert.mace_torch.recipe import ROUNDING, Array, radial_layers
from eqmol.errors import InputError
from eqmol.models import Potential
from eqmol.models.mace import MACELayer
from eqmol.nn import BesselBasis, LinearReadout, NonlinearReadout
from eqmol.nn.activation import SILU_GAIN
from eqmol.ops.spec import PowerPath, Spec
from eqmol.so3.layout import dim
from eqmol.so3.symmetric import couplings, monomials


def put(parameter: Tensor, values: Array) -> None:
    """Fill a parameter.

    Raises:
        InputError: values of another shape.
    """
    if parameter.shape != values.shape:
        raise InputError(f"a weight has the shape {list(values.shape)} and should have {list(parameter.shape)}")
    parameter.copy_(torch.from_numpy(values))


def fill_layer(
    layer: MACELayer, interaction: Part, product: Part, elements: int, channels: int, basis: BesselBasis
) -> None:
    spec, power = layer.convolution.spec, layer.power.spec
    blocks, count = spec.num_blocks, np.bincount(spec.path_degrees)
    degree_in, degree, degree_out = spec.degree_in, spec.degree_out, power.degree_out
    root2 = math.sqrt(2) if layer.residual is not None else 1.0

    put(layer.up.weight, interaction.part("linear_up").array("weight", degree_in + 1, channels, channels))
    _fill_radial(layer, interaction, spec, channels, basis)

    # rows of the paths into each degree, one after another
    rows = iter(
        np.split(interaction.part("linear").array("weight", spec.num_paths, channels, channels), np.cumsum(count)[:-1])
    )
    mix = np.zeros((degree + 1, blocks, channels, channels))
    for l3, into in enumerate(rows):
        mix[l3, : count[l3]] = into / math.sqrt(count[l3] * channels)
    wide = mix.reshape(degree + 1, blocks * channels, channels) * math.sqrt(blocks * channels)
    if layer.density is None:
        neighbors = interaction.number("avg_num_neighbors")
        if not neighbors > 0:
            raise InputError(f"{interaction.name}.avg_num_neighbors is {neighbors:g}")
        wide /= neighbors * layer.message_scale
    else:
        density = interaction.part("density_fn.layer0").array("weight", len(layer.density))
        put(layer.density, density * basis_scale(basis))
    skip = interaction.part("skip_tp")
    if layer.residual is None:
        by_element = skip.array("weight", degree + 1, channels, elements, channels) / math.sqrt(channels * elements)
        put(layer.mix.weight, np.einsum("lic,lczo->zlio", wide, by_element))
    else:
        put(layer.mix.weight, wide)
        residual = skip.array("weight", min(degree_in, degree_out) + 1, channels, elements, channels)
        put(layer.residual.weight, residual.transpose(2, 0, 1, 3) * (root2 / math.sqrt(elements)))
    _fill_power(layer, product, elements, channels)
    down = product.part("linear").array("weight", degree_out + 1, channels, channels)
    put(layer.down.weight, down * root2)


def _fill_radial(layer: MACELayer, interaction: Part, spec: Spec, channels: int, basis: BesselBasis) -> None:
    *hidden, last = radial_layers(interaction)
    activations = [interaction.part(f"conv_tp_weights.layer{number}.act") for number in range(len(hidden))]
    for number, (parameter, matrix) in enumerate(zip(layer.radial.layers, hidden, strict=True)):
        put(parameter, matrix * (basis_scale(basis)[:, None] if number == 0 else gain_of(activations[number - 1])))
    if last.size != len(last) * spec.num_paths * channels:
        raise InputError(f"{interaction.name}.conv_tp_weights makes {last.shape[1]} weights for {spec.num_paths} paths")
    paths = last.reshape(len(last), spec.num_paths, channels) * gain_of(activations[-1])
    matrix = np.zeros_like(paths)
    for q, (path, constant) in enumerate(path_order(spec)):
        matrix[:, path] = paths[:, q] * constant
    put(layer.radial.matrix, matrix)


def path_order(spec: Spec) -> list[tuple[int, float]]:
    """Paths in the order of mace-torch, by degree and not by block, and what its weights of each are multiplied by here."""
    order = sorted(range(spec.num_paths), key=lambda path: (spec.path_degrees[path], spec.path_blocks[path]))
    constants = []
    for path in order:
        _, l2, l3 = spec.pair_paths[path]
        constants.append((-1) ** l2 * math.sqrt(2 * l3 + 1) / float(spec.path_normalization[path]))
    return list(zip(order, constants, strict=True))


def basis_scale(basis: BesselBasis) -> Array:
    """mace-torch's radial functions over ours, [B]."""
    return math.sqrt(2) / basis.cutoff**1.5 / basis.amplitudes(torch.float64).numpy()


def gain_of(act: Part) -> float:
    """Constant of a normalised SiLU over ours."""
    if act.kind != "normalize2mom" or act.value("f") != "silu":
        raise InputError(f"the model's {act.name} is no SiLU")
    return act.number("cst") / SILU_GAIN


def _fill_power(layer: MACELayer, product: Part, elements: int, channels: int) -> None:
    """Weights of the polynomials in the file as those of ours."""
    spec = layer.power.spec
    contractions = product.part("symmetric_contractions").parts("contractions")
    if len(contractions) != spec.degree_out + 1:
        raise InputError(f"the model's {product.name} returns {len(contractions)} degrees, not {spec.degree_out + 1}")
    weight = np.zeros((elements, spec.num_paths, channels))
    for l3, contraction in enumerate(contractions):
        top = contraction.whole("correlation", 1, spec.order)
        lower = contraction.part("weights") if top > 1 else None
        for order in range(1, top + 1):
            tensor = contraction.array(f"U_matrix_{order}")
            count = tensor.shape[-1]
            found = polynomials(tensor, l3, order, spec.degree_in)
            paths = [i for i, (factors, l, _) in enumerate(spec.power_paths) if l == l3 and len(factors) == order]
            given = (
                contraction.array("weights_max") if lower is None or order == top else lower.array(str(top - 1 - order))
            )
            if given.ndim != 3 or given.shape[1:] != (count, channels) or len(given) not in (1, elements):
                raise InputError(
                    f"the weights of {contraction.name} of order {order} have the shape {list(given.shape)}"
                )
            if not np.abs(found).max(initial=0) > 0:
                continue
            own = np.stack([coupling(spec.power_paths[i], spec.degree_in) for i in paths])
            change, *_ = np.linalg.lstsq(own.reshape(len(paths), -1).T, found.reshape(count, -1).T, rcond=None)
            rest = np.abs(np.tensordot(change.T, own, 1) - found).max() / np.abs(found).max()
            if rest > ROUNDING:
                raise InputError(
                    f"the polynomials of {contraction.name} of order {order} are not equivariant ones of natural parity "
                    f"(rest {rest:.0e})"
                )
            normal = spec.path_normalization[paths]
            weight[:, paths] = np.einsum("zkc,pk->zpc", given, change / normal[:, None])
    put(layer.power_weight, weight)


def polynomials(tensor: Array, l3: int, order: int, degree: int) -> Array:
    """U [(2 l3 + 1), lm, ..., lm, K] as coefficients of monomials [K, 2 l3 + 1, monomials of all degrees]."""
    count, size = tensor.shape[-1], dim(degree)
    flat = tensor.reshape(2 * l3 + 1, size**order, count)
    terms, position = np.unique(_places(size, order), return_inverse=True)
    sums = np.zeros((len(terms), 2 * l3 + 1, count))
    np.add.at(sums, position, flat.transpose(1, 0, 2))
    return sums.transpose(2, 1, 0)


def coupling(path: PowerPath, degree: int) -> Array:
    """A coupling as coefficients of the monomials of all degrees, [2 l3 + 1, monomials]."""
    factors, l3, index = path
    size, order = dim(degree), len(factors)
    terms = np.unique(_places(size, order))
    own = np.ravel_multi_index(tuple(np.array(monomials(factors)).T), [size] * order)
    result = np.zeros((2 * l3 + 1, len(terms)))
    result[:, np.searchsorted(terms, own)] = couplings(factors, l3)[index]
    return result


def _places(size: int, order: int) -> NDArray[np.int64]:
    """The flat index of the sorted indices of every entry of a tensor of a power, [size^order]."""
    indices = np.sort(np.stack(np.unravel_index(np.arange(size**order), [size] * order)), 0)
    return np.ravel_multi_index(tuple(indices), [size] * order)


def fill_readouts(model: Potential, root: Part, head: int, heads: int, channels: int) -> None:
    """Fill the readouts of a model with those of a head.

    Raises:
        InputError: another number or another kind of readouts.
    """
    *linear, last = model.readouts
    *parts, part = root.parts("readouts")
    if len(parts) not in ((0, len(linear)) if root.flag("use_last_readout_only", False) else (len(linear),)):
        raise InputError(f"the model has {len(parts) + 1} readouts for {len(linear) + 1} layers")
    for number, readout in enumerate(linear):
        assert isinstance(readout, LinearReadout)
        if not parts:
            readout.weight.zero_()
        elif parts[number].kind != "LinearReadoutBlock":
            raise InputError(
                f"the model's {parts[number].name} is a {parts[number].kind}, which has no counterpart here"
            )
        else:
            put(readout.weight, parts[number].part("linear").array("weight", channels, heads)[:, head])
    assert isinstance(last, NonlinearReadout)
    if part.kind == "LinearReadoutBlock":  # x = silu(x) - silu(-x)
        weight = part.part("linear").array("weight", channels, heads)[:, [head]]
        put(last.weight, np.concatenate([weight, -weight], 1))
        put(last.last.weight, np.array([1.0, -1.0]) * math.sqrt(2) / SILU_GAIN)
        return
    hidden = last.weight.shape[1]
    acts = part.part("non_linearity").parts("acts")
    if len(acts) != 1:
        raise InputError(f"the model's {part.name} has {len(acts)} gates")
    first = part.part("linear_1").array("weight", channels, heads, hidden)
    second = part.part("linear_2").array("weight", heads, hidden, heads)
    put(last.weight, first[:, head])
    put(last.last.weight, second[head, :, head] * (gain_of(acts[0]) / math.sqrt(heads)))

"""Models of eqmol as models of mace-torch: the way back of :mod:`eqmol.convert.mace_torch.weights`."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eqmol.checkpoint.recipe import complete
from eqmol.convert.mace_torch.model import isolated
from eqmol.convert.mace_torch.parts import Part, read_model
from eqmol.convert.mace_torch.proof import run_mace
from eqmol.convert.mace_torch.recipe import INTERACTIONS, ROUNDING, Array
from eqmol.convert.mace_torch.weights import basis_scale, coupling, gain_of, path_order, polynomials
from eqmol.errors import InputError, short
from eqmol.models import MACE, Potential
from eqmol.models.mace import MACELayer
from eqmol.models.repulsion import ZBLRepulsion
from eqmol.nn import BesselBasis, LinearReadout, NonlinearReadout

#: Arguments of a backbone and of a potential that must have these values.
FIXED = {
    "family": "coupled",
    "parity": "o3",
    "messages": "depthwise",
    "fields": 1,
    "pair_radial": False,
    "degree_out": 0,
}
FIXED_POTENTIAL = {"forces": "conservative", "properties": None}


def export(model: Potential, python: Path, target: Path) -> None:
    """Write a model as mace-torch does.

    Args:
        model: in float64, with its recipe.
        python: an interpreter that has mace-torch.
        target: the file.

    Raises:
        InputError: a model that mace-torch cannot hold, or an interpreter that fails.
    """
    if model.trained_without is not None:
        raise InputError(f"the model has {model.trained_without.words()}, which a model of mace-torch does not hold")
    config = config_of(model)
    script = str(Path(__file__).with_name("build.py"))
    with tempfile.TemporaryDirectory() as folder:
        given, template, weights = (
            str(Path(folder) / name) for name in ("config.json", "template.model", "weights.npz")
        )
        Path(given).write_text(json.dumps(config))
        run_mace([str(python), "-W", "ignore", script, given, template])
        np.savez(weights, allow_pickle=False, **weights_of(model, read_model(Path(template))))
        run_mace([str(python), "-W", "ignore", script, given, str(target.resolve()), weights])


def config_of(model: Potential) -> dict[str, Any]:
    """Arguments of ``ScaleShiftMACE`` for a model.

    Raises:
        InputError: what mace-torch has no counterpart for.
    """
    if not isinstance(model.backbone, MACE):
        raise InputError(f"mace-torch cannot hold a {type(model.backbone).__name__}")
    recipe = complete(model.recipe)
    backbone = recipe["backbone"]
    for values, fixed, where in ((backbone, FIXED, "model"), (recipe, FIXED_POTENTIAL, "predictor")):
        for name, value in fixed.items():
            if values[name] != value:
                raise InputError(
                    f"mace-torch cannot hold a model with {where}.{name}={short(values[name])}; it has {value}"
                )
    layers = list(model.backbone.layers)
    copied = any(isinstance(layer, MACELayer) and layer.up.weight.shape[2] > backbone["channels"] for layer in layers)
    if copied or backbone["layers"] < 2:
        raise InputError(
            f"mace-torch cannot hold a model with model.{'widen' if copied else 'layers'}="
            f"{backbone['widen' if copied else 'layers']}; it has {'widen=1 or widen=paths' if copied else 'two layers or more'}"
        )
    scale = recipe["scale"] * recipe["gain"]
    zbl, transform = kept_repulsion(model), backbone["distance_transform"]
    if zbl is not None and (
        not math.isclose(zbl.scale, scale)
        or zbl.envelope_exponent != backbone["envelope_exponent"]
        or zbl.screening.power != 0.3
    ):
        raise InputError(
            "mace-torch has a repulsion with its own constants, scaled as the network is; this model has another one"
        )
    kind = transform["kind"] if isinstance(transform, dict) else transform
    blocks = {kinds: block for block, kinds in INTERACTIONS.items()}
    degrees = range(backbone["degree"] + 1)
    return {
        "atomic_inter_scale": scale,
        "atomic_inter_shift": 0.0,
        "r_max": backbone["cutoff"],
        "num_bessel": backbone["num_bessel"],
        "num_polynomial_cutoff": backbone["envelope_exponent"],
        "max_ell": backbone["filter_degree"],
        "interaction_cls_first": blocks[backbone["first_residual"], backbone["density"]],
        "interaction_cls": blocks[True, backbone["density"]],
        "num_interactions": backbone["layers"],
        "num_elements": len(model.elements),
        "atomic_numbers": list(model.elements),
        "hidden_irreps": "+".join(f"{backbone['channels']}x{l}{'eo'[l % 2]}" for l in degrees),
        "MLP_irreps": f"{recipe['readout_hidden']}x0e",
        "atomic_energies": (model.reference.e0.numpy() + binding_of(model) - scale * isolated(model)).tolist(),
        "avg_num_neighbors": max(backbone["avg_num_neighbors"], 1.0),
        "correlation": backbone["correlation"],
        "radial_MLP": list(backbone["radial_hidden"]),
        "pair_repulsion": zbl is not None,
        "distance_transform": {None: "None", "agnesi": "Agnesi", "soft": "Soft"}[kind],
        "use_reduced_cg": False,
    }


def kept_repulsion(model: Potential) -> ZBLRepulsion | None:
    """The repulsion, unless it ends where the training set begins: mace-torch has none of such reach, and it is left out."""
    return None if model.repulsion is None or model.repulsion.beside_data else model.repulsion


def binding_of(model: Potential) -> Array:
    """What mace-torch must add to E0: its constants do not tell atoms with neighbours from free ones, eV, [elements]."""
    return np.zeros(len(model.elements)) if model.binding is None else model.binding.binding.numpy()


@torch.no_grad()
def weights_of(model: Potential, root: Part) -> dict[str, Array]:
    """Parameters of mace-torch, by their names, that compute what a model does.

    Args:
        model: in float64.
        root: a model of mace-torch of the same sizes, whose constants and polynomials count.

    Raises:
        InputError: polynomials that do not span those of the model.
    """
    backbone = model.backbone
    assert isinstance(backbone, MACE)
    elements = len(backbone.elements)
    found = {"node_embedding.linear.weight": backbone.embedding.weight.numpy() * math.sqrt(elements)}
    if backbone.basis.transform is not None:
        names = {"AgnesiTransform": ("a", "q", "p"), "SoftTransform": ("alpha",)}[
            type(backbone.basis.transform).__name__
        ]
        prefix = "radial_embedding.distance_transform."
        found |= {prefix + name: np.array(getattr(backbone.basis.transform, name)) for name in names}
    for number, layer in enumerate(backbone.layers):
        assert isinstance(layer, MACELayer)
        interaction, product = root.parts("interactions")[number], root.parts("products")[number]
        for name, values in _interaction(layer, interaction, elements, backbone.basis).items():
            found[f"interactions.{number}.{name}"] = values
        for name, values in _product(layer, product).items():
            found[f"products.{number}.{name}"] = values
    *linear, last = model.readouts
    for number, readout in enumerate(linear):
        assert isinstance(readout, LinearReadout)
        found[f"readouts.{number}.linear.weight"] = readout.weight.numpy()
    assert isinstance(last, NonlinearReadout)
    act = root.parts("readouts")[-1].parts("non_linearity.acts")[0]
    found[f"readouts.{len(linear)}.linear_1.weight"] = last.weight.numpy()
    found[f"readouts.{len(linear)}.linear_2.weight"] = last.last.weight.numpy() / gain_of(act)
    return found


def _interaction(layer: MACELayer, interaction: Part, elements: int, basis: BesselBasis) -> dict[str, Array]:
    spec = layer.convolution.spec
    found = {"linear_up.weight": layer.up.weight.numpy()}
    acts = [interaction.part(f"conv_tp_weights.layer{number}.act") for number in range(len(layer.radial.layers))]
    for number, matrix in enumerate(layer.radial.layers):
        constant = basis_scale(basis)[:, None] if number == 0 else gain_of(acts[number - 1])
        found[f"conv_tp_weights.layer{number}.weight"] = matrix.numpy() / constant
    order = path_order(spec)
    paths = (
        layer.radial.matrix.numpy()[:, [path for path, _ in order]]
        / np.array([constant for _, constant in order])[:, None]
    )
    found[f"conv_tp_weights.layer{len(acts)}.weight"] = paths / gain_of(acts[-1])
    count, channels = np.bincount(spec.path_degrees), layer.down.weight.shape[2]
    blocks = layer.mix.weight.shape[-2] // channels
    mix = layer.mix.weight.numpy() * (layer.message_scale / math.sqrt(blocks * channels))
    if layer.density is None:
        mix *= interaction.number("avg_num_neighbors")
    else:
        found["density_fn.layer0.weight"] = layer.density.numpy() / basis_scale(basis)
    if layer.residual is None:  # of scalars: one path into each degree
        degrees = mix.shape[1]
        found["linear.weight"] = np.tile(np.eye(channels) * math.sqrt(channels), (degrees, 1, 1))
        found["skip_tp.weight"] = mix.transpose(1, 2, 0, 3) * math.sqrt(channels * elements)
        return found
    mix = mix.reshape(len(mix), blocks, channels, channels)
    rows = [
        mix[spec.path_degrees[path], spec.path_blocks[path]] * math.sqrt(count[spec.path_degrees[path]] * channels)
        for path, _ in order
    ]
    found["linear.weight"] = np.stack(rows)
    found["skip_tp.weight"] = layer.residual.weight.numpy().transpose(1, 2, 0, 3) * math.sqrt(elements / 2)
    return found


def _product(layer: MACELayer, product: Part) -> dict[str, Array]:
    spec = layer.power.spec
    factor = 1.0 if layer.residual is None else math.sqrt(1 / 2)
    found = {"linear.weight": layer.down.weight.numpy() * factor}
    for l3, contraction in enumerate(product.parts("symmetric_contractions.contractions")):
        for order in range(1, spec.order + 1):
            known = polynomials(contraction.array(f"U_matrix_{order}"), l3, order, spec.degree_in)
            paths = [i for i, (factors, l, _) in enumerate(spec.power_paths) if l == l3 and len(factors) == order]
            if not paths or not np.abs(known).max(initial=0) > 0:
                continue
            own = np.stack([coupling(spec.power_paths[i], spec.degree_in) for i in paths])
            change, *_ = np.linalg.lstsq(known.reshape(len(known), -1).T, own.reshape(len(paths), -1).T, rcond=None)
            rest = np.abs(np.tensordot(change.T, known, 1) - own).max() / np.abs(own).max()
            if rest > ROUNDING:
                raise InputError(
                    f"the polynomials of mace-torch's {contraction.name} do not span those of order {order} here"
                )
            weight = layer.power_weight.numpy()[:, paths] * spec.path_normalization[paths][:, None]
            name = "weights_max" if order == spec.order else f"weights.{spec.order - 1 - order}"
            found[f"symmetric_contractions.contractions.{l3}.{name}"] = np.einsum("zpc,kp->zkc", weight, change)
    return found

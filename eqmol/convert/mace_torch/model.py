"""From the modules of a mace-torch file to a model of eqmol."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from eqmol.checkpoint import build, default_dtype
from eqmol.convert.mace_torch.parts import Part
from eqmol.convert.mace_torch.recipe import Array, atomic_energies, choose_head, per_head, recipe_of
from eqmol.convert.mace_torch.weights import fill_layer, fill_readouts, put
from eqmol.errors import InputError, reason_of
from eqmol.models import MACE, Potential
from eqmol.models.mace import MACELayer


@dataclass
class Found:
    """What a file holds.

    Attributes:
        model: computes the same, in float64.
        head: the head that was taken, of ``heads``.
        heads: names.
        interactions: kind of each interaction block.
        shift: eV, what every atom has besides E0.
        single: whether the constants of the file were rounded to float32.
    """

    model: Potential
    head: str
    heads: list[str]
    interactions: list[str]
    shift: float
    single: bool


@torch.no_grad()
def convert_mace(root: Part, head: str | None = None) -> Found:
    """The model of eqmol that computes what a model of mace-torch does.

    Args:
        root: its modules.
        head: of several heads, the one to take.

    Raises:
        InputError: a model that cannot be represented, naming the block; or a head that is missing or unknown.
    """
    if root.kind not in ("MACE", "ScaleShiftMACE"):
        raise InputError(f"the file holds a {root.kind}; only MACE and ScaleShiftMACE predict energies alone")
    try:
        return _convert(root, head)
    except InputError:
        raise
    except Exception as error:  # modules that hold anything
        raise InputError(f"the model's modules do not fit one another ({reason_of(error)})") from error


def _convert(root: Part, head: str | None) -> Found:
    heads, number = choose_head(root, head)
    recipe = recipe_of(root, number)
    with torch.random.fork_rng(devices=[]), default_dtype(torch.float64):
        model = build(recipe)
    assert isinstance(model, Potential)
    backbone = model.backbone
    assert isinstance(backbone, MACE)
    elements, channels = len(backbone.elements), backbone.channels
    put(
        backbone.embedding.weight,
        root.part("node_embedding.linear").array("weight", elements, channels) / math.sqrt(elements),
    )
    interactions = root.parts("interactions")
    for layer, interaction, product in zip(backbone.layers, interactions, root.parts("products"), strict=True):
        assert isinstance(layer, MACELayer)
        fill_layer(layer, interaction, product, elements, channels, backbone.basis)
    fill_readouts(model, root, number, len(heads), channels)
    shift = per_head(root.part("scale_shift"), "shift", number) if "scale_shift" in root else 0.0
    e0 = atomic_energies(root, number, elements) + shift + model.reference.scale.item() * isolated(model)
    recipe["e0"] = e0.tolist()
    model.reference.e0.copy_(torch.tensor(recipe["e0"], dtype=torch.float64))
    model.recipe = recipe
    bessel = root.part("radial_embedding.bessel_fn")
    exact = math.sqrt(2 / backbone.cutoff)
    single = "prefactor" in bessel and abs(bessel.number("prefactor") / exact - 1) > 1e-12
    single = single or root.value("r_max").dtype == np.float32
    return Found(model.eval(), heads[number], heads, [part.kind for part in interactions], shift, single)


@torch.no_grad()
def isolated(model: Potential) -> Array:
    """What the network returns for atoms without neighbours, [elements]."""
    nodes = torch.arange(len(model.elements))
    none = torch.zeros(0, dtype=torch.int64)
    features = model.backbone(torch.zeros(0, 3, dtype=torch.float64), nodes, none, none)
    terms = [readout(x[:, 0]) for readout, x in zip(model.readouts, features, strict=True)]
    values: Array = torch.stack(terms).sum(0).numpy()
    return values

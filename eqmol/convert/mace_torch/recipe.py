"""What a model of mace-torch is, as a recipe of eqmol."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from eqmol.convert.mace_torch.parts import Part
from eqmol.errors import InputError, printable
from eqmol.models.repulsion import MACE_SCREENING
from eqmol.so3.layout import dim

Array = NDArray[np.float64]

#: Interaction block -> whether it has a residual, and whether it divides by a density.
INTERACTIONS = {
    "RealAgnosticInteractionBlock": (False, False),
    "RealAgnosticResidualInteractionBlock": (True, False),
    "RealAgnosticDensityInteractionBlock": (False, True),
    "RealAgnosticDensityResidualInteractionBlock": (True, True),
}
#: Relative, of constants that are stored in float32.
ROUNDING = 1e-6


def choose_head(root: Part, wanted: str | None) -> tuple[list[str], int]:
    """Names of the heads and the number of the one to take.

    Raises:
        InputError: no choice among several, or none of them.
    """
    heads = root.value("heads") if "heads" in root else ["Default"]
    if not isinstance(heads, list | tuple) or not heads or not all(isinstance(name, str) for name in heads):
        raise InputError("heads are no names")
    names = ", ".join(printable(name, 60) for name in heads[:20])
    if wanted is None and len(heads) > 1:
        raise InputError(f"the model has several heads; choose one with --head: {names}")
    if wanted is not None and wanted not in heads:
        raise InputError(f"the model has no head {printable(wanted, 60)!r}; it has {names}")
    return list(heads), 0 if wanted is None else list(heads).index(wanted)


def recipe_of(root: Part, head: int) -> dict[str, Any]:
    """The recipe of a model, without its energies of isolated atoms.

    Args:
        root: its modules.
        head: number of the head to take.

    Raises:
        InputError: what cannot be represented.
    """
    numbers = root.array("atomic_numbers").astype(int).ravel().tolist()
    if not 1 <= len(numbers) <= len(chemical_symbols) or not all(1 <= z < len(chemical_symbols) for z in numbers):
        raise InputError("atomic_numbers are no elements")
    for flag, value in (("use_so3", False), ("use_edge_irreps_first", False)):
        if root.flag(flag, value) is not value:
            raise InputError(f"{flag} of the model has no counterpart here")
    for name in ("joint_embedding", "embedding_readout", "lora"):
        if name in root:
            raise InputError(f"the model's {name} has no counterpart here")
    interactions = root.parts("interactions")
    residual, density = _kinds(interactions)
    channels, degree = _degrees(root)
    edges = interactions[0].irreps("edge_attrs_irreps")
    if [(mul, l, p) for mul, l, p in edges] != [(1, l, (-1) ** l) for l in range(len(edges))]:
        raise InputError("the harmonics of the edges are not 1x0e+1x1o+1x2e+... (use_so3?)")
    filter_degree = len(edges) - 1
    embedding = root.part("radial_embedding")
    if not embedding.flag("apply_cutoff", True):
        raise InputError(
            "the model's RadialEmbeddingBlock leaves the cutoff to the interaction blocks (apply_cutoff=False)"
        )
    _check_sizes(root, channels, len(numbers), filter_degree)
    bessel = embedding.part("bessel_fn")
    if bessel.kind != "BesselBasis":
        raise InputError(f"the model's radial basis is a {bessel.kind}; only BesselBasis is known here")
    cutoff = root.number("r_max")
    orders = bessel.array("bessel_weights").ravel() * cutoff / math.pi
    if not np.allclose(orders, np.arange(1, len(orders) + 1), rtol=ROUNDING, atol=0):
        raise InputError("the frequencies of the model's BesselBasis were trained, and those here are fixed")
    envelope = embedding.part("cutoff_fn").whole("p", 2, 32)
    hidden = _hidden(interactions)
    backbone = {
        "_target_": "eqmol.models.MACE",
        "backend": "cg",
        "family": "coupled",
        "parity": "o3",
        "degree": degree,
        "filter_degree": filter_degree,
        "channels": channels,
        "layers": len(interactions),
        "correlation": max(_orders(product) for product in root.parts("products")),
        "fields": 1,
        "cutoff": cutoff,
        "elements": numbers,
        "avg_num_neighbors": interactions[0].number("avg_num_neighbors"),
        "num_bessel": len(orders),
        "bessel_decay": 0.0,
        "radial_hidden": hidden,
        "envelope_exponent": envelope,
        "widen": "paths",
        "first_residual": residual,
        "density": density,
        "distance_transform": _distance(embedding),
    }
    scale = per_head(root.part("scale_shift"), "scale", head) if "scale_shift" in root else 1.0
    if not scale > 0:
        raise InputError(f"the model's scale is {scale:g}; it must be positive")
    last = root.parts("readouts")[-1]
    return {
        "_target_": "eqmol.models.Potential",
        "elements": numbers,
        "e0": [0.0] * len(numbers),
        "scale": scale,
        "zbl": _zbl(root, scale, numbers, cutoff),
        "readout_hidden": _readout_hidden(last),
        "backbone": backbone,
    }


def _kinds(interactions: list[Part]) -> tuple[bool, bool]:
    """Whether the first block has a residual, and whether all divide by a density."""
    for part in interactions:
        if part.kind not in INTERACTIONS:
            raise InputError(f"the model's {part.name} is a {part.kind}, which has no counterpart here")
    if not interactions:
        raise InputError("the model has no interaction blocks")
    for part in interactions[1:]:
        if not INTERACTIONS[part.kind][0]:
            raise InputError(f"the model's {part.name} is a {part.kind}; only the first may be without residual here")
    if len({INTERACTIONS[part.kind][1] for part in interactions}) > 1:
        raise InputError(
            "some of the model's interaction blocks divide by a density and some do not; here all do or none"
        )
    return INTERACTIONS[interactions[0].kind]


def _degrees(root: Part) -> tuple[int, int]:
    """Channels, and the highest degree of the features between layers."""
    found = []
    channels = root.parts("interactions")[0].irreps("node_feats_irreps")[0][0]
    for part in root.parts("interactions"):
        irreps = part.irreps("hidden_irreps")
        expected = [(channels, l, (-1) ** l) for l in range(len(irreps))]
        if not irreps or irreps != expected:
            text = "+".join(f"{mul}x{l}{'e' if p == 1 else 'o'}" for mul, l, p in irreps)
            raise InputError(
                f"the model's hidden irreps are {text}; here every degree 0e, 1o, 2e, ... has as many channels"
            )
        if "edge_irreps" in part and part.irreps("edge_irreps") != part.irreps("node_feats_irreps"):
            raise InputError(f"the model's {part.name} convolves other irreps than its features have (edge_irreps)")
        found.append(len(irreps) - 1)
    between = found[:-1]
    if found[-1] != 0 or len(set(between)) > 1:
        raise InputError(
            f"the model's layers have features of degrees {found}; here the last are scalars and the others equal"
        )
    return channels, max(between, default=0)


def _check_sizes(root: Part, channels: int, elements: int, filter_degree: int) -> None:
    """Before a model is made: that the file has the weights and tables of the sizes that it announces."""
    root.part("node_embedding.linear").array("weight", elements, channels)
    for product in root.parts("products"):
        contractions = product.part("symmetric_contractions")
        if contractions.kind != "SymmetricContraction":
            raise InputError(f"the model's {contractions.name} is a {contractions.kind}, which has no counterpart here")
        for l3, contraction in enumerate(contractions.parts("contractions")):
            for order in range(1, contraction.whole("correlation", 1, 4) + 1):
                tensor = contraction.array(f"U_matrix_{order}")
                numbers = (2 * l3 + 1) * dim(filter_degree) ** order
                if tensor.size == 0 or tensor.size != numbers * tensor.shape[-1]:
                    raise InputError(f"{contraction.name}.U_matrix_{order} has the shape {list(tensor.shape)}")


def _hidden(interactions: list[Part]) -> list[int]:
    widths = []
    for part in interactions:
        layers = radial_layers(part)
        widths.append([layer.shape[1] for layer in layers[:-1]])
    if any(width != widths[0] for width in widths):
        raise InputError(f"the model's radial networks have the widths {widths}; here they are equal in all layers")
    return widths[0]


def radial_layers(interaction: Part) -> list[Array]:
    """Matrices of the radial network."""
    network = interaction.part("conv_tp_weights")
    if network.kind != "FullyConnectedNet":
        raise InputError(f"the model's {network.name} is a {network.kind}; only FullyConnectedNet is known here")
    layers: list[Array] = []
    while f"layer{len(layers)}" in network:
        layers.append(network.part(f"layer{len(layers)}").array("weight"))
    if len(layers) < 2 or any(a.ndim != 2 or a.shape[1] != b.shape[0] for a, b in pairwise(layers)):
        raise InputError(f"the model's {network.name} is no network with a hidden layer")
    return layers


def _orders(product: Part) -> int:
    return max(part.whole("correlation", 1, 4) for part in product.parts("symmetric_contractions.contractions"))


def _distance(embedding: Part) -> dict[str, Any] | None:
    if "distance_transform" not in embedding:
        return None
    part = embedding.part("distance_transform")
    _check_radii(part)
    if part.kind == "AgnesiTransform":
        return {"kind": "agnesi", **{name: part.number(name) for name in ("a", "q", "p")}}
    if part.kind == "SoftTransform":
        return {"kind": "soft", "alpha": part.number("alpha")}
    raise InputError(f"the model's {part.name} is a {part.kind}, which has no counterpart here")


def _zbl(root: Part, scale: float, numbers: list[int], cutoff: float) -> bool | dict[str, Any]:
    if "pair_repulsion_fn" not in root:
        return False
    part = root.part("pair_repulsion_fn")
    if part.kind != "ZBLBasis":
        raise InputError(f"the model's {part.name} is a {part.kind}, which has no counterpart here")
    _check_radii(part)
    found = [*part.array("c", 4), part.number("a_exp"), part.number("a_prefactor") * 0.529]
    known = [*(c for c, _ in MACE_SCREENING.terms), MACE_SCREENING.power, MACE_SCREENING.length]
    if not np.allclose(found, known, rtol=ROUNDING, atol=0):
        raise InputError("the constants of the model's ZBLBasis were trained, and those here are fixed")
    if 2 * max(float(covalent_radii[z]) for z in numbers) > cutoff:
        raise InputError(f"the model's ZBLBasis reaches beyond its cutoff of {cutoff:g} Å, where it jumps")
    return {"screening": "mace", "scale": scale, "envelope_exponent": part.whole("p", 2, 32)}


def _check_radii(part: Part) -> None:
    radii = part.array("covalent_radii").ravel()
    size = min(len(radii), len(covalent_radii))
    if not np.allclose(radii[:size], covalent_radii[:size], rtol=ROUNDING, atol=0):
        raise InputError(f"the covalent radii of the model's {part.name} are not those of ASE")


def per_head(part: Part, key: str, head: int) -> float:
    """A number of a head; one for all heads is allowed."""
    values = part.array(key).ravel()
    if head >= len(values) and len(values) != 1:
        raise InputError(f"{part.name}.{key} has {len(values)} numbers, none for head {head}")
    return float(values[head if len(values) > 1 else 0])


def atomic_energies(root: Part, head: int, elements: int) -> Array:
    """E0 of the elements, eV."""
    energies = np.atleast_2d(root.part("atomic_energies_fn").array("atomic_energies"))
    if energies.ndim != 2 or energies.shape[1] != elements or (len(energies) > 1 and head >= len(energies)):
        raise InputError(f"the model has atomic energies of the shape {list(energies.shape)} for {elements} elements")
    row: Array = energies[head if len(energies) > 1 else 0]
    return row


def _readout_hidden(last: Part) -> int:
    """Width of the last readout for one head; a linear one is the difference of two SiLUs."""
    if last.kind == "LinearReadoutBlock":
        return 2
    if last.kind != "NonLinearReadoutBlock":
        raise InputError(f"the model's {last.name} is a {last.kind}, which has no counterpart here")
    heads = last.whole("num_heads", 1, 1000) if "num_heads" in last else 1
    return last.irreps("hidden_irreps")[0][0] // heads

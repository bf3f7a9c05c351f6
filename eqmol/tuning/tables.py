"""Tables of radial weights for a model that predicts: as fine as its own rounding asks for."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from eqmol.graph.contacts import SHORTEST
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.models.radial_tables import FIRST
from eqmol.tuning import cache
from eqmol.tuning.cache import Fineness
from eqmol.tuning.excerpt import EDGES, excerpt
from eqmol.tuning.operations import frozen, use_kernels

NODES = (96, 128, 192, 256, 320, 384, 512, 768, 1024, 1536)
ORDER = 5  #: power of the step between nodes that the error of slopes falls with
#: Largest error of hidden features and their slopes between nodes, relative to their root mean square, which holds for structures
#: that the first ones do not resemble; and at lengths that training had none of, where a network varies wildly and means nothing.
#: Of two models of 3BPA that were trained for an hour, forces of frames at 1200 K then have errors of 2e-6 eV/Å; rounding is 1e-5.
TOLERANCE, EXTRAPOLATED = 3e-4, 2e-2
#: How much smaller than the rounding an error is that other structures need not show again.
MARGIN = 10


def tabulate(model: Predictor, graph: Any) -> str | None:
    """Give a model tables of its radial networks, with as many nodes as make their error in forces less than its rounding.

    That is settled once for the weights of a model, and remembered (:mod:`eqmol.tuning.cache`) where it is far from close.

    Args:
        model: of float32; its weights are constants from now on.
        graph: a batch on the model's device, of which a few structures are taken.

    Returns:
        What to say: number of nodes and error, or that there are no tables; nothing where the model cannot have any.
    """
    if model.dtype != torch.float32 or not isinstance(model, Potential) or graph.num_edges == 0:
        return None
    model.backbone.tabulate(None)
    key, tables = _key(model), cache.read_tables()
    known = tables.get(key)
    if known is not None and known.nodes in NODES and model.backbone.tabulate(known.nodes):
        return (
            f"radial weights are read from tables of {known.nodes} nodes: when this model was first used on this machine, forces "
            f"differed by up to {known.error:.1g} eV/Å from those of the network, whose rounding was {known.rounding:.1g} eV/Å"
        )
    model.backbone.tabulate(None)
    few, single, exact = excerpt(graph), frozen(model), frozen(model).double()
    for copy in (single, exact):
        use_kernels(copy, "off")
    if not exact.backbone.tabulate(NODES[0]):
        return None
    found = _settled(single, exact, few)
    if found is None:
        return "radial weights are not read from tables: none that is small enough is as exact as float32"
    model.backbone.tabulate(found.nodes)
    if MARGIN * found.error <= found.rounding:
        cache.write_tables({**tables, key: found})
    return (
        f"radial weights are read from tables of {found.nodes} nodes: forces differ by up to {found.error:.1g} eV/Å from those of "
        f"the network, whose rounding is {found.rounding:.1g} eV/Å"
    )


def _settled(single: Predictor, exact: Predictor, graph: Any) -> Fineness | None:
    """How fine tables must be, given a model in float32 and in float64; None if no number of nodes will do."""
    shortest = exact.aux.get(SHORTEST)
    exact.backbone.tabulate(None)
    forces = _forces(exact, graph)
    rounding = float((_forces(single, graph) - forces).abs().max())
    least = 0.0
    for nodes in NODES:
        if nodes < least:
            continue
        if not exact.backbone.tabulate(nodes):
            return None
        seen, others = exact.backbone.table_error(shortest)
        excess = max(seen / TOLERANCE, others / EXTRAPOLATED)
        least = nodes * excess ** (1 / ORDER)
        if excess > 1:
            continue
        error = float((_forces(exact, graph) - forces).abs().max())
        if error <= rounding:
            return Fineness(nodes, error, rounding)
    return None


def _key(model: Predictor) -> str:
    """SHA-256 of what the function of a model is, and of how tables are made and judged."""
    judged = NODES, ORDER, TOLERANCE, EXTRAPOLATED, MARGIN, FIRST, EDGES
    digest = hashlib.sha256(json.dumps([model.recipe, judged], sort_keys=True, default=str).encode())
    domain = {SHORTEST: model.aux[SHORTEST]} if SHORTEST in model.aux else {}
    for name, tensor in (model.state_dict() | domain).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _forces(model: Predictor, graph: Any) -> Tensor:
    with torch.inference_mode(False):
        return model(graph)["forces"]

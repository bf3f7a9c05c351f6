"""Tables of radial weights for a model that predicts: as fine as its own rounding asks for."""

from typing import Any

import torch
from torch import Tensor

from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.tuning.excerpt import excerpt
from eqmol.tuning.operations import frozen, use_kernels

NODES = (96, 128, 192, 256, 320, 384, 512, 768, 1024, 1536)
ORDER = 5  #: power of the step between nodes that the error of slopes falls with
#: Largest error of a radial weight or its slope between nodes, relative to their root mean square: it holds for lengths that the
#: first structures do not have.
TOLERANCE = 1e-5


def tabulate(model: Predictor, graph: Any) -> str | None:
    """Give a model tables of its radial networks, with as many nodes as make their error in forces less than its rounding.

    Args:
        model: of float32; its weights are constants from now on.
        graph: a batch on the model's device, of which a few structures are taken.

    Returns:
        What to say: number of nodes and error, or that there are no tables; nothing where the model cannot have any.
    """
    if model.dtype != torch.float32 or not isinstance(model, Potential) or graph.num_edges == 0:
        return None
    model.backbone.tabulate(None)
    few, single, exact = excerpt(graph), frozen(model), frozen(model).double()
    for copy in (single, exact):
        use_kernels(copy, "off")
    if not exact.backbone.tabulate(NODES[0]):
        return None
    exact.backbone.tabulate(None)
    forces = _forces(exact, few)
    rounding = float((_forces(single, few) - forces).abs().max())
    least = 0.0
    for nodes in NODES:
        if nodes < least:
            continue
        exact.backbone.tabulate(nodes)
        between = exact.backbone.table_error()
        least = nodes * (between / TOLERANCE) ** (1 / ORDER)
        if between > TOLERANCE:
            continue
        error = float((_forces(exact, few) - forces).abs().max())
        if error <= rounding:
            model.backbone.tabulate(nodes)
            return (
                f"radial weights are read from tables of {nodes} nodes: forces differ by up to {error:.1g} eV/Å from those of the "
                f"network, whose rounding is {rounding:.1g} eV/Å"
            )
    return f"radial weights are not read from tables: {NODES[-1]} nodes are not as exact as float32"


def _forces(model: Predictor, graph: Any) -> Tensor:
    with torch.inference_mode(False):
        return model(graph)["forces"]

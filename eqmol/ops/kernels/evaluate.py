"""Programs evaluated by torch, one operation a time: what their compiled form must equal, and the way to run rare derivatives."""

from collections.abc import Mapping

import torch
from torch import Tensor

from eqmol.ops.kernels.expressions import Product, Program, Scaled, Sum, Variable


def evaluate(program: Program, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Results of a program.

    Args:
        program: what to compute.
        tensors: [..., rows, C] of every tensor that is read; they broadcast.

    Returns:
        [..., rows, C] of every tensor that is written, before any sum over nodes or channels.
    """
    rows = {name: tensors[name].unbind(-2) for name in program.reads}
    values: dict[int, Tensor] = {}
    for n, node in program.steps:
        if isinstance(node, Variable):
            values[n] = rows[node.tensor][node.row]
        elif isinstance(node, Product):
            values[n] = values[node.left] * values[node.right]
        elif isinstance(node, Sum):
            values[n] = values[node.left] + values[node.right]
        elif isinstance(node, Scaled):
            values[n] = node.factor * values[node.node]
    shape = torch.broadcast_shapes(*(row[0].shape for row in rows.values()))
    some = next(iter(tensors.values()))
    results = {}
    for name in program.writes:
        found = [program.results.get(Variable(name, row)) for row in range(program.sizes[name])]
        zero = some.new_zeros(shape)
        results[name] = torch.stack([zero if n is None else values[n].expand(shape) for n in found], dim=-2)
    return results

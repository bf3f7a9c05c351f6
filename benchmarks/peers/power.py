"""Powers of one field up to an order, with weights by element: what MACE calls the symmetric contraction.

Gradients are with respect to features and weights.
"""

import torch

from benchmarks.peers.case import CHECKED_ROWS, Case, Ready, family_of, leaves, normal
from eqmol.ops.registry import ALGORITHMS, create
from eqmol.so3.layout import dim

ELEMENTS = 10
CASES = [
    Case(f"power-{order}-{out}-{channels}", "power", 3, out, 1000, order=order, channels=channels)
    for channels, orders in ((64, (2, 3)), (128, (3,)))
    for order in orders
    for out in (0, 1, 2)
]
BASELINE = "mace"
METHODS = ["mace", *(name for name in ALGORITHMS if name != "escn")]


def prepare(case: Case, method: str) -> Ready:
    """The method on the inputs of the case."""
    x = normal(0, case.nodes, dim(case.degree), case.channels)
    element = torch.randint(ELEMENTS, (case.nodes,), generator=torch.Generator().manual_seed(1))
    if method in ALGORITHMS:
        spec = case.spec(family_of(method))
        weight, op, head = (
            normal(2, ELEMENTS, spec.num_weights, case.channels),
            create(spec, method),
            slice(CHECKED_ROWS),
        )
        reference = create(spec, "cg").double()(x[head].double(), weight.double(), element[head])
        inputs = leaves(x, weight)
        return Ready(lambda x, w: op(x, w, element), inputs, spec.num_weights, lambda z: (z[head], reference))

    from mace.modules.symmetric_contraction import SymmetricContraction

    from benchmarks.peers.e3nn_layout import irreps

    blocks = irreps(case.degree, case.channels), irreps(case.degree_out, case.channels)
    contraction = SymmetricContraction(*blocks, case.order, num_elements=ELEMENTS)
    weights = list(contraction.parameters())
    chosen = torch.nn.functional.one_hot(element, ELEMENTS).to(x.dtype)
    # its weights belong to an overcomplete basis of the same functions, so that outputs are not compared
    inputs = [*leaves(x.transpose(1, 2)), *weights]
    count = sum(weight.shape[1] for weight in weights)
    return Ready(lambda x, *_: contraction(x, chosen), inputs, count, None)

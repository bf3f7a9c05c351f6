"""Convolutions: features of senders with the harmonics of edges, weighted by edge and path, summed at receivers.

All methods start from edge vectors and from the last hidden layer of the radial network, as one layer of MACE does: harmonics (or
what an algorithm takes in their place) and the last linear map to the weights of edges are inside the timed region, and the
gradients are with respect to features, edge vectors, hidden radial features and that map.
"""

import torch
from torch import Tensor

from benchmarks.peers.case import CHECKED_ROWS, Case, Ready, family_of, leaves, normal
from eqmol.ops import RadialWeight
from eqmol.ops.registry import ALGORITHMS, create
from eqmol.so3.layout import dim

HIDDEN = 64
SIZES = {1: (200, 6000), 2: (200, 6000), 3: (200, 6000), 4: (200, 6000), 5: (50, 1500), 6: (50, 1500)}
CASES = [
    *(Case(f"convolution-{degree}", "convolution", degree, degree, *sizes) for degree, sizes in SIZES.items()),
    *(Case(f"convolution-edges-{10**k}", "convolution", 2, 2, max(2, 10**k // 30), 10**k) for k in range(1, 6)),
]
BASELINE = "e3nn-0.4.4"
METHODS = ["e3nn-0.4.4", "e3nn-current", *ALGORITHMS]


def prepare(case: Case, method: str) -> Ready:
    """The method on the inputs of the case."""
    spec = case.spec("coupled" if method.startswith("e3nn") else family_of(method))
    nodes, edges = case.nodes, case.edges
    x, vectors, hidden = (
        normal(0, nodes, dim(case.degree), case.channels),
        normal(1, edges, 3),
        normal(2, edges, HIDDEN),
    )
    matrix = normal(3, HIDDEN, spec.num_weights, case.channels) / HIDDEN**0.5
    senders = torch.randint(nodes, (edges,), generator=torch.Generator().manual_seed(4))
    receivers = torch.arange(edges) * nodes // edges

    def evaluate(backend: str, rows: int, dtype: torch.dtype) -> tuple[torch.nn.Module, Tensor]:
        op, part = create(spec, backend).to(dtype), receivers < rows
        weight = RadialWeight(hidden[part].to(dtype), matrix.to(dtype))
        return op(x.to(dtype), op.geometry(vectors[part].to(dtype)), weight, senders[part], receivers[part], rows)

    head = slice(CHECKED_ROWS)
    reference = evaluate("cg", min(CHECKED_ROWS, nodes), torch.float64)
    if method in ALGORITHMS:
        op = create(spec, method)

        def convolve(x: Tensor, vectors: Tensor, hidden: Tensor, matrix: Tensor) -> Tensor:
            return op(x, op.geometry(vectors), RadialWeight(hidden, matrix), senders, receivers, nodes)

        return Ready(convolve, leaves(x, vectors, hidden, matrix), spec.num_weights, lambda z: (z[head], reference))

    from e3nn import o3

    from benchmarks.peers.e3nn_layout import flatten, irreps, path_constants, unflatten

    # as MACE: every path has its own block of the output, sorted by degree
    out = o3.Irreps([(case.channels, (l3, (-1) ** l3)) for _, _, l3 in spec.pair_paths])
    product = o3.TensorProduct(
        irreps(case.degree, case.channels),
        irreps(case.degree, 1),
        out,
        [(l1, l2, i, "uvu", True) for i, (l1, l2, _) in enumerate(spec.pair_paths)],
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=False,
        shared_weights=False,
    )
    harmonics = o3.SphericalHarmonics(irreps(case.degree, 1), normalize=True, normalization="component")

    def peer(x: Tensor, vectors: Tensor, hidden: Tensor, matrix: Tensor) -> Tensor:
        messages = product(x[senders], harmonics(vectors), hidden @ matrix)
        return messages.new_zeros(nodes, messages.shape[1]).index_add(0, receivers, messages)

    own = (matrix * path_constants(spec).unsqueeze(-1)).flatten(1)
    inputs = leaves(flatten(x, case.degree), vectors, hidden, own)
    return Ready(peer, inputs, spec.num_weights, lambda z: (unflatten(z[head], out, case.degree), reference))

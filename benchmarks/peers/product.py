"""Products of two features, channel by channel: degree L × L -> L, even paths, forward and backward."""

from benchmarks.peers.case import CHECKED_ROWS, Case, Ready, family_of, leaves, normal
from eqmol.ops.registry import ALGORITHMS, create
from eqmol.so3.layout import dim

BATCH = {1: 1000, 2: 1000, 3: 1000, 4: 250, 5: 250, 6: 100, 7: 100, 8: 100}
CASES = [Case(f"product-{degree}", "product", degree, degree, batch) for degree, batch in BATCH.items()]
BASELINE = "e3nn-0.4.4"
METHODS = ["e3nn-0.4.4", "e3nn-current", "published", *(name for name in ALGORITHMS if name != "escn")]


def prepare(case: Case, method: str) -> Ready:
    """The method on the inputs of the case; gradients with respect to both features and the weights."""
    family = "coupled" if method.startswith("e3nn") else "gaunt" if method == "published" else family_of(method)
    spec = case.spec(family)
    x, y = (normal(seed, case.nodes, dim(case.degree), case.channels) for seed in (0, 1))
    weight = normal(2, spec.num_weights, case.channels)
    if method == "published":
        from benchmarks.peers.published import product

        return product(case, x, y)
    head = slice(CHECKED_ROWS)
    reference = create(spec, "cg").double()(x[head].double(), y[head].double(), weight.double())
    if method in ALGORITHMS:
        return Ready(create(spec, method), leaves(x, y, weight), spec.num_weights, lambda z: (z[head], reference))

    from e3nn import o3

    from benchmarks.peers.e3nn_layout import flatten, irreps, path_constants, unflatten

    out = irreps(case.degree, case.channels)
    product = o3.TensorProduct(
        out,
        out,
        out,
        [(*path, "uuu", True) for path in spec.pair_paths],
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=False,
        shared_weights=True,
    )
    own = (weight * path_constants(spec).unsqueeze(-1)).flatten()
    inputs = leaves(flatten(x, case.degree), flatten(y, case.degree), own)
    return Ready(product, inputs, spec.num_weights, lambda z: (unflatten(z[head], out, case.degree), reference))

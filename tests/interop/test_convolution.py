"""``Convolution`` against e3nn's product and harmonics between gather and sum; ``GauntConvolution`` against the reference."""

import pytest
import torch
from e3nn import o3
from torch import Tensor

from eqmol.errors import InputError
from eqmol.interop import Convolution, GauntConvolution, Layout, uvu_paths
from eqmol.ops import RadialWeight
from eqmol.ops import dense as reference
from eqmol.ops.registry import ALGORITHMS
from tests.interop.compare import assert_same, leaf

pytestmark = pytest.mark.usefixtures("float64")

NODES, EDGES, HIDDEN = 5, 11, 3
CASES = {
    "nequip": ("4x0e+4x1o+4x2e", 2, "0e+1o+2e"),
    "both parities": ("3x0e+3x0o+3x1o+3x1e", 2, "0e+0o+1e+1o+2e+2o"),
    "ragged and repeated": ("2x1o+5x0e+2x1o+3x1e", 3, "0e+1o+3o+2o"),
    "from scalars": ("4x0e", 3, "0e+1o+3o"),
    "to scalars": ("4x0e+4x1o+2x3o", 3, "0e"),
}


def graph() -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, the first along axes, senders and receivers; edges are not sorted, one node receives nothing."""
    vectors = torch.cat([1.3 * torch.eye(3), -torch.eye(3), torch.randn(EDGES - 6, 3)])
    return vectors.requires_grad_(), torch.randint(NODES, (EDGES,)), torch.randint(NODES - 1, (EDGES,))


def by_e3nn(product: o3.TensorProduct, senders: Tensor, receivers: Tensor, normalization: str = "component"):
    harmonics = o3.SphericalHarmonics(product.irreps_in2, True, normalization)

    def convolve(x: Tensor, vectors: Tensor, weight: Tensor) -> Tensor:
        messages = product(x[senders], harmonics(vectors), weight.expand(EDGES, -1))
        return messages.new_zeros(NODES, messages.shape[1]).index_add(0, receivers, messages)

    return convolve


def make(case: str, **options: object) -> tuple[Convolution, o3.TensorProduct]:
    irreps_in, degree, wanted = CASES[case]
    harmonics = o3.Irreps.spherical_harmonics(degree)
    irreps, paths = uvu_paths(irreps_in, harmonics, wanted)
    new = Convolution(irreps_in, degree, irreps, paths, **options)
    norms = {name: value for name, value in options.items() if name in ("irrep_normalization", "path_normalization")}
    return new, o3.TensorProduct(irreps_in, harmonics, irreps, paths, shared_weights=False, **norms)


@pytest.mark.parametrize("algorithm", ["cg", "escn"])
@pytest.mark.parametrize("case", CASES)
def test_e3nn(case, algorithm):
    new, old = make(case, backend=algorithm)
    vectors, *edges = graph()

    def convolve(x: Tensor, vectors: Tensor, weight: Tensor) -> Tensor:
        return new(x, new.geometry(vectors), weight, *edges, NODES)

    x = leaf(NODES, new.irreps_in1.dim)
    assert_same(convolve, by_e3nn(old, *edges), x, vectors, leaf(EDGES, new.weight_numel))
    assert not new.state_dict()


@pytest.mark.parametrize("algorithm", ["cg", "escn"])
@pytest.mark.parametrize("harmonics", ["component", "norm", "integral"])
@pytest.mark.parametrize(("irrep", "path"), [("component", "element"), ("norm", "path"), ("none", "none")])
def test_normalisations(irrep, path, harmonics, algorithm):
    options = {"irrep_normalization": irrep, "path_normalization": path}
    new, old = make("ragged and repeated", backend=algorithm, normalization=harmonics, **options)
    vectors, *edges = graph()
    x, weight = torch.randn(NODES, new.irreps_in1.dim), torch.randn(EDGES, new.weight_numel)
    expected = by_e3nn(old, *edges, harmonics)(x, vectors, weight)
    for one in (new, Convolution.from_e3nn(old, algorithm, harmonics)):
        torch.testing.assert_close(one(x, one.geometry(vectors), weight, *edges, NODES), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("algorithm", ["cg", "escn"])
def test_blocks_are_sums_of_all_paths(algorithm):
    # several degrees of the harmonics for one pair of blocks, one path without a weight
    paths = [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", False)]
    paths += [(i, j, 1, "uvu", True, 1.5) for i in (0, 1) for j in (0, 1, 2) if (i + j) % 2]
    new = Convolution("3x0e+3x1o", 2, "3x0e+3x1o", paths, backend=algorithm)
    old = o3.TensorProduct("3x0e+3x1o", "0e+1o+2e", "3x0e+3x1o", paths, shared_weights=False)
    vectors, *edges = graph()
    matrix = leaf(HIDDEN, new.weight_numel)

    def factored(x: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
        return new(x, new.geometry(vectors), RadialWeight(hidden, matrix), *edges, NODES)

    def dense(x: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
        return by_e3nn(old, *edges)(x, vectors, hidden @ matrix)

    assert_same(factored, dense, leaf(NODES, 12), vectors, leaf(EDGES, HIDDEN))

    def all_edges(x: Tensor, vectors: Tensor, weight: Tensor) -> Tensor:
        return new(x, new.geometry(vectors), weight, *edges, NODES)

    assert_same(all_edges, by_e3nn(old, *edges), leaf(NODES, 12), vectors, leaf(new.weight_numel))


@pytest.mark.parametrize("algorithm", ["cg", "escn"])
def test_default_paths_are_those_of_a_full_product(algorithm):
    irreps = "4x0e+4x1o+4x2e+4x1e"
    full = o3.FullyConnectedTensorProduct(irreps, "0e+1o+2e", irreps)
    new = Convolution(irreps, 2, irreps, backend=algorithm)
    assert [tuple(i)[:3] for i in new.instructions] == [tuple(i)[:3] for i in full.instructions]


def test_layers_share_the_geometry_of_the_highest_degrees():
    vectors, *edges = graph()
    for algorithm in ("cg", "escn"):
        high = Convolution("2x0e+2x1o+2x2e", 3, "2x0e+2x1o+2x2e+2x3o", backend=algorithm)
        low = Convolution("2x0e+2x1o", 2, "2x0e+2x1o", backend=algorithm)
        x, weight = torch.randn(NODES, 8), torch.randn(EDGES, low.weight_numel)
        own, shared = (low(x, one.geometry(vectors), weight, *edges, NODES) for one in (low, high))
        torch.testing.assert_close(shared, own, atol=1e-12, rtol=0)


def test_refusals():
    with pytest.raises(
        InputError, match="backend='grid' does not compute products with a weight per path; choose cg or escn"
    ):
        Convolution("4x0e", 1, "4x0e", backend="grid")
    with pytest.raises(InputError, match="normalization='none' of harmonics"):
        Convolution("4x0e", 1, "4x0e", normalization="none")
    with pytest.raises(InputError, match="no path leads from '4x0e' and harmonics of degree 1 to 4x2e"):
        Convolution("4x0e", 1, "4x0e+4x2e")
    with pytest.raises(InputError, match="no path leads from '4x0e' and harmonics of degree 1 to 3x0e"):
        Convolution("4x0e", 1, "3x0e")
    for degree in (-1, 17, 1.0):
        with pytest.raises(InputError, match=f"degree_filter={degree} must be an integer from 0 to 16"):
            Convolution("4x0e", degree, "4x0e")
    new = Convolution("4x0e", 1, "4x0e+4x1o")
    vectors, *edges = graph()
    with pytest.raises(
        InputError, match=r"weights have shape \(11, 9\), but this convolution of 11 edges needs \[11, 8\]"
    ):
        new(torch.zeros(NODES, 4), new.geometry(vectors), torch.zeros(EDGES, 9), *edges, NODES)
    with pytest.raises(InputError, match="node features have shape"):
        new(torch.zeros(NODES, 5), new.geometry(vectors), torch.zeros(EDGES, 8), *edges, NODES)
    other = o3.TensorProduct("4x0e", "1o+0e", "4x0e", [(0, 1, 0, "uvu", True)], shared_weights=False)
    with pytest.raises(InputError, match="second factor of this product is '1x1o\\+1x0e', not harmonics"):
        Convolution.from_e3nn(other)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("parity", ["o3", "so3"])
def test_gaunt(parity, algorithm):
    irreps_in, irreps_out = "2x1o+1x0e+3x0e+2x1o+4x2e", "4x0e+4x1o"
    new = GauntConvolution(irreps_in, 3, irreps_out, backend=algorithm, parity=parity)
    vectors, *edges = graph()
    x = torch.randn(NODES, new.layout_in.irreps.dim)
    weight = RadialWeight(torch.randn(EDGES, HIDDEN), torch.randn(HIDDEN, new.weight_numel))
    result = new(x, new.geometry(vectors), weight, *edges, NODES)
    own = RadialWeight(weight.hidden, weight.matrix.unflatten(-1, (-1, 4)))
    dense = reference.convolution(new.op.spec, Layout(irreps_in).unflatten(x), vectors, own, *edges, NODES)
    torch.testing.assert_close(result, Layout(irreps_out).flatten(dense), atol=1e-10, rtol=0)
    # features and edges turn as e3nn says, and mirror where the parity is o3
    rotation = o3.rand_matrix() * (-1 if parity == "o3" else 1)
    turned_in, turned_out = (Layout(irreps).irreps.D_from_matrix(rotation) for irreps in (irreps_in, irreps_out))
    turned = new(x @ turned_in.T, new.geometry(vectors @ rotation.T), weight, *edges, NODES)
    torch.testing.assert_close(turned, result @ turned_out.T, atol=1e-10, rtol=0)


def test_gaunt_refusals():
    for irreps in ("4x0e+2x1o", "4x0e+4x2e", "3x0e+3x1o"):
        with pytest.raises(InputError, match="do not have one number of channels in every degree"):
            GauntConvolution("4x0e+4x1o", 1, irreps)
    with pytest.raises(InputError, match="have 1e"):
        GauntConvolution("4x0e+4x1e", 1, "4x0e")
    new = GauntConvolution("4x0e", 1, "4x0e+4x1o")
    weight = RadialWeight(torch.zeros(EDGES, 2), torch.zeros(2, 9))
    vectors, *edges = graph()
    with pytest.raises(InputError, match="give \\[H, 8\\]"):
        new(torch.zeros(NODES, 4), new.geometry(vectors), weight, *edges, NODES)

"""``TensorProduct`` against e3nn's own, derivatives and second derivatives included."""

import copy

import pytest
import torch
from e3nn import o3

from eqmol.errors import InputError
from eqmol.interop import TensorProduct, replace_products, uvu_paths
from tests.interop.compare import assert_same, leaf

pytestmark = pytest.mark.usefixtures("float64")


def all_paths(first: str, second: str, out: str, mode: str = "uvu") -> tuple:
    """Every instruction that the irreps allow; out has a block for each."""
    irreps, paths = uvu_paths(first, second, out)
    return first, second, irreps, [(i, j, k, mode, True) for i, j, k, _, _ in paths]


NEQUIP = all_paths("4x0e+4x1o+4x2e", "0e+1o+2e", "0e+1o+2e")
BOTH_PARITIES = all_paths("3x0e+3x0o+3x1o+3x1e+3x2e+3x2o", "0e+1o+2e", "0e+0o+1e+1o+2e+2o")
RAGGED = all_paths("5x0e+3x1o+1x2e", "0e+1o", "0e+1o+1e+2e")
REPEATED = all_paths("2x1o+3x0e+2x1o+2x0e+3x1e", "1o+0e+1o+2e", "0e+1e+1o+2e+0o")
SHARED_BLOCKS = (
    "3x1o+3x0e+3x1o",
    "1o+0e",
    "3x0e+3x1o+3x2e",
    [
        (0, 0, 0, "uvu", True),
        (2, 0, 0, "uvu", True, 2.5),
        (1, 1, 0, "uvu", False),
        (2, 1, 1, "uvu", True),
        (1, 0, 1, "uvu", True, 0.3),
    ],
)
MANY_IN_SECOND = (
    "3x0e+2x1o",
    "4x0e+2x1o",
    "3x0e+3x1o+2x1e+2x1o",
    [(0, 0, 0, "uvu", True), (0, 1, 1, "uvu", True), (1, 1, 2, "uvu", True), (1, 0, 3, "uvu", False)],
)
CHANNELWISE = all_paths("4x0e+4x1o+4x1e+4x2e", "4x0e+4x1o+4x2o", "0e+0o+1e+1o+2e+2o+3o", "uuu")
MIXED = (
    "4x1o+4x0e+1x1o",
    "4x1o+1x2e+0x0e",
    "4x0e+4x1o+4x1e+1x1e+1x3o",
    [
        (0, 0, 0, "uuu", True),
        (0, 1, 1, "uvu", True),
        (1, 0, 1, "uuu", False),
        (0, 0, 2, "uuu", True, 0.5),
        (2, 0, 3, "uvu", True),
        (2, 1, 4, "uuu", True),
    ],
)
HIGH_DEGREES = all_paths("2x4e+2x5o", "3o+4e", "2e+6e+7o+5o+4o")
CASES = {
    "nequip": NEQUIP,
    "both parities": BOTH_PARITIES,
    "ragged": RAGGED,
    "repeated": REPEATED,
    "shared blocks": SHARED_BLOCKS,
    "many in second": MANY_IN_SECOND,
    "channelwise": CHANNELWISE,
    "mixed": MIXED,
    "high degrees": HIGH_DEGREES,
}


def both(case: tuple, **options: object) -> tuple[o3.TensorProduct, TensorProduct]:
    """e3nn's and eqmol's, made alike."""
    old, new = o3.TensorProduct(*case, **options), TensorProduct(*case, **options)
    assert new.weight_numel == old.weight_numel
    assert [tuple(i) for i in new.instructions] == [tuple(i) for i in old.instructions]
    return old, new


def features(product: TensorProduct, rows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return leaf(rows, product.irreps_in1.dim), leaf(rows, product.irreps_in2.dim)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_e3nn(case, shared):
    old, new = both(CASES[case], shared_weights=shared, internal_weights=False)
    weight = leaf(*(() if shared else (5,)), new.weight_numel)
    assert_same(new, old, *features(new), weight)


@pytest.mark.parametrize("path", ["element", "path", "none"])
@pytest.mark.parametrize("irrep", ["component", "norm", "none"])
@pytest.mark.parametrize("case", ["shared blocks", "mixed", "many in second"])
def test_normalisations(case, irrep, path):
    old, new = both(CASES[case], irrep_normalization=irrep, path_normalization=path, internal_weights=False)
    x, y = (t.detach() for t in features(new))
    assert_same(new, old, x, y, leaf(new.weight_numel))


def test_variances():
    options = {
        "in1_var": [1.0, 0.5, 2.0],
        "in2_var": [0.25, 3.0],
        "out_var": [1.0, 2.0, 1.0],
        "internal_weights": False,
    }
    old, new = both(SHARED_BLOCKS, **options)
    assert_same(new, old, *features(new), leaf(new.weight_numel))


def test_internal_weights_start_alike_and_travel_both_ways():
    torch.manual_seed(1)
    old = o3.TensorProduct(*MIXED)
    torch.manual_seed(1)
    new = TensorProduct(*MIXED)
    assert isinstance(new.weight, torch.nn.Parameter)
    torch.testing.assert_close(new.weight, old.weight, atol=0, rtol=0)
    assert_same(new, old, *features(new))
    # a state of e3nn's module, 3j symbols and all
    other = o3.TensorProduct(*MIXED)
    new.load_state_dict(other.state_dict())
    assert_same(new, other, *features(new))
    # the objects themselves
    assert TensorProduct.from_e3nn(old).weight is old.weight
    back = TensorProduct.from_e3nn(old).to_e3nn()
    assert back.weight is old.weight
    assert_same(back, old, *features(new))
    assert torch.equal(new.output_mask, old.output_mask)


def test_leading_dimensions_are_broadcast():
    old, new = both(RAGGED, shared_weights=False)
    x, y = leaf(1, 3, new.irreps_in1.dim), leaf(2, 1, new.irreps_in2.dim)
    assert_same(new, old, x, y, leaf(2, 3, new.weight_numel))
    old, new = both(RAGGED, internal_weights=False)
    weight = leaf(new.weight_numel)
    assert_same(new, old, leaf(new.irreps_in1.dim), leaf(4, new.irreps_in2.dim), weight)
    assert new(torch.zeros(0, new.irreps_in1.dim), torch.zeros(0, new.irreps_in2.dim), weight).shape == (
        0,
        new.irreps_out.dim,
    )


def test_what_no_path_reaches_is_zero():
    for instructions in ([], [(0, 0, 0, "uvu", True)]):
        old, new = both(("2x0e", "1x0e", "2x0e+3x1o", instructions))
        new.load_state_dict(old.state_dict())
        x, y = features(new)
        torch.testing.assert_close(new(x, y), old(x, y))
        assert torch.equal(new.output_mask, old.output_mask)


def test_parity_is_a_label():
    # 1e and 0o turn and mirror as they say, although the product never sees a parity
    product = TensorProduct(*BOTH_PARITIES, internal_weights=False)
    x, y = features(product)
    weight = torch.randn(product.weight_numel)
    for rotation in (o3.rand_matrix(), -torch.eye(3), -o3.rand_matrix()):
        first, second, out = (
            i.D_from_matrix(rotation) for i in (product.irreps_in1, product.irreps_in2, product.irreps_out)
        )
        turned = product(x @ first.T, y @ second.T, weight)
        torch.testing.assert_close(turned, product(x, y, weight) @ out.T, atol=1e-10, rtol=0)


def test_single_precision_and_back():
    torch.set_default_dtype(torch.float32)
    single = TensorProduct(*BOTH_PARITIES, internal_weights=False)
    torch.set_default_dtype(torch.float64)
    old, _ = both(BOTH_PARITIES, internal_weights=False)
    x, y = features(single)
    weight = leaf(single.weight_numel)
    result = single(x.float(), y.float(), weight.float())
    torch.testing.assert_close(result.double(), old(x, y, weight), atol=1e-5, rtol=1e-5)
    assert_same(single.double(), old, x, y, weight)  # tables are cast from their exact values


def test_functional_derivatives():
    product = TensorProduct(*SHARED_BLOCKS, internal_weights=False)
    x, y = features(product)
    weight = torch.randn(product.weight_numel)
    by_function = torch.func.grad(lambda x: product(x, y.detach(), weight).square().sum())(x.detach())
    (expected,) = torch.autograd.grad(product(x, y, weight).square().sum(), x)
    torch.testing.assert_close(by_function, expected)


def test_replace_products():
    network = torch.nn.ModuleDict(
        {
            "kept": o3.FullyConnectedTensorProduct("2x1o", "2x1o", "2x0e"),
            "mixes": o3.TensorProduct("2x1o", "2x1o", "2x0e", [(0, 0, 0, "uvw", True)]),
            "inner": torch.nn.Sequential(o3.TensorProduct(*MIXED)),
            "outer": o3.TensorProduct(*RAGGED, shared_weights=False).eval(),
        }
    )
    before, parameters = copy.deepcopy(network), [id(p) for p in network.parameters()]
    assert replace_products(network) == ["outer", "inner.0"]
    assert isinstance(network["outer"], TensorProduct)
    assert not network["outer"].training
    assert type(network["kept"]) is o3.FullyConnectedTensorProduct
    assert [id(p) for p in network.parameters()] == parameters
    assert_same(network["inner"][0], before["inner"][0], *features(network["inner"][0]))
    assert replace_products(network) == []
    network.load_state_dict(before.state_dict())


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ((0, 0, 0, "uvw", True), "mode 'uvw', but products here keep channels apart: uvu and uuu; leave"),
        ((0, 0, 0, "uvuv", True), "mode 'uvuv'"),
        ((0, 3, 0, "uvu", True), "names block 3 of the second irreps '1x1o\\+1x0e', which have 2"),
        ((0, 0, 0, "uvu"), "must be"),
        (
            (0, 0, 2, "uvu", True),
            "couples 4x1o and 1x1o to 4x1o, which their degrees or parities forbid; take one of 0e, 1e, 2e",
        ),
        ((0, 1, 1, "uvu", True), "needs the first factor and the result to have equally many channels"),
        ((0, 0, 0, "uuu", True), "needs both factors and the result"),
    ],
)
def test_instructions_are_checked(instruction, message):
    with pytest.raises(InputError, match=message):
        TensorProduct("4x1o", "1x1o+1x0e", "4x0e+3x1o+4x1o", [instruction])


def test_inputs_are_checked():
    product = TensorProduct(*NEQUIP, shared_weights=False)
    x, y = features(product)
    with pytest.raises(InputError, match="first factor have shape"):
        product(x[:, 1:], y, torch.zeros(5, product.weight_numel))
    with pytest.raises(InputError, match="no weights of its own; give 44"):
        product(x, y)
    with pytest.raises(InputError, match=r"weights have shape \(5, 3\)"):
        product(x, y, torch.zeros(5, 3))
    with pytest.raises(InputError, match="e3nn refuses a tensor product with irrep_normalization='integral'"):
        TensorProduct(*NEQUIP, irrep_normalization="integral")
    with pytest.raises(InputError, match="internal_weights=True, shared_weights=False"):
        TensorProduct(*NEQUIP, internal_weights=True, shared_weights=False)

"""Products on samples: exact sizes, derivatives over several chunks, and what is kept for them."""

from math import log2

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eqmol.ops import Spec, flops, octahedron, sampled, sampled_convolution, sampled_power
from eqmol.ops.gaunt import GauntConvolution, GauntPower, GauntProduct
from eqmol.ops.gaunt_fft import GauntFFTConvolution, GauntFFTPower, GauntFFTProduct
from eqmol.ops.grid import GridConvolution, GridPower, GridProduct
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from eqmol.ops.transforms import Separable
from eqmol.so3.quadrature import sphere_rule
from eqmol.so3.torus import torus_rule
from tests.ops.cases import spec_id

pytestmark = pytest.mark.usefixtures("float64")

ALGORITHMS = {
    "convolution": (GridConvolution, GauntConvolution),
    "product": (GridProduct, GauntProduct),
    "power": (GridPower, GauntPower),
}
SPECS = [
    Spec("convolution", "gaunt", "o3", 1, 2, 2),
    Spec("convolution", "gaunt", "so3", 1, 1, 1),
    Spec("product", "gaunt", "o3", 1, 2, 2),
    Spec("product", "gaunt", "so3", 1, 1, 1),
    Spec("power", "gaunt", "o3", 1, 0, 1, 1),
    Spec("power", "gaunt", "o3", 1, 0, 2, 2),
    Spec("power", "gaunt", "o3", 1, 0, 1, 3),
]
CASES = [(spec, algorithm) for spec in SPECS for algorithm in ALGORITHMS[spec.operation]]


@pytest.fixture
def two_rows_at_a_time(monkeypatch):
    for module in (octahedron, sampled, sampled_convolution, sampled_power):
        monkeypatch.setattr(module, "chunks", lambda rows, *_: (slice(i, min(i + 2, rows)) for i in range(0, rows, 2)))


def leaves(case):
    inputs = [*case.features, *case.weights] + [case.vectors] * (case.spec.operation == "convolution")
    return [t.detach().clone().requires_grad_() for t in inputs]


def evaluate(case, op, inputs):
    count = len(case.features)
    vectors = inputs[-1] if case.spec.operation == "convolution" else case.vectors
    return case.evaluate(op, list(inputs[:count]), list(inputs[count : count + len(case.weights)]), vectors)


@pytest.mark.usefixtures("two_rows_at_a_time")
@pytest.mark.parametrize(("spec", "algorithm"), CASES, ids=spec_id)
def test_derivatives_of_two_orders(spec, algorithm):
    case, op = make_case(spec, nodes=3, channels=1, edges=7), algorithm(spec)
    torch.testing.assert_close(case.run(op), case.reference(), atol=1e-10, rtol=0)
    assert torch.autograd.gradcheck(lambda *inputs: evaluate(case, op, inputs), leaves(case))
    assert torch.autograd.gradgradcheck(lambda *inputs: evaluate(case, op, inputs), leaves(case))


@pytest.mark.parametrize("spec", SPECS[-2:], ids=spec_id)
def test_third_derivatives_of_a_power(spec):
    case, op = make_case(spec, nodes=2, channels=1), GridPower(spec)

    def slope(*inputs):
        return torch.autograd.grad(evaluate(case, op, inputs).square().sum(), inputs, create_graph=True)

    assert torch.autograd.gradgradcheck(slope, leaves(case))


@pytest.mark.usefixtures("two_rows_at_a_time")
@pytest.mark.parametrize("algorithm", [GridProduct, GauntProduct])
def test_octahedron_is_the_rule_of_degree_1(algorithm):
    spec = Spec("product", "gaunt", "o3", 1, 1, 1)
    case, op = make_case(spec, nodes=5), algorithm(spec)
    inputs = leaves(case)
    on_octahedron = evaluate(case, op, inputs)
    slopes = torch.autograd.grad(on_octahedron.sin().sum(), inputs)
    op.is_octahedral = False
    on_rule = evaluate(case, op, inputs)
    torch.testing.assert_close(on_octahedron, on_rule, atol=1e-12, rtol=0)
    torch.testing.assert_close(slopes, torch.autograd.grad(on_rule.sin().sum(), inputs), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("parity", "degree_filter"), [("so3", 2), ("o3", 1)])
def test_weights_of_every_node(parity, degree_filter):
    spec = Spec("product", "gaunt", parity, 1, degree_filter, 1)
    case, op = make_case(spec, nodes=3), GridProduct(spec)
    case.weights = [torch.randn(3, spec.num_weights, 3)]
    rows = [op(*(f[i : i + 1] for f in case.features), case.weights[0][i]) for i in range(3)]
    torch.testing.assert_close(case.run(op), torch.cat(rows))
    small = make_case(spec, nodes=2, channels=1)
    small.weights = [torch.randn(2, spec.num_weights, 1)]
    assert torch.autograd.gradcheck(lambda *inputs: evaluate(small, op, inputs), leaves(small))


@pytest.mark.parametrize(
    ("spec", "algorithm"), [c for c in CASES if c[0].order != 1 or c[0].operation != "power"], ids=spec_id
)
@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 0), (0, 1)])
def test_one_row_or_column_fewer_is_wrong(spec, algorithm, row, column):
    class Reduced(algorithm):
        def rule(self, band, degree_out):
            factory = torus_rule if algorithm in (GauntConvolution, GauntProduct, GauntPower) else sphere_rule
            full = factory(band, degree_out)
            return factory(band, degree_out, len(full.rows) - row, len(full.columns) - column)

    case, reduced = make_case(spec), Reduced(spec)
    reduced.kernels = "off"
    error = (case.run(reduced) - case.reference()).abs().max()
    assert error > 1e-3 if row or column else error < 1e-10


@pytest.mark.parametrize(
    "spec",
    [
        Spec("convolution", "gaunt", "so3", 2, 2, 2),
        Spec("product", "gaunt", "o3", 3, 3, 3),
        Spec("power", "gaunt", "o3", 3, 0, 1, 3),
    ],
    ids=spec_id,
)
def test_no_samples_are_kept_for_derivatives(spec):
    case, op = make_case(spec, nodes=30, channels=32, edges=300), ALGORITHMS[spec.operation][0](spec)
    op.kernels = "off"
    rows = 300 if spec.operation == "convolution" else 30
    points = op.projection.points * len(op.first if spec.operation == "convolution" else [1])
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        evaluate(case, op, leaves(case))
    assert max(kept) < rows * points * 32 / 2


def one_table(algorithm):
    class Dense(algorithm):
        separable_degree = 99

    return Dense


def two_steps(algorithm):
    class TwoSteps(algorithm):
        separable_degree = 0

    return TwoSteps


@pytest.mark.parametrize("degree", [4, 9, 12, 16])
@pytest.mark.parametrize("operation", ["product", "convolution", "power"])
def test_all_ways_are_equal_at_every_degree(operation, degree):
    """With derivatives of two orders; one table is compared with the sum over paths at lower degrees."""
    low = min(degree, 4)
    sizes = (
        (degree, 0, 3, 2) if operation == "power" else (degree, low if operation == "convolution" else degree, degree)
    )
    case = make_case(Spec(operation, "gaunt", "so3", *sizes), nodes=2, channels=1, edges=4)
    grid, gaunt = ALGORITHMS[operation]
    fft = {"product": GauntFFTProduct, "convolution": GauntFFTConvolution, "power": GauntFFTPower}[operation]
    results = []
    for algorithm in (one_table(grid), two_steps(grid), two_steps(gaunt), fft):
        inputs, op = leaves(case), algorithm(case.spec)
        op.kernels = "off"
        result = evaluate(case, op, inputs)
        slopes = torch.autograd.grad(result.square().sum(), inputs, create_graph=True)
        curvatures = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)
        results.append([t.detach() for t in (result, *slopes, *curvatures)])
    expected, *others = [[t / scale.abs().max() for t, scale in zip(r, results[0], strict=True)] for r in results]
    for found in others:
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_columns_without_a_partner_are_refused():
    with pytest.raises(ValueError, match="5 columns do not lie in pairs"):
        Separable(torus_rule(2, 2).factors(2), 5)


@pytest.mark.parametrize("degree", [9, 12, 16])
@pytest.mark.parametrize("backend", ["gaunt", "gaunt_fft", "grid"])
def test_equals_the_sum_over_paths_at_high_degree(backend, degree):
    spec = Spec("product", "gaunt", "so3", degree, 1, degree)
    case = make_case(spec, nodes=2, channels=2)
    torch.testing.assert_close(case.run(create(spec, backend)), case.reference(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [8, 12])
def test_ffts_are_counted(size):
    flops.register()
    with FlopCounterMode(display=False) as counter:
        torch.fft.irfft(torch.fft.rfft(torch.randn(3, size)), size)
        torch.fft.fft(torch.randn(3, size, dtype=torch.complex128))
    assert counter.get_total_flops() == int(7.5 * size * log2(size)) * 2 + int(15 * size * log2(size))


@pytest.mark.parametrize("algorithm", [GridProduct, GauntProduct, GauntFFTProduct])
def test_operations_of_a_product_grow_with_the_third_power(algorithm):
    def operations(degree):
        spec = Spec("product", "gaunt", "o3", degree, degree, degree)
        case, op = make_case(spec, nodes=2, channels=1), algorithm(spec)
        op.kernels = "off"
        with FlopCounterMode(display=False) as counter:
            case.run(op)
        return counter.get_total_flops()

    assert 2 < log2(operations(16) / operations(8)) < 3.1

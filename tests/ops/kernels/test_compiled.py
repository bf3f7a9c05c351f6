"""Compiled programs: the same numbers as torch, whatever the shape, the number of threads, and what is not a number."""

import re

import numpy as np
import pytest
import torch

from eqmol import threads
from eqmol.ops import RadialWeight, Spec, kernels
from eqmol.ops.kernels import compiler, cpp, forms, library
from eqmol.ops.kernels.programs import edge_program, power_program
from eqmol.ops.kernels.sparse import edge_terms
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from eqmol.so3.layout import dim
from tests.ops.cases import runnable, spec_id
from tests.ops.kernels.test_expressions import by_program, derivatives

pytestmark = pytest.mark.usefixtures("kernels", "float64")

POWER = Spec("power", "coupled", "o3", 2, 0, 1, 3)
PRODUCT = Spec("product", "coupled", "so3", 2, 1, 2)
CONVOLUTION = Spec("convolution", "gaunt", "so3", 1, 2, 2)
OTHERS = [
    Spec("power", "gaunt", "o3", 1, 0, 2, 2),
    Spec("product", "gaunt", "so3", 1, 2, 1),
    Spec("convolution", "coupled", "o3", 2, 2, 1),
    Spec("convolution", "coupled", "o3", 0, 2, 2),
    Spec("convolution", "gaunt", "o3", 2, 3, 0),
    Spec("convolution", "coupled", "so3", 2, 4, 2, order_max=1),
    Spec("convolution", "coupled", "so3", 1, 1, 1).with_separate_paths(),
]
SPECS = [POWER, PRODUCT, CONVOLUTION]


def both(spec, **sizes):
    """Derivatives by compiled code and by the torch algorithm."""
    case, op = make_case(spec, **sizes), create(spec, "cg")
    compiled = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    op.kernels = "off"
    return case, compiled, derivatives(lambda *inputs: case.evaluate(op, *inputs), case)


@pytest.mark.parametrize("spec", SPECS + OTHERS, ids=spec_id)
def test_equals_the_dense_reference_and_its_derivatives(spec):
    case, compiled, expected = both(spec, nodes=5, channels=library.width(torch.float64) + 1, edges=13)
    torch.testing.assert_close(compiled[0], case.reference(), atol=1e-10, rtol=0)
    torch.testing.assert_close(compiled, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("how", ["require", "off"])
def test_two_edges_side_by_side_may_share_weights(how):
    case, op = make_case(CONVOLUTION, nodes=4, channels=5, edges=14), create(CONVOLUTION, "cg")
    case.weights[0] = case.weights[0][:7]

    def double(features, weights, vectors):
        return by_program(case, op, features, [weights[0].repeat_interleave(2, 0), weights[1]], vectors)

    found = derivatives(lambda *inputs: by_program(case, op, *inputs, how), case)
    torch.testing.assert_close(found, derivatives(double, case), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("spec", "name"), runnable([CONVOLUTION, OTHERS[0], OTHERS[1]]), ids=spec_id)
def test_every_algorithm_runs_it(spec, name, monkeypatch):
    """But for those whose geometry are no harmonics."""
    op, case, run = create(spec, name), make_case(spec), []
    call = library.Kernel.__call__
    monkeypatch.setattr(library.Kernel, "__call__", lambda self, *args: (run.append(1), call(self, *args))[1])
    torch.testing.assert_close(case.run(op), case.reference(), atol=1e-10, rtol=0)
    assert bool(run) == (name not in ("escn", "gaunt_fft") or spec.operation != "convolution")


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_float32(spec):
    op, case = create(spec, "cg").float(), make_case(spec, nodes=4, channels=19, dtype=torch.float32)
    found = case.run(op)
    assert found.dtype == torch.float32
    op.kernels = "off"
    expected = case.run(op)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
@pytest.mark.parametrize("channels", [1, 4, 8, 16, 67, 128])
def test_any_number_of_channels(spec, channels):
    _, compiled, expected = both(spec, nodes=3, channels=channels, edges=9)
    torch.testing.assert_close(compiled, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
@pytest.mark.parametrize(("nodes", "channels"), [(0, 5), (3, 0)])
def test_nothing_comes_of_nothing(spec, nodes, channels):
    nodes = 3 if spec.operation == "convolution" else nodes
    case, op = make_case(spec, nodes=nodes, channels=channels, edges=0), create(spec, "cg")
    out, *slopes = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    assert out.shape == (nodes, dim(spec.degree_out), channels)
    assert not any(slope.any() for slope in (out, *slopes))


def test_a_power_of_too_many_terms_is_left_to_its_algorithm(monkeypatch):
    monkeypatch.setattr(forms, "MAX_TERMS", 50)
    forms.power_kernel.cache_clear()
    monkeypatch.setattr(forms, "PowerForm", lambda *_: pytest.fail("a kernel was used"))
    case = make_case(POWER)
    torch.testing.assert_close(case.run(create(POWER, "cg")), case.reference(), atol=1e-10, rtol=0)
    forms.power_kernel.cache_clear()


def test_a_group_without_nodes():
    case, op = make_case(POWER, nodes=4), create(POWER, "cg")
    case.group = torch.tensor([2, 0, 2, 2])
    weight = case.weights[0].requires_grad_()
    found = op(case.features[0], weight, case.group)
    torch.testing.assert_close(found, case.reference(), atol=1e-10, rtol=0)
    (slope,) = torch.autograd.grad(found.sum(), weight)
    assert not slope[1].any()
    assert slope[2].any()


def test_weights_of_every_node():
    case, op = make_case(PRODUCT, nodes=6, channels=5), create(PRODUCT, "cg")
    case.weights = [torch.randn(6, PRODUCT.num_weights, 5)]
    compiled = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    op.kernels = "off"
    expected = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    torch.testing.assert_close(compiled, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_inputs_that_are_not_contiguous(spec):
    case, op = make_case(spec, nodes=5, channels=5), create(spec, "cg")
    expected = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    case.features = [f.transpose(0, 2).contiguous().transpose(0, 2) for f in case.features]
    case.weights = [w.transpose(0, -1).contiguous().transpose(0, -1) for w in case.weights]
    assert not any(tensor.is_contiguous() for tensor in (*case.features, *case.weights))
    torch.testing.assert_close(derivatives(lambda *inputs: case.evaluate(op, *inputs), case), expected, atol=0, rtol=0)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_some_derivatives_only(spec):
    """The smallest compiled set that has them is run; the others are thrown away."""
    case, op = make_case(spec, channels=3), create(spec, "cg")
    tensors = [*case.features, *case.weights, case.vectors]
    for chosen in range(len(tensors) - (spec.operation != "convolution")):
        leaves = [t.detach().requires_grad_(i == chosen) for i, t in enumerate(tensors)]
        slopes = []
        for op.kernels in (None, "off"):
            out = case.evaluate(op, leaves[: len(case.features)], leaves[len(case.features) : -1], leaves[-1])
            (first,) = torch.autograd.grad(out.sin().sum(), leaves[chosen], create_graph=True)
            (second,) = torch.autograd.grad(first.cos().sum(), leaves[chosen])
            slopes.append((first, second))
        torch.testing.assert_close(*slopes, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_so(spec, value):
    case, op = make_case(spec, nodes=4, channels=3, edges=12), create(spec, "cg")
    case.features[0][1, 0, 1] = value
    found = case.run(op)
    op.kernels = "off"
    expected = case.run(op)
    if spec == CONVOLUTION and value == float("inf"):  # the dense contraction multiplies it by zeros, too
        assert not found.isfinite().all()
        assert found[expected.isfinite()].isfinite().all()
        return
    assert torch.equal(found.isfinite(), expected.isfinite())
    torch.testing.assert_close(found[found.isfinite()], expected[found.isfinite()], atol=1e-10, rtol=0)


def test_the_floating_point_mode_is_left_alone():
    """Denormals are flushed by libraries that are linked with -ffast-math."""
    create(POWER, "cg")(torch.randn(2, 9, 3), torch.randn(1, POWER.num_weights, 3), torch.zeros(2, dtype=torch.int64))
    smallest = np.nextafter(np.float64(0), np.float64(1))
    assert smallest * np.float64(1) > 0
    assert float(torch.tensor(1e-310) * 0.5) == 5e-311
    assert float(torch.tensor(1e-40, dtype=torch.float32) * torch.tensor(0.5, dtype=torch.float32)) > 0


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_threads_change_no_bit(spec, monkeypatch):
    monkeypatch.setattr(forms, "NODES", 2)
    monkeypatch.setattr(forms, "CHUNK", 2000)
    case, op = make_case(spec, nodes=7, channels=67, edges=40), create(spec, "cg")
    results = []
    for number in (1, 2, 3, 8):
        monkeypatch.setattr(threads, "number", lambda number=number: number)
        results.append(derivatives(lambda *inputs: case.evaluate(op, *inputs), case))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_ten_thousand_neighbours():
    op = create(CONVOLUTION, "cg")
    x, vectors = torch.randn(10_000, 4, 2), torch.randn(10_000, 3)
    weight = RadialWeight(torch.randn(10_000, 1), torch.randn(1, CONVOLUTION.num_weights, 2))
    edges = torch.arange(10_000), torch.zeros(10_000, dtype=torch.int64)
    found = op(x, op.geometry(vectors), weight, *edges, 1)
    op.kernels = "off"
    torch.testing.assert_close(found, op(x, op.geometry(vectors), weight, *edges, 1), atol=1e-9, rtol=1e-10)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_indices_out_of_range_are_refused(wrong):
    case, op = make_case(CONVOLUTION, nodes=4), create(CONVOLUTION, "cg")
    for name in ("senders", "receivers"):
        broken = make_case(CONVOLUTION, nodes=4)
        getattr(broken, name)[-1] = wrong
        with pytest.raises(IndexError, match=f"{wrong} is out of range"):
            broken.run(op)
    case = make_case(POWER, nodes=4)
    case.group[0] = wrong
    with pytest.raises(IndexError, match=f"group {wrong} is out of range"):
        case.run(create(POWER, "cg"))


def test_transformed_tensors_are_left_to_torch():
    """They have no memory; see also the contract's functional gradients."""
    case, op = make_case(POWER), create(POWER, "cg")
    found = torch.func.grad(lambda x: op(x, case.weights[0], case.group).square().sum())(case.features[0])
    x = case.features[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(op(x, case.weights[0], case.group).square().sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_rare_derivatives_are_evaluated_by_torch():
    spec = Spec("power", "gaunt", "o3", 1, 0, 2, 2)
    case, op = make_case(spec, nodes=2, channels=1), create(spec, "cg")

    def slope(x):
        return torch.autograd.grad(op(x, case.weights[0], case.group).exp().sum(), x, create_graph=True)

    assert torch.autograd.gradgradcheck(slope, [case.features[0].requires_grad_()])


def test_sources_have_nothing_of_the_user():
    """Names of the package, numbers and operators; one header; no two vectors of one library overlap by their names."""
    sources = [cpp.node_source(power_program(POWER, frozenset("xc"), 0), "float", 8)]
    program = edge_program(CONVOLUTION, frozenset("xwm"))
    sources.append(cpp.edge_source(program, edge_terms(CONVOLUTION).harmonics, dim(2), "double", 4))
    for source in sources:
        assert re.fullmatch(r"[\w\s#<>.*/+=(),;:{}\[\]&?\-\"]*", source)
        assert re.findall(r"#include.*", source) == ["#include <stdint.h>"]


def test_nothing_is_compiled_before_it_is_needed(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(library, "load", never)
    op = create(Spec("power", "coupled", "o3", 2, 0, 2, 2), "cg")
    assert kernels.apply(op, torch.device("cpu"), torch.float64)
    assert not kernels.apply(create(CONVOLUTION, "escn"), torch.device("cpu"), torch.float64)
    assert not kernels.apply(op, torch.device("cpu"), torch.bfloat16)
    case = make_case(op.spec)
    by_program(case, op, case.features, case.weights, case.vectors)


@pytest.mark.parametrize("kept", [0, 1 << 23])
def test_exchanged_arguments_in_one_sweep(kept, monkeypatch):
    """Second derivatives with respect to any arguments, one by one and together, with and without weights that are kept."""
    monkeypatch.setattr(forms, "KEPT", kept)
    monkeypatch.setattr(forms, "CHUNK", 200)
    swept, joint = [], forms.EdgeForm.joint_partials
    monkeypatch.setattr(forms.EdgeForm, "joint_partials", lambda *args: swept.append(1) or joint(*args))
    case, op = make_case(CONVOLUTION, channels=5, edges=30), create(CONVOLUTION, "cg")
    tensors = [*case.features, *case.weights, case.vectors]
    for chosen in ((0, 1, 2, 3), (1, 3), (0, 3), (2, 3), (0, 1, 3)):
        slopes = []
        for op.kernels in (None, "off"):
            leaves = [t.detach().requires_grad_() for t in tensors]
            out = case.evaluate(op, leaves[:1], leaves[1:3], leaves[3])
            some = [leaves[i] for i in chosen]
            first = torch.autograd.grad(out.sin().sum(), some, create_graph=True)
            slopes.append(torch.autograd.grad(sum(slope.cos().sum() for slope in first), leaves))
        torch.testing.assert_close(*slopes, atol=1e-10, rtol=1e-10)
    assert len(swept) >= 3


@pytest.mark.parametrize("size", [16, 64])
def test_vectors_of_other_processors(size, monkeypatch):
    """Of SSE and NEON, and of AVX-512: compilers split those that this processor does not have."""
    monkeypatch.setattr(compiler, "vector_bytes", lambda: size)
    for remembered in (forms.product_kernel, forms.edge_kernel):
        remembered.cache_clear()
    for spec in (OTHERS[1], OTHERS[3]):
        _, compiled, expected = both(spec, nodes=4, channels=67, edges=20)
        torch.testing.assert_close(compiled, expected, atol=1e-10, rtol=1e-10)
    for remembered in (forms.product_kernel, forms.edge_kernel):
        remembered.cache_clear()

"""Expressions, and the programs of every spec of the contract evaluated by torch."""

import pytest
import torch

from eqmol.ops import RadialWeight, Spec, kernels
from eqmol.ops.kernels import forms
from eqmol.ops.kernels.evaluate import evaluate
from eqmol.ops.kernels.expressions import Expressions, Scaled, Variable, derive
from eqmol.ops.kernels.programs import edge_program, power_program, product_program
from eqmol.ops.kernels.sparse import is_small, power_terms
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from tests.ops.cases import PAIRS, POWERS, spec_id

pytestmark = pytest.mark.usefixtures("float64")


def by_program(case, op, features, weights, vectors, how="off"):
    """The case by the program of its spec."""
    if case.spec.operation == "power":
        return kernels.power_by_program(case.spec, *features, *weights, case.group, how)
    if case.spec.operation == "product":
        return kernels.product_by_program(case.spec, *features, *weights, how)
    edges = case.senders, case.receivers, len(features[0])
    return kernels.convolution_by_program(
        case.spec, features[0], op.geometry(vectors), RadialWeight(*weights), *edges, how
    )


def derivatives(function, case):
    """Value, gradients and gradients of a function of the gradients."""
    tensors = [t.detach().requires_grad_() for t in (*case.features, *case.weights, case.vectors)]
    number = len(case.features)
    out = function(tensors[:number], tensors[number:-1], tensors[-1])
    used = tensors if case.spec.operation == "convolution" else tensors[:-1]
    first = torch.autograd.grad(out.sin().sum(), used, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(sum(slope.cos().sum() for slope in first), used, materialize_grads=True)
    return [out, *first, *second]


@pytest.mark.parametrize("spec", PAIRS + POWERS, ids=spec_id)
def test_programs_equal_the_dense_reference(spec):
    case = make_case(spec, nodes=3, channels=2, edges=7)
    found = by_program(case, create(spec, "cg"), case.features, case.weights, case.vectors)
    torch.testing.assert_close(found, case.reference(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("spec", (PAIRS + POWERS)[::3], ids=spec_id)
def test_their_derivatives_are_those_of_the_torch_algorithm(spec):
    """Of two orders."""
    case, op = make_case(spec, nodes=3, channels=2, edges=7), create(spec, "cg")
    op.kernels = "off"
    found = derivatives(lambda *inputs: by_program(case, op, *inputs), case)
    expected = derivatives(lambda *inputs: case.evaluate(op, *inputs), case)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "spec",
    [
        Spec("power", "coupled", "o3", 1, 0, 1, 3),
        Spec("product", "coupled", "so3", 1, 1, 1),
        Spec("convolution", "coupled", "o3", 1, 1, 1),
    ],
    ids=spec_id,
)
def test_third_derivatives(spec):
    case, op = make_case(spec, nodes=2, channels=1, edges=3), create(spec, "cg")
    leaves = [t.detach().requires_grad_() for t in (*case.features, *case.weights)]

    def slope(*inputs):
        number = len(case.features)
        out = by_program(case, op, list(inputs[:number]), list(inputs[number:]), case.vectors)
        return torch.autograd.grad(out.square().sum(), inputs, create_graph=True)

    assert torch.autograd.gradgradcheck(slope, leaves, fast_mode=True)


def test_equal_expressions_are_one_and_zero_vanishes():
    e = Expressions()
    x, y = e.variable("x", 0), e.variable("y", 0)
    assert e.multiply(x, y) == e.multiply(y, x)
    assert e.add(x, None) == x
    assert e.scale(0.0, x) is None
    assert e.multiply(x, None) is None
    assert e.scale(1.0, x) == x


def test_derivatives_of_a_cubic():
    """3 x² y: slope along x0 is 6 x y x0, whose slopes are 6 y x0, 6 x x0 and 6 x y."""
    e = Expressions()
    x, y = e.variable("x", 0), e.variable("y", 0)
    cubic = e.scale(3.0, e.multiply(e.multiply(x, x), y))
    program = derive(e, [cubic], {"x", "y", "x0"}, dict.fromkeys(("x", "y", "x0"), 1), [{"x": "x0"}])
    values = {name: torch.tensor([[value]]) for name, value in (("x", 2.0), ("y", 5.0), ("x0", 7.0))}
    found = {name: float(value) for name, value in evaluate(program, values).items()}
    assert found == {"d_x": 6 * 5 * 7, "d_y": 6 * 2 * 7, "d_x0": 6 * 2 * 5}


def test_a_program_has_what_its_results_need_and_no_more():
    e = Expressions()
    x, y = e.variable("x", 0), e.variable("y", 0)
    program = derive(e, [e.scale(2.0, e.multiply(x, y))], {"x"}, {"x": 1, "y": 1, "z": 3})
    assert [node for _, node in program.steps if isinstance(node, Scaled | Variable)] != []
    assert program.reads == ("y",)
    assert program.writes == ("d_x",)


@pytest.mark.parametrize(
    ("spec", "small"),
    [
        (Spec("power", "coupled", "o3", 3, 0, 2, 3), True),
        (Spec("power", "gaunt", "o3", 6, 0, 1, 4), False),
        (Spec("convolution", "coupled", "o3", 4, 4, 4), True),
        (Spec("convolution", "coupled", "so3", 12, 12, 12), False),
        (Spec("product", "gaunt", "so3", 8, 8, 8), False),
    ],
    ids=spec_id,
)
def test_size_is_known_before_anything_is_made(spec, small):
    assert is_small(spec) == small


def test_all_sets_of_the_largest_specs_are_compiled():
    """None is left to torch, which would take longer than the algorithms that kernels replace."""
    power = Spec("power", "coupled", "o3", 3, 0, 3, 3)
    assert 1500 < len(power_terms(power).terms) <= forms.MAX_TERMS
    programs = [power_program(power, frozenset("xcv"), 1)]
    for degrees in ((4, 4, 4), (2, 6, 6)):
        programs.append(product_program(Spec("product", "coupled", "o3", *degrees), frozenset("xywv")))
        edges = Spec("convolution", "coupled", "o3", *degrees)
        programs.append(edge_program(edges, frozenset({"w", "w0", "x", "m", "v"}), frozenset("wxm")))
    assert max(len(program.steps) for program in programs) <= forms.MAX_STATEMENTS

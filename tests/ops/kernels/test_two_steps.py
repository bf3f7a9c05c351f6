"""Compiled products on samples that are made in two steps: the same numbers as torch, and that they are used."""

import re

import pytest
import torch

from eqmol import threads
from eqmol.ops import Spec, kernels
from eqmol.ops.kernels import cpp, two_steps
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from tests.ops.cases import spec_id
from tests.ops.kernels.test_expressions import derivatives

pytestmark = pytest.mark.usefixtures("kernels", "float64")

SPEC = Spec("product", "gaunt", "o3", 8, 5, 6)
SPECS = [
    SPEC,
    Spec("product", "gaunt", "o3", 6, 6, 6),
    Spec("product", "gaunt", "so3", 8, 8, 8),
    Spec("product", "gaunt", "so3", 3, 9, 9),
]


def results(op, case, how):
    """Values and two orders of derivatives."""
    op.kernels = how
    return derivatives(lambda *inputs: case.evaluate(op, *inputs), case)


@pytest.mark.parametrize("name", ["grid", "gaunt"])
@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_equals_the_dense_reference_and_its_derivatives(spec, name):
    case, op = make_case(spec, nodes=3, channels=3), create(spec, name)
    found = results(op, case, "require")
    torch.testing.assert_close(found[0], case.reference(), atol=1e-10, rtol=0)
    torch.testing.assert_close(found, results(op, case, "off"), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("nodes", "channels"), [(0, 5), (3, 0), (1, 1), (2, 16), (3, 35)])
@pytest.mark.parametrize("own", [False, True])
def test_any_shape(nodes, channels, own):
    """Also with weights of every node, and with arguments that are not contiguous."""
    case, op = make_case(SPEC, nodes=nodes, channels=channels), create(SPEC, "grid")
    if own:
        case.weights = [torch.randn(nodes, SPEC.num_weights, channels)]
    case.features = [f.transpose(0, 2).contiguous().transpose(0, 2) for f in case.features]
    torch.testing.assert_close(results(op, case, "require"), results(op, case, "off"), atol=1e-10, rtol=1e-10)


def test_float32():
    case, op = make_case(SPEC, nodes=4, channels=19, dtype=torch.float32), create(SPEC, "grid").float()
    found = case.run(op)
    op.kernels = "off"
    torch.testing.assert_close(found, case.run(op), atol=1e-4, rtol=1e-4)


def test_some_derivatives_only():
    case, op = make_case(SPEC), create(SPEC, "grid")
    tensors = [*case.features, *case.weights]
    for chosen in range(3):
        leaves = [t.detach().requires_grad_(i == chosen) for i, t in enumerate(tensors)]
        slopes = []
        for op.kernels in ("require", "off"):
            (first,) = torch.autograd.grad(op(*leaves).sin().sum(), leaves[chosen], create_graph=True)
            slopes.append((first, *torch.autograd.grad(first.cos().sum(), leaves[chosen])))
        torch.testing.assert_close(*slopes, atol=1e-10, rtol=1e-10)


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(two_steps, "PART", 1000)
    case, op = make_case(SPEC, nodes=7, channels=20), create(SPEC, "grid")
    found = []
    for number in (1, 3, 8):
        monkeypatch.setattr(threads, "number", lambda number=number: number)
        found.append(results(op, case, "require"))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_in_its_channel(value):
    case, op = make_case(SPEC), create(SPEC, "grid")
    case.features[0][1, 0, 1] = value
    found = case.run(op)
    assert not found[1, :, 1].isfinite().any()
    found[1, :, 1] = 0
    assert found.isfinite().all()


def test_it_is_known_which_operations_have_it():
    device, dtype = torch.device("cpu"), torch.float64
    (kernel,) = kernels.build([create(SPEC, "grid")], device, dtype, learned=True, training=True)
    assert kernel is two_steps.two_steps_kernel(dtype, "require")
    assert kernels.identity([create(SPEC, "grid")], device, dtype)["kernels"]
    for other in (create(SPEC, "gaunt_fft"), create(SPEC, "cg")):
        assert not kernels.build([other], device, dtype, learned=True, training=True)


def test_sources_have_nothing_of_the_user():
    source = cpp.two_steps_source("float", 16)
    assert re.findall(r"#include.*", source) == ["#include <stdint.h>"]

"""Algorithms of one's own: what is registered, and what the laws find wrong."""

import re

import pytest
import torch
from torch import Tensor

from eqmol import ops
from eqmol.errors import InputError
from eqmol.ops import Product, Spec, check, register
from eqmol.ops.cg import CGConvolution, CGPower, CGProduct
from eqmol.ops.grid import GridProduct
from eqmol.ops.registry import ALGORITHMS, candidates

pytestmark = pytest.mark.usefixtures("registration")

PRODUCT = Spec("product", "gaunt", "o3", 1, 1, 1)
POWER = Spec("power", "gaunt", "o3", 1, 0, 1, 2)


class Own(CGProduct):
    """As right as the one of eqmol."""


def test_a_registered_algorithm_stands_beside_the_others() -> None:
    register("own", Own)
    assert candidates(PRODUCT) == ("cg", "gaunt", "gaunt_fft", "grid", "own")
    assert type(ops.product(PRODUCT, "own")) is Own
    assert type(ops.product(PRODUCT, {"product": "own"})) is Own
    assert type(ops.power(POWER, "own")) is CGPower
    assert "own" not in candidates(POWER)
    with pytest.raises(InputError, match="choose from cg, escn, gaunt, gaunt_fft, grid, own, or make your own known"):
        ops.product(PRODUCT, "other")


def test_a_family_that_it_does_not_compute() -> None:
    register("own", GridProduct, families=["gaunt"])
    with pytest.raises(InputError, match=r"'own' computes the gaunt family only .* use backend cg or escn"):
        ops.product(Spec("product", "coupled", "o3", 1, 1, 1), "own")
    register("own", Own, families=["coupled"])  # replaces
    with pytest.raises(
        InputError,
        match=r"coupled family only .* use backend cg or escn or gaunt or gaunt_fft or grid, .*family=coupled",
    ):
        ops.product(PRODUCT, "own")


@pytest.mark.parametrize(
    ("name", "algorithms", "options", "message"),
    [
        ("cg", [Own], {}, "'cg' is eqmol's own"),
        ("auto", [Own], {}, "'auto' is eqmol's own"),
        ("my own", [Own], {}, "a letter followed by"),
        (3, [Own], {}, "a letter followed by"),
        ("own", [], {}, "'own' has no algorithm"),
        ("own", [Own, GridProduct], {}, "two algorithms for the product"),
        ("own", [Own(PRODUCT)], {}, "is no subclass of Convolution, Mixing, Product or Power"),
        ("own", [torch.nn.Linear], {}, "is no subclass of Convolution, Mixing, Product or Power"),
        ("own", [Product], {}, "Product lacks the methods forward of a product"),
        ("own", [Own], {"families": ["coupled", "o3"]}, "must be one or both of coupled, gaunt"),
        ("own", [Own], {"families": []}, "must be one or both of coupled, gaunt"),
    ],
    ids=str,
)
def test_what_cannot_be_registered(name, algorithms, options, message) -> None:
    before = dict(ALGORITHMS)
    with pytest.raises(InputError, match=re.escape(message)):
        register(name, *algorithms, **options)
    assert before == ALGORITHMS


# --- the laws


class Wrong(CGProduct):
    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return super().forward(x, y, weight) * (1 + 1e-9)


class Frozen(CGProduct):
    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return super().forward(x.detach(), y, weight)


class Owner(CGProduct):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.factor = torch.nn.Parameter(torch.ones(()))


class Full(CGProduct):
    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        assert len(x) > 0
        return super().forward(x, y, weight)


class Contiguous(CGProduct):
    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return super().forward(x.view(-1).view(x.shape), y, weight)


class InPlace(CGProduct):
    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        result = super().forward(x, y, weight)
        with torch.no_grad():
            y.mul_(2)
        return result


class OfOneWeight(CGProduct):
    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return super().forward(x, y, weight if weight.dim() == 2 else weight[0])


class Twisted(CGConvolution):
    def message(self, x, geometry, weight):
        return -super().message(x, geometry, weight)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Wrong, "equals the dense reference"),
        (Frozen, "is twice differentiable"),
        (Owner, "owns no parameters"),
        (Full, "takes empty inputs"),
        (Contiguous, "takes inputs of any layout"),
        (InPlace, "equals the dense reference"),
        (OfOneWeight, "takes weights of every node"),
        (Twisted, "messages sum to the convolution"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_law_is_named(broken, law) -> None:
    register("own", broken)
    spec = Spec(broken.operation, "coupled", "o3", 1, 1, 1)
    with pytest.raises(
        AssertionError, match=rf"{broken.__name__} breaks the law that it {law}, for Spec\(.*'{spec.operation}'"
    ):
        check("own", [spec])


def test_check_leaves_precision_and_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    assert check("grid", [PRODUCT, Spec("product", "coupled", "o3", 1, 1, 1)]) == [PRODUCT]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


class EvenOnly(CGProduct):
    def __init__(self, spec: Spec) -> None:
        if spec.parity != "o3":
            raise InputError("parity o3 alone")
        super().__init__(spec)


def test_what_a_constructor_refuses_is_not_checked() -> None:
    register("own", EvenOnly)
    other = Spec("product", "gaunt", "so3", 1, 1, 1)
    assert check("own", [other, PRODUCT, POWER]) == [PRODUCT]
    with pytest.raises(InputError, match="computes none of the 2 specs"):
        check("own", [other, POWER])
    with pytest.raises(InputError, match=r"'other' is not registered; call eqmol.ops.register\('other'"):
        check("other")

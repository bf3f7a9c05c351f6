"""The laws of the contract for every algorithm and every spec that it claims."""

from functools import partial

import pytest
import torch

from eqmol.ops import Spec, laws
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from eqmol.so3.layout import degrees, dim
from tests.ops.cases import MIXINGS, PAIRS, POWERS, runnable, spec_id

pytestmark = pytest.mark.usefixtures("float64")

SMALL = [
    Spec(operation, family, parity, 1, 1, 1)
    for operation in ("convolution", "product")
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
] + [
    Spec("convolution", "coupled", "so3", 2, 2, 2),
    Spec("convolution", "gaunt", "so3", 2, 2, 2),
    Spec("convolution", "coupled", "so3", 2, 4, 2, order_max=1),
    Spec("convolution", "coupled", "so3", 1, 1, 1).with_separate_paths(),
    Spec("convolution", "coupled", "o3", 0, 2, 2),
    Spec("convolution", "gaunt", "so3", 2, 3, 0),
    Spec("mixing", "coupled", "so3", 1, 2, 1),
    Spec("power", "coupled", "o3", 1, 0, 1, 3),
    Spec("power", "gaunt", "o3", 1, 0, 1, 3),
]
HIGH = [Spec("convolution", family, "so3", 8, 8, 8) for family in ("coupled", "gaunt")]
HIGH += [Spec("convolution", "coupled", "o3", 2, 6, 8), Spec("product", "gaunt", "so3", 8, 8, 8)]
HIGH += [Spec("product", "coupled", "o3", 6, 6, 6), Spec("power", "gaunt", "o3", 8, 0, 2, 2)]

#: Laws that depend on degrees; the others are tried on small specs.
EVERYWHERE = (laws.equals_the_dense_reference, laws.messages_sum_to_the_convolution, laws.is_equivariant)
#: Laws of some operations.
OF = {
    laws.messages_sum_to_the_convolution: ("convolution", "mixing"),
    laws.takes_weights_of_every_node: ("product",),
}
LAWS = [
    (law, spec, name)
    for law in laws.LAWS
    for spec, name in runnable(PAIRS + MIXINGS + POWERS if law in EVERYWHERE else SMALL)
    if spec.operation in OF.get(law, (spec.operation,))
]


def law_id(value: object) -> str:
    return spec_id(value) if isinstance(value, Spec | str) else value.__name__


@pytest.mark.parametrize(("law", "spec", "name"), LAWS, ids=law_id)
def test_law(law, spec, name):
    law(partial(create, spec, name), spec)


@pytest.mark.parametrize("name", ["cg", "escn"])
def test_so3_is_not_invariant_under_inversion(name):
    spec = Spec("convolution", "coupled", "so3", 1, 1, 1)
    op, case = create(spec, name), make_case(spec)
    sign = torch.tensor([(-1.0) ** int(l) for l in degrees(1)])[:, None]
    moved = case.evaluate(op, [sign * case.features[0]], case.weights, -case.vectors)
    assert (moved - sign * case.run(op)).abs().max() > 1e-2


@pytest.mark.parametrize(("spec", "name"), runnable(HIGH), ids=spec_id)
def test_equals_the_dense_reference_at_high_degree(spec, name):
    op, case = create(spec, name), make_case(spec, nodes=2, channels=1, edges=7)
    expected = case.reference()
    torch.testing.assert_close(case.run(op), expected, atol=1e-10 * float(expected.abs().max().clamp(min=1)), rtol=0)


@pytest.mark.parametrize(("spec", "name"), runnable([s for s in PAIRS if s.operation == "product"]), ids=spec_id)
def test_reaches_exactly_the_claimed_paths(spec, name):
    """Degree by degree, with every other degree of the inputs empty."""
    op = create(spec, name)
    claimed = {path for i, path in enumerate(spec.pair_paths) if abs(spec.paths[:, i]).max() > 0}
    x, y = (torch.randn(5, dim(degree), 2) for degree in (spec.degree_in, spec.degree_filter))
    weight = torch.randn(spec.num_weights, 2)
    reached, largest = {}, 0.0
    for l1 in range(spec.degree_in + 1):
        for l2 in range(spec.degree_filter + 1):
            only_x = x * (torch.tensor(degrees(spec.degree_in)) == l1)[:, None]
            only_y = y * (torch.tensor(degrees(spec.degree_filter)) == l2)[:, None]
            z = op(only_x, only_y, weight)
            for l3 in range(spec.degree_out + 1):
                reached[l1, l2, l3] = float(z[:, l3**2 : (l3 + 1) ** 2].abs().max())
                largest = max(largest, reached[l1, l2, l3])
    assert claimed == set(spec.pair_paths)
    for path, size in reached.items():
        assert (size > 1e-3 * largest) if path in claimed else (size < 1e-12 * largest), path


@pytest.mark.parametrize(("spec", "name"), runnable(PAIRS + POWERS), ids=spec_id)
def test_unit_variance(spec, name):
    """Of every reached degree, averaged over its components, for independent unit-normal features, weights and directions."""
    op = create(spec, name)
    case = make_case(spec, nodes=400, channels=64, edges=400)
    case.vectors = torch.randn(400, 3)
    case.senders = case.receivers = torch.arange(400)
    if spec.operation == "convolution":
        case.weights = [torch.randn(400, 64) / 8, torch.randn(64, spec.num_weights, 64)]
    out = case.run(op)
    out = out.unflatten(2, (spec.num_blocks, -1))
    for block, l in sorted(set(zip(spec.path_blocks.tolist(), spec.path_degrees.tolist(), strict=True))):
        assert 0.5 < out[:, l**2 : (l + 1) ** 2, block].square().mean() < 2, f"block {block}, degree {l}"

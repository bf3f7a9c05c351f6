"""The laws of the contract for every algorithm and every spec that it claims."""

import pytest
import torch

from eqmol.ops import RadialWeight, Spec
from eqmol.ops.registry import create
from eqmol.so3.layout import degrees, dim
from eqmol.so3.wigner import wigner_matrices
from tests.ops.cases import PAIRS, POWERS, make_case, runnable, spec_id

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
    Spec("convolution", "coupled", "o3", 0, 2, 2),
    Spec("convolution", "gaunt", "so3", 2, 3, 0),
    Spec("power", "coupled", "o3", 1, 0, 1, 3),
    Spec("power", "gaunt", "o3", 1, 0, 1, 3),
]
CONVOLUTIONS = [spec for spec in PAIRS if spec.operation == "convolution"]
HIGH = [Spec("convolution", family, "so3", 8, 8, 8) for family in ("coupled", "gaunt")]
HIGH += [Spec("convolution", "coupled", "o3", 2, 6, 8), Spec("product", "gaunt", "so3", 8, 8, 8)]
HIGH += [Spec("product", "coupled", "o3", 6, 6, 6), Spec("power", "gaunt", "o3", 8, 0, 2, 2)]


@pytest.mark.parametrize(("spec", "name"), runnable(PAIRS + POWERS), ids=spec_id)
def test_equals_the_dense_reference(spec, name):
    op, case = create(spec, name), make_case(spec)
    torch.testing.assert_close(case.run(op), case.reference(), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("spec", "name"), runnable(HIGH), ids=spec_id)
def test_equals_the_dense_reference_at_high_degree(spec, name):
    op, case = create(spec, name), make_case(spec, nodes=2, channels=1, edges=7)
    expected = case.reference()
    torch.testing.assert_close(case.run(op), expected, atol=1e-10 * float(expected.abs().max().clamp(min=1)), rtol=0)


@pytest.mark.parametrize(("spec", "name"), runnable(CONVOLUTIONS), ids=spec_id)
def test_messages_of_edges_sum_to_the_convolution(spec, name):
    op, case = create(spec, name), make_case(spec)
    x, geometry = case.features[0], op.geometry(case.vectors)
    messages = op.message(x[case.senders], geometry, RadialWeight(*case.weights))
    assert messages.shape == (len(case.senders), dim(spec.degree_out), x.shape[2])
    summed = x.new_zeros(len(x), *messages.shape[1:])
    for message, receiver in zip(messages, case.receivers, strict=True):
        summed[receiver] += message
    torch.testing.assert_close(summed, case.reference(), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("spec", "name"), runnable(PAIRS + POWERS), ids=spec_id)
def test_no_parameters_and_empty_state(spec, name):
    op = create(spec, name)
    assert list(op.parameters()) == []
    assert op.state_dict() == {}


@pytest.mark.parametrize(("spec", "name"), runnable(SMALL), ids=spec_id)
def test_tables_are_exact_after_a_cast(spec, name):
    torch.set_default_dtype(torch.float32)
    op = create(spec, name).double()
    torch.set_default_dtype(torch.float64)
    case = make_case(spec)
    torch.testing.assert_close(case.run(op), case.reference(), atol=1e-10, rtol=0)


def transform(spec: Spec, case, rotation: torch.Tensor, inversion: bool):
    """The same case seen in another frame, and the map of results."""
    matrices = torch.block_diag(*wigner_matrices(rotation, 8))
    sign = torch.tensor([(-1.0 if inversion else 1.0) ** int(l) for l in degrees(8)])

    def act(x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        return sign[:n, None] * (matrices[:n, :n] @ x)

    vectors = (-1.0 if inversion else 1.0) * case.vectors @ rotation.T
    return [act(x) for x in case.features], vectors, act


@pytest.mark.parametrize(("spec", "name"), runnable(PAIRS + POWERS), ids=spec_id)
def test_equivariant(spec, name):
    op, case = create(spec, name), make_case(spec)
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation)
    for inversion in (False, True) if spec.parity == "o3" else (False,):
        features, vectors, act = transform(spec, case, rotation, inversion)
        moved = case.evaluate(op, features, case.weights, vectors)
        torch.testing.assert_close(moved, act(case.run(op)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["cg", "escn"])
def test_so3_is_not_invariant_under_inversion(name):
    spec = Spec("convolution", "coupled", "so3", 1, 1, 1)
    op, case = create(spec, name), make_case(spec)
    features, vectors, act = transform(spec, case, torch.eye(3), True)
    assert (case.evaluate(op, features, case.weights, vectors) - act(case.run(op))).abs().max() > 1e-2


@pytest.mark.parametrize(("spec", "name"), runnable(SMALL), ids=spec_id)
def test_twice_differentiable(spec, name):
    op, case = create(spec, name), make_case(spec, nodes=3, channels=1, edges=7)
    inputs = [*case.features, *case.weights]
    if spec.operation == "convolution":
        inputs.append(case.vectors)
    count = len(case.features)
    leaves = [t.detach().requires_grad_() for t in inputs]

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        features, weights = list(tensors[:count]), list(tensors[count : count + len(case.weights)])
        vectors = tensors[-1] if spec.operation == "convolution" else case.vectors
        return case.evaluate(op, features, weights, vectors)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize(("spec", "name"), runnable(SMALL), ids=spec_id)
def test_functional_gradients_agree_with_autograd(spec, name):
    op, case = create(spec, name), make_case(spec, nodes=3, channels=1, edges=7)

    def energy(x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return case.evaluate(op, [x, *case.features[1:]], case.weights, vectors).square().sum()

    x, vectors = case.features[0].clone().requires_grad_(), case.vectors.clone().requires_grad_()
    functional = torch.func.grad(energy, argnums=(0, 1))(case.features[0], case.vectors)
    direct = torch.autograd.grad(energy(x, vectors), (x, vectors), materialize_grads=True)
    for a, b in zip(functional, direct, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


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
    for l in sorted(set(spec.path_degrees.tolist())):
        assert 0.5 < out[:, l**2 : (l + 1) ** 2].square().mean() < 2, f"degree {l}"

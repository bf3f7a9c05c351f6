"""Equivariance, variance at initialisation, and smoothness of the parts of a network."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from eqmol.nn import (
    BesselBasis,
    ElementEmbedding,
    GroupLinear,
    Linear,
    LinearReadout,
    NonlinearReadout,
    RadialNetwork,
    pad_degrees,
    polynomial_envelope,
)
from eqmol.nn.activation import SIGMOID_GAIN, SILU_GAIN, silu
from eqmol.nn.distance import AgnesiTransform, SoftTransform
from eqmol.so3.layout import dim
from eqmol.so3.wigner import wigner_matrices

pytestmark = pytest.mark.usefixtures("float64")


def rotate(x: torch.Tensor, degree: int) -> torch.Tensor:
    rotation = torch.tensor(Rotation.random(random_state=3).as_matrix())
    blocks = wigner_matrices(rotation, degree)
    return torch.block_diag(*[block.reshape(block.shape[-2:]) for block in blocks]) @ x


def derivatives(function, x: torch.Tensor, order: int) -> list[torch.Tensor]:
    """Value and derivatives of a function of independent numbers."""
    x = x.clone().requires_grad_()
    values = [function(x)]
    for _ in range(order):
        values.append(torch.autograd.grad(values[-1].sum(), x, create_graph=True)[0])
    return [value.detach() for value in values]


@pytest.mark.parametrize("exponent", [2, 5, 6])
def test_envelope_is_twice_differentiable_at_the_cutoff(exponent: int) -> None:
    at_start, _, _ = derivatives(lambda x: polynomial_envelope(x, exponent), torch.zeros(1), 2)
    assert at_start == 1
    before, after = (
        derivatives(lambda x: polynomial_envelope(x, exponent), torch.tensor([x]), 2) for x in (1 - 1e-7, 1 + 1e-7)
    )
    bounds = [1e-12, 1e-11, 1e-4]  # the third derivative jumps
    assert all(abs(b) < bound and a == 0 for b, a, bound in zip(before, after, bounds, strict=True))


def test_envelope_falls_monotonically() -> None:
    _, slope = derivatives(polynomial_envelope, torch.linspace(0, 1, 101), 1)
    assert (slope <= 1e-12).all()


def test_bessel_basis_is_orthonormal_and_vanishes_at_the_cutoff() -> None:
    basis = BesselBasis(cutoff=4.0, size=6)
    # midpoints: exact for trigonometric functions
    x = (torch.arange(200) + 0.5) / 200
    bare = basis(4 * x) / polynomial_envelope(x).unsqueeze(-1) * x.unsqueeze(-1)
    torch.testing.assert_close(3 * bare.T @ bare / len(x), torch.eye(6))
    assert basis(torch.tensor([4.0, 4.5])).abs().max() == 0


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_amplitudes_fall_and_keep_their_mean_square(decay: float) -> None:
    r = torch.linspace(0.5, 3.9, 20)
    plain, falling = BesselBasis(4.0, 6), BesselBasis(4.0, 6, decay=decay)
    amplitudes = falling(r) / plain(r)
    expected = torch.arange(1.0, 7) ** -decay
    torch.testing.assert_close(amplitudes / amplitudes[:, :1], expected.expand(20, 6), atol=1e-9, rtol=0)
    torch.testing.assert_close(amplitudes.square().mean(1), torch.ones(20), atol=1e-9, rtol=0)
    assert (falling.amplitudes(torch.float32).double() / falling.amplitudes(torch.float64) - 1).abs().max() < 1e-6


H_O = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)


def test_agnesi_transform() -> None:
    transform = AgnesiTransform([1, 8])  # covalent radii 0.31 and 0.66 Å
    for r in (0.01, 0.485, 1.4, 6.0):
        x = r / 0.485
        expected = 1 / (1 + 1.0805 * x**0.9183 / (1 + x ** (0.9183 - 4.5791)))
        torch.testing.assert_close(transform(torch.tensor([r]), H_O), torch.tensor([expected]), rtol=1e-14, atol=0)
    half = AgnesiTransform([1, 8], a=2.0, q=1.0, p=5.0)(torch.tensor([0.485]), H_O)
    torch.testing.assert_close(half, torch.tensor([0.5]), rtol=1e-14, atol=0)  # x = 1: 1 / (1 + a / 2)


def test_soft_transform() -> None:
    bond = 0.31 + 0.66
    low, high = 0.75 * bond, 4 / 3 * bond
    transform = SoftTransform([1, 8])
    middle = (low + high) / 2
    r = torch.tensor([0.05, middle, 6.0])
    found = transform(r, tuple(end.expand(3) for end in H_O))
    expected = torch.tensor([low, low + (middle - low) / 2, 6.0])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(found[1], expected[1], atol=1e-14, rtol=0)


@pytest.mark.parametrize("transform", [AgnesiTransform, SoftTransform])
def test_bessel_functions_see_the_transform_and_the_envelope_the_distance(transform: type) -> None:
    r = torch.tensor([0.9, 2.5, 3.5])
    ends = tuple(end.expand(3) for end in H_O)
    moved = transform([1, 8])(r, ends)
    found = BesselBasis(4.0, 5, 6, transform([1, 8]))(r, ends)
    plain = BesselBasis(4.0, 5)
    expected = plain(moved) * (polynomial_envelope(r / 4) / polynomial_envelope(moved / 4)).unsqueeze(-1)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("elements", [0, 2])
@pytest.mark.parametrize("distance", [3.999999, 4.000001])
def test_radial_weights_vanish_smoothly_at_the_cutoff(distance: float, elements: int) -> None:
    basis, network = BesselBasis(4.0, 8), RadialNetwork(8, [16, 16], 3, 4, elements)
    ends = torch.tensor([0]), torch.tensor([1])

    def weights(r: torch.Tensor) -> torch.Tensor:
        hidden, matrix = network(basis(r), ends)
        return hidden @ matrix.flatten(1)

    for value, bound in zip(derivatives(weights, torch.tensor([distance]), 2), (1e-12, 1e-9, 1e-2), strict=True):
        assert value.abs().max() < bound


@pytest.mark.parametrize("elements", [0, 20])
def test_radial_network_keeps_variance(elements: int) -> None:
    ends = torch.arange(500) % 20, torch.arange(500) // 25
    hidden, matrix = RadialNetwork(32, [64, 64], 5, 64, elements)(torch.randn(500, 32), ends)
    weights = hidden @ matrix.flatten(1)
    assert matrix.shape == (64, 5, 64)
    assert 0.5 < weights.pow(2).mean() < 2


def test_radial_network_tells_the_ends_apart() -> None:
    network = RadialNetwork(8, [16, 16], 3, 4, 2)
    ends = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    hidden, _ = network(torch.randn(8).expand(3, 8), ends)
    assert min((hidden[i] - hidden[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3


def test_gain_restores_the_second_moment() -> None:
    # Gauss-Hermite quadrature of E[(z^power σ(z))²] for standard normal z
    z, weight = np.polynomial.hermite_e.hermegauss(128)
    for gain, power in ((SILU_GAIN, 1), (SIGMOID_GAIN, 0)):
        moment = weight @ (z**power / (1 + np.exp(-z))) ** 2 / np.sqrt(2 * np.pi)
        assert gain * np.sqrt(moment) == pytest.approx(1, abs=1e-14)
    assert silu(torch.zeros(1)) == 0


def test_activation_equals_that_of_torch_in_three_derivatives() -> None:
    x = torch.linspace(-6, 6, 25)
    for ours, theirs in zip(derivatives(silu, x, 3), derivatives(torch.nn.functional.silu, x, 3), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(silu))(x), derivatives(silu, x, 1)[1])


@pytest.mark.parametrize(("degree_in", "degree_out"), [(0, 0), (2, 2), (3, 1)])
def test_linear_is_equivariant_and_keeps_variance(degree_in: int, degree_out: int) -> None:
    linear = Linear(degree_in, degree_out, 64, 48)
    x = torch.randn(40, dim(degree_in), 64)
    y = linear(x)
    assert y.shape == (40, dim(degree_out), 48)
    torch.testing.assert_close(linear(rotate(x, degree_in)), rotate(y, degree_out))
    assert 0.5 < y.pow(2).mean() < 2


def test_group_linear_equals_one_linear_per_group() -> None:
    grouped = GroupLinear(4, 2, 1, 5, 6)
    x, group = torch.randn(9, dim(2), 5), torch.tensor([3, 0, 0, 3, 1, 1, 3, 0, 1])
    y = grouped(x, group)
    for node, g in enumerate(group):
        single = Linear(2, 1, 5, 6)
        single.weight.data = grouped.weight.data[g]
        torch.testing.assert_close(y[node : node + 1], single(x[node : node + 1]))


def test_linear_refuses_degrees_that_its_input_lacks() -> None:
    with pytest.raises(AssertionError, match="degree 2 cannot come"):
        Linear(1, 2, 4, 4)


def test_padding_is_explicit() -> None:
    x = torch.randn(3, 1, 2)
    y = pad_degrees(x, 2)
    assert y.shape == (3, 9, 2)
    assert y[:, 1:].abs().max() == 0
    assert torch.equal(pad_degrees(y, 2), y)


def test_embedding_and_readouts_keep_variance() -> None:
    x = ElementEmbedding(50, 64)(torch.arange(50))
    assert x.shape == (50, 1, 64)
    assert 0.5 < x.pow(2).mean() < 2
    for make in (lambda: LinearReadout(64), lambda: NonlinearReadout(64, 16)):
        mean_square = torch.stack([make()(x[:, 0]).pow(2).mean() for _ in range(30)]).mean()
        assert 0.5 < mean_square < 2


def test_parts_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        parts = [
            BesselBasis(5.0, 8),
            RadialNetwork(8, [64], 10, 32),
            Linear(3, 3, 10**6, 10**6),
            GroupLinear(100, 1, 1, 10**5, 10**5),
            ElementEmbedding(100, 10**8),
            NonlinearReadout(10**6, 10**6),
        ]
    assert all(p.is_meta for part in parts for p in part.parameters())

"""Parts of the Equiformer-style model: equivariance, variance at initialisation, smoothness, noise of training."""

from itertools import product

import pytest
import torch

from eqmol.errors import InputError
from eqmol.nn import (
    AttentionLogits,
    DropPath,
    Gate,
    GaussianBasis,
    Norm,
    PairNetwork,
    RadialMatrix,
    SphereActivation,
    SphereNetwork,
    attention_weights,
)
from eqmol.nn.activation import SIGMOID_GAIN, SILU_GAIN
from eqmol.so3.layout import dim
from tests.nn.test_parts import rotate

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("degree", [0, 1, 3, 6])
@pytest.mark.parametrize("make", [Gate, lambda l, c: Norm(l, c, "rms"), lambda l, c: Norm(l, c, "layer")])
def test_equivariant_with_unit_variance_at_any_degree(make, degree: int) -> None:
    part = make(degree, 64)
    x = torch.randn(200, dim(degree), 64)
    y = part(x)
    assert y.shape == x.shape
    torch.testing.assert_close(part(rotate(x, degree)), rotate(y, degree))
    for l in range(degree + 1):
        assert 0.5 < y[:, l * l : (l + 1) ** 2].square().mean() < 2


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm_removes_scale_but_does_not_amplify_what_vanishes(kind: str) -> None:
    norm, x = Norm(2, 16, kind), torch.randn(5, dim(2), 16)
    torch.testing.assert_close(norm(1e4 * x), norm(1e5 * x), atol=1e-6, rtol=0)
    assert norm(1e-6 * x).abs().max() < 2e-5
    assert norm(0 * x).abs().max() == 0


def test_layer_norm_is_separable() -> None:
    norm, x = Norm(2, 16, "layer"), torch.randn(5, dim(2), 16)
    louder = torch.cat([7 * x[:, :1], x[:, 1:]], dim=1)
    torch.testing.assert_close(norm(louder)[:, 1:], norm(x)[:, 1:])
    torch.testing.assert_close(norm(louder + 3)[:, 0].mean(-1), torch.zeros(5), atol=1e-12, rtol=0)


def test_norm_refuses_an_unknown_kind() -> None:
    with pytest.raises(InputError, match="norm='batch' is unknown; choose from rms, layer"):
        Norm(1, 4, "batch")


def test_gain_of_gates_restores_the_second_moment() -> None:
    assert abs((SIGMOID_GAIN * torch.sigmoid(torch.randn(200_000))).square().mean() - 1) < 0.01


def sphere_error(part: torch.nn.Module, degree: int) -> float:
    """Relative error of equivariance of what acts on the sphere, of random features."""
    x = torch.randn(50, dim(degree), 16, generator=torch.Generator().manual_seed(0))
    scalars = x[:, 0]
    difference = part(rotate(x, degree), scalars) - rotate(part(x, scalars), degree)
    return (difference.square().mean().sqrt() / part(x, scalars).square().mean().sqrt()).item()


@pytest.mark.parametrize(
    "make", [SphereActivation, lambda l, l_out, resolution: SphereNetwork(l, l_out, 16, resolution)], ids=["s2", "grid"]
)
def test_what_acts_on_the_sphere_is_equivariant_up_to_its_resolution(make) -> None:
    errors = {}
    for degree, k in product((2, 4), (1, 3, 9)):
        torch.manual_seed(0)
        errors[degree, k] = sphere_error(make(degree, degree, (k + 1) * degree + 1), degree)
    for degree in (2, 4):
        assert errors[degree, 1] > errors[degree, 3] > errors[degree, 9]
        assert 1e-10 < errors[degree, 3] < 5e-2
        assert errors[degree, 9] < 5e-4


def test_scalars_of_the_sphere_activation_may_come_from_elsewhere() -> None:
    activation, x, scalars = SphereActivation(2, 1), torch.randn(5, dim(2), 16), torch.randn(5, 16)
    y = activation(x, scalars)
    torch.testing.assert_close(y[:, 0], torch.nn.functional.silu(scalars) * SILU_GAIN)
    torch.testing.assert_close(y[:, 1:], activation(x)[:, 1:])


@pytest.mark.parametrize(("degree_in", "degree_out"), [(0, 0), (3, 0), (3, 1), (4, 4)])
def test_sphere_activation_has_unit_variance(degree_in: int, degree_out: int) -> None:
    x = torch.randn(200, dim(degree_in), 16)
    for y in (SphereActivation(degree_in, degree_out)(x), SphereNetwork(degree_in, degree_out, 16)(x, x[:, 0])):
        assert y.shape[1] == dim(degree_out)
        assert 0.3 < y.square().mean() < 2


# --- attention


def plain_weights(logits: list[float], envelope: list[float]) -> torch.Tensor:
    """The definition for one receiver and head, with m = 0."""
    u, a = torch.tensor(envelope), torch.tensor(logits)
    return u * a.exp() / (1 + (u * a.exp()).sum())


def test_attention_weights_are_their_definition() -> None:
    logits, envelope = [0.3, -1.0, 2.0, 0.7], [0.9, 0.5, 0.1, 0.0]
    alpha = attention_weights(
        torch.tensor(logits)[:, None], torch.tensor(envelope), torch.tensor([0, 0, 0, 2]), num_receivers=3
    )
    torch.testing.assert_close(alpha[:3, 0], plain_weights(logits[:3], envelope[:3]))
    assert alpha[3] == 0


def test_attention_weights_of_large_logits_are_finite() -> None:
    logits = torch.tensor([[1000.0, -1000.0], [999.0, -1001.0]])
    alpha = attention_weights(logits, torch.ones(2), torch.zeros(2, dtype=torch.int64), 1)
    torch.testing.assert_close(alpha, torch.tensor([[0.731058578630005, 0.0], [0.268941421369995, 0.0]]))


def test_attention_weights_differentiate_twice() -> None:
    receivers = torch.tensor([0, 0, 1])
    logits, envelope = torch.randn(3, 2, requires_grad=True), torch.rand(3, requires_grad=True)

    def function(logits: torch.Tensor, envelope: torch.Tensor) -> torch.Tensor:
        return attention_weights(logits, envelope, receivers, 2)

    assert torch.autograd.gradcheck(function, (logits, envelope))
    assert torch.autograd.gradgradcheck(function, (logits, envelope))


def test_the_last_edge_fades_out() -> None:
    for u in (1e-3, 1e-6):
        alpha = attention_weights(torch.ones(1, 1), torch.tensor([u]), torch.zeros(1, dtype=torch.int64), 1)
        assert abs(alpha.item() / u - torch.e) < 1e-2


def test_logits_have_unit_variance_whatever_the_scale_of_the_invariants() -> None:
    mean_square = torch.stack(
        [AttentionLogits(4, 16)(10**k * torch.randn(100, 64)).square().mean() for k in range(-1, 5) for _ in range(10)]
    )
    assert 0.4 < mean_square.mean() < 2


def test_gaussians_have_unit_mean_square_and_are_no_wider_than_their_spacing_asks() -> None:
    basis = GaussianBasis(5.0, 32)
    r = torch.linspace(0.5, 4.5, 50)
    assert ((basis(r).square().mean(-1) - 1).abs() < 0.1).all()
    spacing = 5.0 / 31
    values = basis(torch.tensor([7 * spacing, 9 * spacing]))
    torch.testing.assert_close(values[1, 7] / values[0, 7], torch.tensor(-0.5).exp())


@pytest.mark.parametrize("size", [8, 32, 128])
def test_gaussians_of_one_width_have_one_curvature_however_many_they_are(size: int) -> None:
    basis = GaussianBasis(5.0, size, 0.6)
    r = torch.linspace(0.5, 4.5, 400, dtype=torch.float64).requires_grad_()
    values = basis(r)
    assert ((values.square().mean(-1) / values.square().mean() - 1).abs() < 0.2)[100:300].all()
    peak = torch.exp(-((r - basis.centers[size // 2]) ** 2) / (2 * 0.6**2)) * basis.gain
    torch.testing.assert_close(values[:, size // 2], peak, atol=1e-6, rtol=1e-6)
    (slope,) = torch.autograd.grad(values[:, size // 2].sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    assert curvature.abs().max() == pytest.approx(basis.gain / 0.6**2, rel=1e-3)


def test_gaussians_with_gaps_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"basis_width=0.1 leaves gaps between 11 Gaussians up to 5.0 Å; give at least 0.25 Å"
    ):
        GaussianBasis(5.0, 11, 0.1)


@pytest.mark.parametrize("width", [None, 16])
def test_pair_network_keeps_variance_and_knows_both_elements(width: int | None) -> None:
    network, matrix = PairNetwork(8, [64, 64], 5, width), RadialMatrix(64, 3, 16)
    basis, first, second = torch.randn(300, 8), torch.randint(5, (300,)), torch.randint(5, (300,))
    hidden = network(basis, first, second)
    assert 0.5 < hidden.square().mean() < 2
    assert 0.5 < (hidden @ matrix().flatten(1)).square().mean() < 2
    assert (network(basis, second, first) - hidden)[first != second].abs().amax(-1).min() > 1e-3


# --- noise of training


def test_drop_path_keeps_the_mean_and_rests_in_evaluation() -> None:
    drop, x = DropPath(0.25), torch.ones(20_000, 4, 2)
    y = drop(x)
    assert set(y.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs(y.mean() - 1) < 0.02
    assert torch.equal(y.amax((1, 2)), y.amin((1, 2)))  # whole branches
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)


def test_drop_path_of_graphs_spares_or_drops_all_their_nodes() -> None:
    graphs = torch.arange(3000) // 3
    y = DropPath(0.25)(torch.ones(3000, 4, 2), graphs).view(1000, -1)
    assert torch.equal(y.amax(1), y.amin(1))
    assert set(y.unique().tolist()) == {0.0, 1 / 0.75}
    assert DropPath(0.25)(torch.ones(0, 4, 2), graphs[:0]).shape == (0, 4, 2)


def test_drop_path_follows_the_seed() -> None:
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(DropPath(0.5)(torch.ones(64)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])

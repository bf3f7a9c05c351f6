"""Mixing against e3nn's products of mode uvw with harmonics, with weights taken both ways."""

import pytest
import torch
from e3nn import o3
from torch import Tensor

from eqmol.errors import InputError
from eqmol.interop import UVWWeights
from eqmol.ops import mixing
from tests.interop.compare import assert_same, leaf

pytestmark = pytest.mark.usefixtures("float64")

NODES, EDGES = 3, 8


def irreps(channels: int, degree: int, parity: str) -> o3.Irreps:
    """Natural parity, or all even, so that every path is allowed."""
    return o3.Irreps([(channels, (l, (-1) ** l if parity == "o3" else 1)) for l in range(degree + 1)])


def unflatten(x: Tensor, channels: int) -> Tensor:
    """As :class:`eqmol.interop.Layout`, for any parity."""
    degree = round((x.shape[-1] / channels) ** 0.5) - 1
    parts = x.split([channels * (2 * l + 1) for l in range(degree + 1)], dim=-1)
    return torch.cat([p.unflatten(-1, (channels, -1)).transpose(-1, -2) for p in parts], dim=-2)


@pytest.mark.parametrize("backend", ["cg", "escn"])
@pytest.mark.parametrize("parity", ["o3", "so3"])
@pytest.mark.parametrize(("degree_in", "degree_out"), [(2, 1), (1, 2)])
def test_uvw(degree_in: int, degree_out: int, parity: str, backend: str) -> None:
    harmonics = irreps(1, degree_in + degree_out, parity)
    sizes = irreps(4, degree_in, parity), harmonics, irreps(3, degree_out, parity)
    product = o3.FullyConnectedTensorProduct(*sizes, internal_weights=False, shared_weights=True)
    weights = UVWWeights(product)
    op = mixing(weights.spec, backend)
    own = torch.randn(weights.spec.num_weights, 4, 3)
    torch.testing.assert_close(weights.from_e3nn(weights.to_e3nn(own)), own, atol=1e-12, rtol=0)
    vectors = torch.cat([torch.eye(3), torch.randn(EDGES - 3, 3)]).requires_grad_()
    senders, receivers = torch.randint(NODES, (EDGES,)), torch.sort(torch.randint(NODES, (EDGES,))).values

    def ours(x: Tensor, weight: Tensor, vectors: Tensor) -> Tensor:
        geometry, ends = op.geometry(vectors), (senders, receivers, NODES)
        return op(unflatten(x, 4), geometry, None, weights.from_e3nn(weight), *ends)

    def theirs(x: Tensor, weight: Tensor, vectors: Tensor) -> Tensor:
        messages = product(x[senders], o3.spherical_harmonics(harmonics, vectors, True, "component"), weight)
        return unflatten(messages.new_zeros(NODES, messages.shape[1]).index_add(0, receivers, messages), 3)

    assert_same(ours, theirs, leaf(NODES, product.irreps_in1.dim), leaf(product.weight_numel), vectors)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("4x0e+3x1o", "0e+1o+2e", "4x0e+4x1o"), "are no features of a mixing"),
        (("4x0e+4x1o", "0e+1o", "4x0e+4x1o"), "degree_filter=1 is none"),
        (("4x0e+4x1o", "1o+0e+2e", "4x0e+4x1o"), "'1x1o\\+1x0e\\+1x2e' are no features"),
    ],
    ids=str,
)
def test_refusals(sizes: tuple[str, str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        UVWWeights(o3.FullyConnectedTensorProduct(*sizes))


def test_refuses_other_modes_and_missing_paths() -> None:
    with pytest.raises(InputError, match="has 1 paths, not the 5 of"):
        UVWWeights(o3.TensorProduct("4x0e+4x1o", "0e+1o+2e", "4x0e+4x1o", [(0, 0, 0, "uvw", True)]))
    with pytest.raises(InputError, match="another mode than uvw"):
        UVWWeights(o3.TensorProduct("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)]))

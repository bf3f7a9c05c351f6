"""Dense features and back: order of blocks, padding, parities, rotations."""

import pytest
import torch
from e3nn import o3

from eqmol.errors import InputError
from eqmol.interop import Layout, uvu_paths
from eqmol.so3.layout import degree_slice
from eqmol.so3.wigner import wigner_matrices

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("irreps", "degree", "channels", "uniform"),
    [
        ("4x0e+4x1o+4x2e", 2, 4, True),
        ("5x0e+3x1o+1x2e", 2, 5, False),
        ("2x1o+3x0e+1x1o", 1, 3, True),
        ("2x2e+1x0e+0x1e+3x2e", 2, 5, False),
        ("3x1o", 1, 3, False),
        ("7x0e", 0, 7, True),
    ],
)
def test_there_and_back(irreps, degree, channels, uniform):
    layout = Layout(irreps)
    assert (layout.degree, layout.channels, layout.is_uniform) == (degree, channels, uniform)
    flat = torch.randn(3, 2, layout.irreps.dim)
    dense = layout.unflatten(flat)
    assert dense.shape == (3, 2, (degree + 1) ** 2, channels)
    assert torch.equal(layout.flatten(dense), flat)
    # nothing else than what was given
    torch.testing.assert_close(dense.square().sum(), flat.square().sum())


def test_blocks_become_channels_in_their_order():
    flat = torch.arange(12.0)
    dense = Layout("1x1o+3x0e+2x1o").unflatten(flat)
    assert dense[1:].T.tolist() == [[0, 1, 2], [6, 7, 8], [9, 10, 11]]
    assert dense[0].tolist() == [3, 4, 5]


def test_rotations_are_the_same_on_both_sides():
    layout, rotation = Layout("2x2e+3x0e+3x1o+1x2e+3x3o"), o3.rand_matrix()
    flat = torch.randn(4, layout.irreps.dim)
    turned = layout.unflatten(flat @ layout.irreps.D_from_matrix(rotation).T)
    dense = layout.unflatten(flat)
    for l, matrix in enumerate(wigner_matrices(rotation, layout.degree)):
        expected = torch.einsum("ij,njc->nic", matrix, dense[:, degree_slice(l)])
        torch.testing.assert_close(turned[:, degree_slice(l)], expected, atol=1e-12, rtol=0)


def test_refusals():
    for irreps, unnatural in (("4x0e+4x1e", "1e"), ("0o", "0o"), ("2x0e+2x1o+2x2o", "2o")):
        with pytest.raises(InputError, match=f"have {unnatural}, but dense features hold natural parity"):
            Layout(irreps)
    with pytest.raises(InputError, match="not what e3nn understands"):
        Layout("4y0e")
    with pytest.raises(InputError, match="have no components"):
        Layout("0x0e")
    layout = Layout("3x0e+2x1o")
    with pytest.raises(InputError, match=r"shape \(5, 8\), but irreps '3x0e\+2x1o' have 9 components"):
        layout.unflatten(torch.zeros(5, 8))
    with pytest.raises(InputError, match=r"needs \[..., 4, 3\]"):
        layout.flatten(torch.zeros(5, 3, 4))
    with pytest.raises(InputError, match="channels 2 to 2 of degree 1 are not zero"):
        layout.flatten(torch.ones(5, 4, 3))


def test_paths_of_nequip():
    irreps, paths = uvu_paths("2x0e+3x1o", "0e+1o", "8x0e+8x1o+8x1e")
    assert str(irreps) == "2x0e+3x0e+2x1o+3x1o+3x1e"
    assert paths == [
        (0, 0, 0, "uvu", True),
        (0, 1, 2, "uvu", True),
        (1, 0, 3, "uvu", True),
        (1, 1, 1, "uvu", True),
        (1, 1, 4, "uvu", True),
    ]

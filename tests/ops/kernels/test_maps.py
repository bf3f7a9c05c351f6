"""Linear maps between channels, compiled: as a sum over channels, and the same bits for any number of threads."""

import pytest
import torch

from eqmol import threads
from eqmol.ops.kernels import compiler, forms
from eqmol.ops.kernels.forms import Groups
from eqmol.ops.kernels.maps import ChannelMaps, maps_kernel
from eqmol.so3.layout import degrees, dim


@pytest.mark.usefixtures("kernels", "float64")
@pytest.mark.parametrize("size", [None, 16, 64])
@pytest.mark.parametrize(
    ("groups", "nodes", "degree_in", "degree", "c_in", "c_out"),
    [(1, 5, 2, 2, 3, 70), (3, 11, 1, 0, 33, 8), (2, 0, 1, 1, 4, 4)],
)
def test_maps_and_their_derivatives(groups, nodes, degree_in, degree, c_in, c_out, size, monkeypatch) -> None:
    monkeypatch.setattr(forms, "NODES", 3)
    maps_kernel.cache_clear()
    if size is not None:
        monkeypatch.setattr(compiler, "vector_bytes", lambda: size)
    weight, x = torch.randn(groups, degree + 1, c_in, c_out), torch.randn(nodes, dim(degree_in), c_in)
    group = torch.randint(0, groups, (nodes,))
    kernel = maps_kernel(torch.float64, "require")
    maps_kernel.cache_clear()
    assert kernel is not None
    maps, by_group = ChannelMaps(kernel, weight, 0.5), Groups(group, nodes, groups, group.device).in_stretches()
    own = 0.5 * weight[group][:, degrees(degree)]
    expected = torch.einsum("nmi,nmio->nmo", x[:, : dim(degree)], own)
    found = maps(x, by_group)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    onto = torch.ones(nodes, dim(degree_in), c_in)
    maps.back(found, by_group, onto=onto)
    expected = torch.einsum("nmo,nmio->nmi", found, own)
    torch.testing.assert_close(onto[:, : dim(degree)], 1 + expected, atol=1e-12, rtol=0)
    assert bool((onto[:, dim(degree) :] == 1).all())
    monkeypatch.setattr(threads, "number", lambda: 3)
    assert torch.equal(maps(x, by_group), found)

"""The backbone: shapes, shared geometry, variance at initialisation, and arguments that are refused."""

import math

import pytest
import torch
from ase import Atoms

from eqmol import ops
from eqmol.errors import InputError
from eqmol.graph import collate, edge_vectors
from eqmol.models import MACE
from eqmol.models.mace import MACELayer
from eqmol.ops import RadialWeight, Spec
from eqmol.ops.contract import default_dtype
from eqmol.so3.layout import degree_slice, dim
from tests.models.systems import ELEMENTS, FAMILIES, graph_of, structures

ARGUMENTS = {
    "backend": "cg",
    "family": "coupled",
    "parity": "o3",
    "degree": 1,
    "filter_degree": 3,
    "channels": 8,
    "layers": 3,
    "correlation": 3,
    "fields": 1,
    "cutoff": 3.0,
    "elements": ELEMENTS,
    "avg_num_neighbors": 4.0,
}


def features(model: MACE) -> list[torch.Tensor]:
    graph = graph_of(structures()["molecule"])
    species = torch.tensor([ELEMENTS.index(z) for z in graph.atomic_numbers.tolist()])
    return model(edge_vectors(graph).to(torch.float32), species, *graph.edge_index)


@pytest.mark.parametrize(("family", "backend"), FAMILIES)
@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize("fields", [1, 3])
def test_shapes(family: str, backend: str, degree: int, fields: int) -> None:
    model = MACE(**ARGUMENTS | {"family": family, "backend": backend, "degree": degree, "fields": fields})
    assert [x.shape[1:] for x in features(model)] == [(dim(degree), 8), (dim(degree), 8), (1, 8)]


@pytest.mark.parametrize(("family", "backend"), FAMILIES)
@pytest.mark.parametrize("correlation", [1, 3])
def test_features_stay_of_order_one_at_initialisation(family: str, backend: str, correlation: int) -> None:
    sizes = {"family": family, "backend": backend, "correlation": correlation, "channels": 32}
    sizes["avg_num_neighbors"] = graph_of(structures()["molecule"]).num_edges / len(structures()["molecule"])
    model = MACE(**ARGUMENTS | sizes)
    for x in features(model):
        assert 0.1 < x[:, 0].pow(2).mean().sqrt() < 3


def test_as_many_blocks_as_paths_keep_paths_apart_until_channels_mix() -> None:
    with default_dtype(torch.float64):
        spec = Spec("convolution", "coupled", "o3", 1, 2, 2)
        power = Spec("power", "coupled", "o3", 2, 0, 1, 1)
        wide = MACELayer(spec, power, "cg", 4, 9, 1, 1, 3, [8], False, 1.0, 1.0)
        one = ops.convolution(Spec("convolution", "coupled", "o3", 1, 2, 2), "cg")
    blocks = wide.up.weight.shape[-1] // 4
    assert blocks == 3  # (0, 1), (1, 0) and (1, 2) lead to vectors
    ranks = [sum(l3 == spec.pair_paths[p][2] for p in range(q)) for q, (_, _, l3) in enumerate(spec.pair_paths)]
    with torch.no_grad():
        wide.up.weight.copy_(wide.up.weight[..., :4].repeat(1, 1, blocks))
        for q, rank in enumerate(ranks):
            for k in range(blocks):
                wide.radial.matrix[:, q, 4 * k : 4 * k + 4] *= float(k == rank)
    x, vectors, basis = (torch.randn(*size, dtype=torch.float64) for size in ((5, 4, 4), (7, 3), (7, 3)))
    senders, receivers = torch.randint(5, (7,)), torch.randint(5, (7,)).sort().values
    hidden, matrix = wide.radial(basis)
    geometry = one.geometry(vectors)
    found = wide.mix(one(wide.up(x), geometry, RadialWeight(hidden, matrix), senders, receivers, 5))
    expected = torch.zeros_like(found)
    for q, (_, _, l3) in enumerate(spec.pair_paths):
        block = slice(4 * ranks[q], 4 * ranks[q] + 4)
        only = torch.zeros_like(matrix[..., block])
        only[:, q] = matrix[:, q, block]
        message = one(wide.up(x)[..., :4], geometry, RadialWeight(hidden, only), senders, receivers, 5)
        rows = degree_slice(l3)
        expected[:, rows] += message[:, rows] @ wide.mix.weight[l3, block] / math.sqrt(4 * blocks)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("widen", "blocks"), [(1, [1, 1]), (2, [1, 2]), (64, [1, 3])])
def test_no_more_blocks_than_paths(widen: int, blocks: list[int]) -> None:
    model = MACE(**ARGUMENTS | {"widen": widen, "layers": 2})
    assert [layer.up.weight.shape[-1] // 8 for layer in model.layers] == blocks


def test_geometry_is_computed_once_per_kind() -> None:
    model = MACE(**ARGUMENTS | {"layers": 4})
    calls = []
    for layer in model.layers:
        geometry = layer.convolution.geometry
        layer.convolution.geometry = lambda v, g=geometry: calls.append(1) or g(v)
    features(model)
    assert len(calls) == len({layer.convolution.geometry_key for layer in model.layers}) < 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 10**6}, "degree=1000000 must be an integer from 0"),
        ({"degree": True}, "degree=True"),
        ({"degree": 1.0}, "degree=1.0"),
        ({"filter_degree": -1}, "filter_degree=-1"),
        ({"correlation": 0}, "correlation=0"),
        ({"correlation": 10**9}, "correlation=1000000000"),
        ({"filter_degree": 12, "correlation": 6}, "monomials"),
        ({"layers": 10**9}, "layers=1000000000"),
        ({"channels": 10**5000}, "channels=an integer of more than 30 digits"),
        ({"fields": 0}, "fields=0"),
        ({"widen": 65}, "widen=65"),
        ({"cutoff": float("nan")}, "cutoff=nan"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
        ({"cutoff": "5"}, "cutoff='5'"),
        ({"elements": []}, "elements"),
        ({"elements": [1, 1]}, "twice"),
        ({"elements": [0]}, "elements=0"),
        ({"elements": "HCO"}, "elements='HCO'"),
        ({"radial_hidden": [64] * 100}, "radial_hidden"),
        ({"radial_hidden": [10**12]}, "radial_hidden=1000000000000"),
        ({"num_bessel": 0}, "num_bessel=0"),
        ({"avg_num_neighbors": float("inf")}, "avg_num_neighbors=inf"),
        ({"backend": "fast"}, "fast"),
        ({"backend": ["cg"]}, "backend"),
        ({"backend": "grid"}, "grid.*coupled"),
        ({"family": "full"}, "full"),
        ({"parity": "o4"}, "o4"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_in_one_sentence(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        MACE(**ARGUMENTS | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("family", "backend"), FAMILIES)
def test_can_be_built_without_memory(family: str, backend: str) -> None:
    with torch.device("meta"):
        model = MACE(**ARGUMENTS | {"family": family, "backend": backend, "channels": 1024})
    assert all(p.is_meta for p in model.parameters())


def test_batches_of_no_edges() -> None:
    model = MACE(**ARGUMENTS)
    graph = collate([graph_of(Atoms("H")), graph_of(Atoms("O"))])
    x = model(torch.zeros(0, 3), torch.tensor([0, 2]), *graph.edge_index)
    assert all(torch.isfinite(features).all() for features in x)

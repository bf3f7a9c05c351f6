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
from eqmol.nn import GroupLinear
from eqmol.ops import RadialWeight, Spec
from eqmol.so3.layout import degree_slice, dim
from tests.models.systems import ELEMENTS, FAMILIES, graph_of, make_model, structures

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


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("widen", [9, "paths"])
def test_blocks_keep_paths_apart_until_channels_mix(widen: int | str) -> None:
    spec = Spec("convolution", "coupled", "o3", 1, 2, 2)
    wide = MACELayer(spec, Spec("power", "coupled", "o3", 2, 0, 1, 1), "cg", 4, widen, 1, 1, 3, [8], False, 1.0, 1.0)
    one = ops.convolution(spec, "cg")
    paths = spec.pair_paths
    blocks = wide.mix.weight.shape[1] // 4
    assert blocks == 3  # (0, 1), (1, 0) and (1, 2) lead to vectors
    ranks = [sum(l3 == paths[p][2] for p in range(q)) for q, (_, _, l3) in enumerate(paths)]
    x, vectors, basis = torch.randn(5, 4, 4), torch.randn(7, 3), torch.randn(7, 3)
    senders, receivers = torch.randint(5, (7,)), torch.randint(5, (7,)).sort().values
    geometry = one.geometry(vectors)
    with torch.no_grad():
        if widen != "paths":
            wide.up.weight.copy_(wide.up.weight[..., :4].repeat(1, 1, blocks))
            for q, rank in enumerate(ranks):
                for k in range(blocks):
                    wide.radial.matrix[:, q, 4 * k : 4 * k + 4] *= float(k == rank)
    hidden, matrix = wide.radial(basis)
    found = wide.mix(wide.convolution(wide.up(x), geometry, RadialWeight(hidden, matrix), senders, receivers, 5))
    expected = torch.zeros_like(found)
    for q, (path, rank) in enumerate(zip(paths, ranks, strict=True)):
        block = slice(4 * rank, 4 * rank + 4)
        only = torch.zeros(8, len(paths), 4)
        if widen == "paths":  # each is the only one into its degree there
            own = wide.convolution.spec.pair_paths.index(path)
            only[:, q] = matrix[:, own] * math.sqrt(sum(p[2] == path[2] for p in paths))
        else:
            only[:, q] = matrix[:, q, block]
        message = one(wide.up(x)[..., :4], geometry, RadialWeight(hidden, only), senders, receivers, 5)
        rows = degree_slice(path[2])
        expected[:, rows] += message[:, rows] @ wide.mix.weight[path[2], block] / math.sqrt(4 * blocks)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("widen", "blocks"), [(1, [1, 1]), (2, [1, 2]), (64, [1, 3]), ("paths", [1, 3])])
def test_no_more_blocks_than_paths(widen: int, blocks: list[int]) -> None:
    model = MACE(**ARGUMENTS | {"widen": widen, "layers": 2})
    assert [layer.mix.weight.shape[1] // 8 for layer in model.layers] == blocks


@pytest.mark.usefixtures("float64")
def test_messages_are_divided_by_the_density_of_neighbours() -> None:
    sizes = {"layers": 1, "density": True, "correlation": 1, "degree": 0, "filter_degree": 0, "num_bessel": 2}
    model = MACE(**ARGUMENTS | sizes)
    layer = model.layers[0]
    seen = []
    layer.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vectors = torch.tensor([[0.9, 0, 0], [0, 1.2, 0], [0, 0, 1.1]])
    senders, receivers = torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1])
    species = torch.tensor([0, 1, 2])
    model(vectors, species, senders, receivers)
    ends = species[senders], species[receivers]
    basis = model.basis(torch.linalg.vector_norm(vectors, dim=-1), ends)
    weight = RadialWeight(*layer.radial(basis, ends)).dense()
    x = layer.up(model.embedding(species))
    for atom, edges in enumerate(([0, 1], [2], [])):
        total = sum((weight[e] * x[senders[e]] for e in edges), torch.zeros(1, 8))
        crowd = sum(torch.tanh((basis[e] @ layer.density) ** 2 / 2) for e in edges)
        torch.testing.assert_close(seen[0][atom], total / (1 + crowd), atol=1e-13, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_without_residual_messages_are_mixed_by_element() -> None:
    model = MACE(**ARGUMENTS | {"layers": 2, "first_residual": False, "correlation": 1})
    layer = model.layers[0]
    assert isinstance(layer.mix, GroupLinear)
    assert layer.residual is None
    assert model.layers[1].residual is not None
    seen = {}
    for name in ("mix", "power", "down"):
        getattr(layer, name).register_forward_hook(lambda _, i, o, name=name: seen.update({name: (i[0], o)}))
    graph = graph_of(structures()["molecule"])
    species = torch.tensor([ELEMENTS.index(z) for z in graph.atomic_numbers.tolist()])
    found = model(edge_vectors(graph), species, *graph.edge_index)[0]
    messages, fields = seen["mix"]
    for atom, z in enumerate(species):
        for l in range(4):
            rows = degree_slice(l)
            expected = messages[atom, rows] @ layer.mix.weight[z, l] * (layer.message_scale / math.sqrt(8))
            torch.testing.assert_close(fields[atom, rows], expected, atol=1e-13, rtol=1e-12)
    assert torch.equal(found, seen["down"][1])


@pytest.mark.parametrize(
    "given", ["Agnesi", 1, {"kind": "soft", "p": 2.0}, {"a": 1.0}, {"kind": "agnesi", "a": 0}, {"kind": "soft", 5: 5}]
)
def test_other_transforms_are_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"distance_transform|agnesi"):
        MACE(**ARGUMENTS | {"distance_transform": given})


def test_constants_of_transforms_are_taken() -> None:
    transform = MACE(**ARGUMENTS | {"distance_transform": {"kind": "agnesi", "a": 1.5}}).basis.transform
    assert (transform.a, transform.q) == (1.5, 0.9183)


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
        ({"widen": "path"}, "widen='path'"),
        ({"widen": "paths", "family": "gaunt"}, "widen=paths is for family=coupled and messages=depthwise"),
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


@pytest.mark.usefixtures("float64", "kernels")
def test_an_edge_and_its_way_back_share_the_radial_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("cg", "coupled", "o3").train()
    batch = collate([graph_of(structures()[name]) for name in ("molecule", "triclinic")])
    rows: list[int] = []
    model.backbone.layers[0].radial.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))

    def loss() -> list[torch.Tensor]:
        found = model(batch, stress=True)
        total = found["energy"].sin().sum() + found["forces"].sin().sum() + found["virial"].sin().sum()
        return [total, *torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)]

    found = loss()
    monkeypatch.setattr(MACE, "_shares", lambda *_: False)
    torch.testing.assert_close(found, loss(), atol=1e-10, rtol=1e-10)
    assert rows == [batch.num_edges // 2, batch.num_edges]

"""Radial weights from tables: as exact as they are said to be, and the network wherever a table would not do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import eqmol
from eqmol import threads
from eqmol.checkpoint import for_prediction
from eqmol.errors import InputError, VerificationError
from eqmol.models import Potential, mace, mace_sweep, radial_tables
from eqmol.models.mace_sweep import sweep_of
from eqmol.models.radial_tables import FIRST, Grid, jvp
from eqmol.models.reference import BindingEnergy
from eqmol.nn import BesselBasis, RadialNetwork
from eqmol.ops import Spec
from eqmol.ops.kernels import stretches
from eqmol.ops.kernels.tabulated import packed
from eqmol.ops.radial_table import Places, RadialTable, convolve, hermite
from eqmol.ops.registry import create
from eqmol.so3.layout import dim
from eqmol.tuning import cache
from eqmol.tuning import tables as settling
from eqmol.tuning.cache import Fineness
from eqmol.tuning.tables import tabulate
from tests.models.systems import CUTOFF, graph_of, make_model, structures
from tests.recipes import model as made
from tests.recipes import recipe

BACKENDS = [("coupled", "cg"), ("coupled", "escn"), ("gaunt", "grid")]


def test_polynomials_of_fifth_degree_are_exact(float64) -> None:
    coefficients = torch.randn(6)
    ends = torch.tensor([0.0, 1.0]).requires_grad_()
    value = torch.stack([ends**k for k in range(6)], -1) @ coefficients
    (slope,) = torch.autograd.grad(value.sum(), ends, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), ends)
    torch.testing.assert_close(hermite(value, slope, curvature), coefficients.unsqueeze(0), atol=1e-12, rtol=0)


def test_products_with_a_vector_are_derivatives(float64) -> None:
    r = torch.linspace(1, 2, 5).requires_grad_()
    first = jvp(torch.stack([r**2, r**3], 1), r)
    torch.testing.assert_close(first, torch.stack([2 * r, 3 * r**2], 1))
    torch.testing.assert_close(jvp(first, r), torch.stack([2 * torch.ones(5), 6 * r], 1))


@pytest.mark.parametrize("num_elements", [0, 2])
def test_the_error_falls_with_the_fifth_power_of_the_step(float64, num_elements) -> None:
    basis, network = BesselBasis(4.0, 4), RadialNetwork(4, [8, 8], 2, 3, num_elements)
    errors = []
    for nodes in (100, 199):
        grid = Grid(4.0, nodes, num_elements)
        table = grid.tabulate(basis, network)
        assert table is not None
        error, none = grid.error(basis, network, table)
        errors.append(error)
        assert none == 0.0
    assert 1e-9 < errors[1] < errors[0] < 1e-2
    assert 20 < errors[0] / errors[1] < 50


@pytest.mark.parametrize(("num_elements", "shortest"), [(0, [[1.5, 9.0], [9.0, 0.0]]), (2, [[1.5, 1.5], [1.5, 1.5]])])
def test_lengths_that_training_had_none_of_are_judged_apart(float64, num_elements, shortest) -> None:
    """Of one network for all pairs the shortest of all counts; of a pair without any, no length does."""
    basis, network = BesselBasis(4.0, 4), RadialNetwork(4, [8, 8], 2, 3, num_elements)
    grid = Grid(4.0, 100, num_elements)
    table = grid.tabulate(basis, network)
    error = grid.error(basis, network, table)[0]
    apart = grid.error(basis, network, table, torch.tensor(shortest))
    assert max(apart) == error
    assert 0 < min(apart) < error
    assert grid.error(basis, network, table, torch.full((2, 2), 0.1)) == (error, 0.0)
    assert grid.error(basis, network, table, torch.zeros(2, 2)) == (0.0, error)


@pytest.mark.parametrize(("family", "backend"), BACKENDS)
@pytest.mark.parametrize("pair_radial", [False, True])
def test_forces_are_those_of_the_network(float64, family, backend, pair_radial) -> None:
    model = make_model(backend, family, pair_radial=pair_radial)
    for atoms in structures().values():
        graph = graph_of(atoms)
        exact = model(graph, stress=True)
        assert model.backbone.tabulate(1024)
        found = model(graph, stress=True)
        for name in ("energies", "forces", "virial"):
            scale = float(exact["forces"].square().mean().sqrt())
            torch.testing.assert_close(found[name], exact[name], atol=1e-6 * scale, rtol=0)
            assert not torch.equal(found["forces"], exact["forces"])
        model.backbone.tabulate(None)
        assert torch.equal(model(graph)["forces"], exact["forces"])


def test_short_edges_training_and_casts_use_the_network(float64) -> None:
    model = make_model()
    model.backbone.tabulate(256)
    short, molecule = (
        graph_of(Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.99 * FIRST]])),
        graph_of(structures()["molecule"]),
    )
    tabulated = [model(graph)["energies"] for graph in (short, molecule)]
    assert not torch.equal(model.train()(molecule)["energies"].detach(), tabulated[1])
    model.eval().float().double()
    assert model.backbone.table_nodes is None
    exact = [make_model()(graph)["energies"] for graph in (short, molecule)]
    assert torch.equal(tabulated[0], exact[0])
    assert not torch.equal(tabulated[1], exact[1])


def test_nothing_lies_beyond_the_cutoff(float64) -> None:
    grid = Grid(3.0, 64, 0)
    table = grid.tabulate(BesselBasis(3.0, 4), RadialNetwork(4, [8], 2, 3))
    places = grid.places(torch.tensor([3.0, 3.2]), (torch.zeros(2, dtype=torch.int64),) * 2)
    assert table is not None
    assert places is not None
    assert table.weight(places).hidden.abs().max() < 1e-12


def test_tables_that_would_be_large_are_not_made(float64) -> None:
    assert Grid(3.0, 4096, 89).tabulate(BesselBasis(3.0, 4), RadialNetwork(4, [8], 10, 64, 89)) is None


# --- compiled


@pytest.mark.usefixtures("kernels", "float64")
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("channels", [3, 64, 69])
def test_compiled_tables(degree, channels, separate, monkeypatch) -> None:
    """Values and slopes as torch's, and the same bits for any number of threads."""
    monkeypatch.setattr(stretches, "SIZE", 4)
    spec = Spec("convolution", "coupled", "o3", degree, 2, 2)
    spec = spec.with_separate_paths() if separate else spec
    op = create(spec, "cg")
    hidden, matrix = torch.randn(11, 6, 7), torch.randn(7, spec.num_weights, channels)
    table = RadialTable(hidden, matrix, packed(torch.einsum("rdh,hwc->rdwc", hidden, matrix)))
    x, vectors, fraction = torch.randn(6, dim(degree), channels), torch.randn(30, 3), torch.rand(30)
    row, senders, receivers = (
        torch.randint(0, 11, (30,)),
        torch.randint(0, 6, (30,)),
        torch.randint(0, 6, (30,)).sort().values,
    )

    def run(number: int) -> list[torch.Tensor]:
        monkeypatch.setattr(threads, "number", lambda: number)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, vectors, fraction)]
        places = Places(row, leaves[2])
        out = convolve(op, leaves[0], op.geometry(leaves[1]), table, places, senders, receivers, 6)
        return [out, *torch.autograd.grad(out.sin().sum(), leaves)]

    compiled = run(1)
    for number in (2, 3, 8):
        assert all(torch.equal(a, b) for a, b in zip(run(number), compiled, strict=True))
    op.kernels = "off"
    expected = run(1)
    assert not torch.equal(compiled[0], expected[0])
    torch.testing.assert_close(compiled, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.usefixtures("kernels", "float64")
@pytest.mark.parametrize(
    ("backend", "family", "options"),
    [
        ("cg", "coupled", {"widen": 2}),
        ("grid", "gaunt", {"first_residual": False, "channels": 19}),
        pytest.param("cg", "coupled", {"widen": "paths", "degree_out": 1, "pair_radial": True}, marks=pytest.mark.slow),
    ],
    ids=["residual", "by-element", "paths"],
)
def test_sweeps_are_what_is_recorded(backend, family, options, monkeypatch) -> None:
    """Without a record of operations, repeated on the same memory, and as one node of autograd."""
    model = make_model(backend, family, zbl=True, **options)
    model.binding = BindingEnergy([-1.0, -2.0, -3.0], CUTOFF)
    assert model.backbone.tabulate(96)
    graphs = [graph_of(atoms) for atoms in structures().values()]
    first = [model(graph, stress=True) for graph in graphs]
    sweep = sweep_of(model.backbone, list(model.backbone.layers), model.backbone.grid, 3)
    for graph, results in zip(graphs, first, strict=True):
        moved = graph.clone()
        moved.pos = graph.pos * 1.01
        model(moved)
        (replay,) = sweep._replays
        again = model(graph, stress=True)
        assert sweep._replays == [replay]
        assert all(torch.equal(results[name], again[name]) for name in ("energies", "forces", "virial"))
    astray = torch.tensor([4]), torch.tensor([0])
    with pytest.raises(IndexError, match="sender 4 is out of range: there are 3"):
        model.backbone.read(torch.ones(1, 3), torch.arange(3), *astray, lambda _: None)
    monkeypatch.setattr(mace_sweep, "MOST_EDGES", 0)
    once = [model(graph, stress=True) for graph in graphs]
    monkeypatch.setattr(type(model.backbone), "read", lambda *_: None)
    node = [model(graph, stress=True) for graph in graphs]
    monkeypatch.setattr(mace, "sweep_of", lambda *_: None)
    recorded = [model(graph, stress=True) for graph in graphs]
    for found in (first, once, node):
        for results, expected in zip(found, recorded, strict=True):
            assert not torch.equal(results["forces"], expected["forces"])
            for name, value in results.items():
                torch.testing.assert_close(value, expected[name], atol=1e-10, rtol=1e-10, equal_nan=True)


@pytest.mark.usefixtures("kernels", "float64")
def test_layers_with_other_parts_are_recorded() -> None:
    def sweep(model):
        return sweep_of(model.backbone, list(model.backbone.layers), model.backbone.grid, 3)

    for model in (make_model("escn"), make_model(variant="mace-density")):
        assert model.backbone.tabulate(96)
        assert sweep(model) is None
    model = make_model()
    assert model.backbone.tabulate(96)
    assert sweep(model) is not None
    assert sweep(model) is sweep(model)
    for layer in model.backbone.layers:
        layer.power.kernels = "off"
    assert sweep(model) is None


# --- through the doors


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EQMOL_RADIAL_TABLE")
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path))
    monkeypatch.setattr(settling, "MARGIN", 2)  # forces of an untrained model have little rounding


def test_nodes_are_chosen_by_the_rounding(tables, capsys) -> None:
    graph = graph_of(structures()["molecule"])
    model = for_prediction(made(torch.float32))
    network = model.backbone
    assert network.table_nodes is None
    found = model(graph)["forces"]
    assert f"tables of {network.table_nodes} nodes: forces differ by up to" in capsys.readouterr().err
    exact = made(torch.float32).double()(graph)["forces"]
    rounding = (made(torch.float32)(graph)["forces"] - exact).abs().max()
    assert (found - exact).abs().max() < 3 * rounding


def test_nodes_are_settled_once(tables, capsys, monkeypatch) -> None:
    graph, model = graph_of(structures()["molecule"]), made(torch.float32)
    nodes, forces = used(model, graph)
    assert "forces differ by up to" in capsys.readouterr().err
    monkeypatch.setattr(settling, "_settled", lambda *_: pytest.fail("settled again"))
    again, same = used(model, graph)
    assert again == nodes
    assert torch.equal(same, forces)
    assert f"tables of {nodes} nodes: when this model was first used" in capsys.readouterr().err
    # of other weights nothing is known, nor where the error is near the rounding
    close = Fineness(512, 0.9, 1.0)
    monkeypatch.setattr(settling, "_settled", lambda *_: close)
    with torch.no_grad():
        next(model.parameters()).mul_(1 + 1e-6)
    assert used(model, graph)[0] == 512
    assert close not in cache.read_tables().values()


@pytest.mark.parametrize(
    "numbers", ["[100, 0, 1]", "[384, 2, 1]", "[384, NaN, 1]", "[Infinity, 0, 1]", '["x", 0, 1]', "[384]"]
)
def test_what_is_remembered_is_checked(tables, tmp_path, numbers) -> None:
    graph, model = graph_of(structures()["molecule"]), made(torch.float32)
    nodes, _ = used(model, graph)
    (key,) = cache.read_tables()
    (tmp_path / "tables.json").write_text(f'{{"format": 1, "tables": {{"{key}": {numbers}}}}}')
    if numbers == "[100, 0, 1]":  # not a number of nodes that is tried
        assert used(model, graph)[0] == nodes
        return
    with pytest.warns(UserWarning, match=r"ignoring the damaged file .*tables\.json"):
        assert used(model, graph)[0] == nodes
    assert cache.read_tables()[key].nodes == nodes


def used(model: Potential, graph: object) -> tuple[int | None, torch.Tensor]:
    """Nodes and forces of a model in its first use."""
    copy = for_prediction(model)
    forces = copy(graph)["forces"]
    return copy.backbone.table_nodes, forces


@pytest.mark.parametrize(
    "options", [{"radial_table": "off"}, {"dtype": "float64"}], ids=lambda options: next(iter(options))
)
def test_networks_are_evaluated(tables, options, capsys) -> None:
    model = for_prediction(made(torch.float32), **options)
    model(graph_of(structures()["molecule"]))
    assert model.backbone.table_nodes is None
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("kernels")
def test_what_would_be_too_large_is_not_made(tables, monkeypatch, capsys) -> None:
    graph, model = graph_of(structures()["molecule"]), made(torch.float32)
    nodes, forces = used(model, graph)
    matrix = model.backbone.layers[-1].radial.matrix
    hidden, weights = 6 * nodes * len(matrix), 6 * nodes * matrix[0].numel()
    assert hidden < weights
    monkeypatch.setattr(radial_tables, "MAX_SIZE", hidden)  # hidden features only
    copy = for_prediction(model)
    torch.testing.assert_close(copy(graph)["forces"], forces, rtol=0, atol=1e-5)
    assert copy.backbone.table_nodes == nodes
    assert copy.backbone.layers[-1].table.weights is None
    monkeypatch.setattr(radial_tables, "MAX_SIZE", hidden - 1)
    monkeypatch.setattr(cache, "read_tables", dict)
    capsys.readouterr()
    copy = for_prediction(model)
    torch.testing.assert_close(copy(graph)["forces"], forces, rtol=0, atol=1e-5)
    assert copy.backbone.table_nodes is None
    assert "not read from tables: none that is small enough" in capsys.readouterr().err


def test_models_without_tables_have_none(tables) -> None:
    torch.set_default_dtype(torch.float32)
    assert tabulate(make_model(variant="equiformer"), graph_of(structures()["molecule"])) is None
    assert tabulate(make_model(), graph_of(Atoms("H"))) is None


def test_unknown_options_are_refused(monkeypatch) -> None:
    with pytest.raises(InputError, match="radial_table=on is unknown; choose auto or off"):
        eqmol.Calculator(made(), radial_table="on")
    monkeypatch.setenv("EQMOL_RADIAL_TABLE", "fast")
    with pytest.raises(InputError, match="EQMOL_RADIAL_TABLE=fast is unknown; choose auto or off"):
        eqmol.Calculator(made())


@pytest.mark.usefixtures("kernels")
def test_dynamics_keep_their_energy_consistent(tables) -> None:
    """Forces of the calculator are the slope of its energy, and its tables are compiled."""
    atoms = structures()["molecule"].copy()
    atoms.calc = eqmol.Calculator(made(torch.float32))
    forces = atoms.get_forces()
    assert atoms.calc.model.backbone.table_nodes is not None
    direction, start = np.random.default_rng(0).normal(size=forces.shape) / 10, atoms.positions.copy()
    energies = []
    for t in (-0.02, 0.02):
        atoms.positions = start + t * direction
        energies.append(atoms.get_potential_energy())
    assert (energies[0] - energies[1]) / 0.04 == pytest.approx((forces * direction).sum(), rel=2e-2)


@pytest.mark.usefixtures("kernels")
def test_a_wrong_table_is_found_by_verification(tables, monkeypatch) -> None:
    original = Grid.tabulate

    def wrong(self, basis, network, compiled):
        table = original(self, basis, network, compiled)
        return table if network.matrix.dtype == torch.float64 else table._replace(weights=table.weights * 1.01)

    monkeypatch.setattr(Grid, "tabulate", wrong)
    model = for_prediction(eqmol.checkpoint.build(recipe(avg_num_neighbors=5.5)))
    with pytest.raises(VerificationError, match="disagrees with the reference"):
        model(graph_of(structures()["molecule"]))

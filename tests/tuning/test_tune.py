"""``backend=auto``: what is chosen, what is remembered, and that nothing but speed depends on it."""

import io
import json
import math
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from rich.console import Console
from safetensors import safe_open

import eqmol
from eqmol.checkpoint import build, save
from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.ops import register
from eqmol.ops.cg import CGPower
from eqmol.ops.registry import candidates
from eqmol.train.stop import Interrupted
from eqmol.tuning import cache, tune
from eqmol.tuning.cache import Times
from eqmol.tuning.excerpt import EDGES, excerpt
from eqmol.tuning.operations import AUTO, apply, backend_of, evaluate, frozen, operations, record
from tests.recipes import model, recipe
from tests.train.runs import assert_same, train, weights
from tests.train.test_run import interrupt_at

GAUNT = {"family": "gaunt", "backend": "grid"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that every algorithm takes, whatever it does."""
    seconds = {"cg": 5.0, "escn": 4.0, "gaunt": 1.0, "gaunt_fft": 3.0, "grid": 2.0}

    def interleaved(calls, *_):
        for call in calls.values():
            call()
        return {name: seconds[name] for name in calls}

    monkeypatch.setattr(tune, "interleaved", interleaved)
    return seconds


def ethanols(count: int = 3, cutoff: float = 3.5):
    return collate([from_atoms(molecule("CH3CH2OH"), cutoff) for _ in range(count)])


def results(potential, graph) -> list[torch.Tensor]:
    output = potential(graph)
    return [output["energies"], output["forces"]]


def shown(tuning: tune.Tuning, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(tuning.table())
    return console.file.getvalue().splitlines()


# --- telling


def test_the_table_is_whole_on_a_narrow_screen() -> None:
    names = ["backbone.layers.0.attention.convolution", "backbone.layers.1.node_blocks.0.product"]
    cost = Times(0.0446, 0.0104, "")
    costs = {names[0]: dict.fromkeys(("cg", "escn", "gaunt", "grid"), cost), names[1]: {"cg": Times(math.inf, 0.0, "")}}
    described = dict.fromkeys(names, "2 ⊗ 4 → 2")
    tuning = tune.Tuning(dict.fromkeys(names, "gaunt"), costs, described, frozenset({"gaunt"}), "training", True)
    lines = shown(tuning, 80)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    (header,) = [line for line in lines if "operation" in line]
    assert header.split() == ["operation", "computes", "cg", "escn", "gaunt", "grid", "choice"]
    assert sum("+ 10.4" in line for line in lines) == 1
    assert "–: four times slower" in " ".join(lines)
    assert "Not tried" not in " ".join(lines)


@pytest.mark.parametrize(("family", "others"), [("coupled", "gaunt, gaunt_fft, grid"), ("gaunt", None)])
def test_algorithms_that_were_not_tried_are_named(clock, family: str, others: str | None) -> None:
    backend = "cg" if family == "coupled" else "grid"
    tuning = tune.tune(model(family=family, backend=backend), ethanols(), "training")
    text = " ".join(" ".join(shown(tuning, 110)).split())
    assert ("Not tried" in text) == (others is not None)
    if others is not None:
        assert f"Not tried: {others}, which do not compute the coupled family (see model.family)." in text


# --- choosing


def test_a_shared_geometry_is_paid_once() -> None:
    costs = {
        "first": {"cg": Times(2.0, 5.0, "harmonics"), "escn": Times(1.0, 5.0, "frames")},
        "second": {"cg": Times(1.0, 5.0, "harmonics"), "escn": Times(9.0, 5.0, "frames")},
        "power": {"cg": Times(2.0, 0.0, ""), "grid": Times(1.0, 0.0, "")},
    }
    problems = {"layer 0": "first", "layer 1": "second", "power": "power"}
    # alone the first would take escn, for 6 instead of 7; beside the second, harmonics are there already
    assert tune.decide(problems, costs) == {"layer 0": "cg", "layer 1": "cg", "power": "grid"}
    many = problems | {f"layer {number}": "first" for number in range(2, 9)}
    assert tune.decide(many, costs)["layer 0"] == "escn"


def test_the_fastest_is_chosen(clock) -> None:
    potential = model(**GAUNT)
    tuning = tune.tune(potential, ethanols(), "training")
    with_choice = {name for name, op in operations(potential).items() if len(candidates(op.spec)) > 1}
    assert tuning.choices == dict.fromkeys(with_choice, "gaunt")
    assert {backend_of(operations(potential)[name]) for name in with_choice} == {"gaunt"}
    clock["grid"] = 0.5
    assert set(tune.tune(model(**GAUNT), ethanols(), "forces").choices.values()) == {"grid"}


@pytest.mark.parametrize("mode", ["energy", "forces", "training"])
@pytest.mark.parametrize("family", ["coupled", "gaunt"])
def test_only_the_algorithms_change(family, mode) -> None:
    """Measured for real: equal results, and weights, gradients, mode and random numbers left alone."""
    potential = model(family=family, parity="so3").train()
    expected = results(model(family=family, parity="so3"), ethanols())
    state, draws = {k: v.clone() for k, v in potential.state_dict().items()}, torch.get_rng_state()
    tuning = tune.tune(potential, ethanols(), mode)
    assert torch.equal(torch.get_rng_state(), draws)
    assert potential.training
    assert all(p.requires_grad and p.grad is None for p in potential.parameters())
    assert_same(potential.state_dict(), state)
    for name, backend in tuning.choices.items():
        assert backend in candidates(operations(potential)[name].spec)
    for value, wanted in zip(results(potential.eval(), ethanols()), expected, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-10, rtol=1e-12)


def test_every_algorithm_is_run_on_what_the_model_gives_it() -> None:
    potential = frozen(model(**GAUNT))
    outputs = {name: [] for name in operations(potential)}
    for name, operation in operations(potential).items():
        operation.register_forward_hook(lambda _module, _args, output, name=name: outputs[name].append(output))
    for name, entry in record(potential, ethanols()).items():
        operation = operations(potential)[name]
        geometry = None if entry.vectors is None else operation.geometry(entry.vectors)
        assert (entry.vectors is None) == (operation.operation != "convolution")
        assert all(map(torch.equal, evaluate(operation, entry, geometry), outputs[name]))


def test_large_batches_are_judged_by_an_excerpt_first(clock) -> None:
    clock["cg"] = 1e3
    tuning = tune.tune(model(**GAUNT), ethanols(80), "energy")
    assert all(math.isinf(costs["cg"].operation) for costs in tuning.costs.values())
    assert not math.isinf(min(costs["grid"].operation for costs in tuning.costs.values()))


def test_impossible_powers_are_left_out(clock) -> None:
    potential = model(**GAUNT, filter_degree=6, correlation=5, layers=1, channels=1)
    assert tune.tune(potential, ethanols(1), "energy").choices == {"backbone.layers.0.power": "gaunt"}


@pytest.mark.usefixtures("registration")
def test_algorithms_of_a_user_compete_and_are_measured_by_every_process(clock, folder) -> None:
    """Their code may change under the same name."""
    tune.tune(model(**GAUNT), ethanols(1), "energy")
    remembered = (folder / "tune.json").read_text()
    register("own", type("Own", (CGPower,), {}))
    clock["own"] = 0.5
    power = "backbone.layers.0.power"
    for _ in range(2):
        tuning = tune.tune(model(**GAUNT), ethanols(1), "energy")
        assert (tuning.choices[power], tuning.measured) == ("own", True)
        assert (folder / "tune.json").read_text() == remembered
    clock["own"] = 9.0
    potential = model(**GAUNT)
    assert tune.tune(potential, ethanols(1), "energy").choices[power] == "gaunt"
    apply(potential, {power: "own"})
    assert backend_of(operations(potential)[power]) == "own"
    register("own", type("Newer", (CGPower,), {}))
    assert backend_of(operations(potential)[power]) == "Own"  # no name stands for it any more


# --- excerpts


def test_excerpts_are_the_smallest_structures() -> None:
    graphs = [from_atoms(atoms, 3.5) for atoms in (molecule("C6H6"), ase.Atoms("H"), molecule("H2O"))]
    few = excerpt(collate(graphs))
    assert few.num_graphs == 2
    assert few.num_edges == graphs[0].num_edges + graphs[2].num_edges
    assert excerpt(collate(graphs * 40)).num_edges <= EDGES
    assert excerpt(graphs[1]).num_edges == 0


def test_a_large_structure_is_cropped() -> None:
    graph = from_atoms(bulk("Cu", cubic=True).repeat(5), 3.5)
    few = excerpt(graph)
    assert few.num_edges == EDGES < graph.num_edges
    assert bool((few.edge_index[1].diff() >= 0).all())
    assert int(few.edge_index.max()) == few.num_nodes - 1 < graph.num_nodes
    assert torch.isfinite(model()(few, stress=True)["stress"]).all()


# --- remembering


def test_what_was_measured_is_remembered() -> None:
    first = tune.tune(model(**GAUNT), ethanols(4), "forces")
    again = tune.tune(model(**GAUNT), ethanols(5), "forces")  # as many edges, rounded up to a power of two
    assert first.measured
    assert not again.measured
    assert again.choices == first.choices
    assert tune.tune(model(**GAUNT), ethanols(3), "energy").measured
    assert tune.tune(model(**GAUNT), ethanols(30), "forces").measured
    assert tune.tune(model(torch.float32, **GAUNT), ethanols(3), "forces").measured


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"format": 1}',
        b'{"format": 1, "costs": {"a": {"cg": [0]}}}',
        b'{"format": 1, "costs": {"a": {"cg": [-1, 0, ""]}}}',
        b'{"format": 1, "costs": {"a": {"cg": ["x", 0, ""]}}}',
    ],
)
def test_a_damaged_cache_is_ignored(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "tune.json").write_bytes(content)
    with pytest.warns(UserWarning, match="ignoring the damaged file .*tune.json"):
        assert cache.read() == {}
    known = {"problem": {"cg": Times(0.5, 0.25, "key"), "escn": Times(math.inf, 0.0, "")}}
    cache.write(known)
    assert cache.read() == known


def test_a_cache_of_another_format_is_replaced(folder: Path) -> None:
    folder.mkdir()
    (folder / "tune.json").write_text('{"format": 99}')
    assert cache.read() == {}


def test_a_cache_that_cannot_be_written_stops_nothing(folder: Path, clock) -> None:
    folder.write_text("a file in the way")
    with pytest.warns(UserWarning, match="damaged"), pytest.warns(UserWarning, match="not remembered"):
        tune.tune(model(**GAUNT), ethanols(1), "energy")


# --- through the doors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(model(**GAUNT), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_load_calculator_and_predict_choose(path: Path, clock, capsys) -> None:
    atoms = molecule("CH3CH2OH")
    expected = eqmol.predict(atoms, path)
    potential = eqmol.load(path, backend=AUTO)
    assert {backend_of(op) for op in operations(potential).values()} == {"grid", "cg"}  # cg: scalars have no choice
    potential(ethanols(1))
    assert {backend_of(op) for op in operations(potential).values()} == {"gaunt", "cg"}
    assert "backend=auto" in capsys.readouterr().err
    atoms.calc = eqmol.Calculator(path, backend=AUTO)
    assert np.abs(atoms.get_forces() - expected["forces"]).max() < 1e-10
    assert "gaunt" in {backend_of(op) for op in operations(atoms.calc.model).values()}
    predicted = eqmol.predict(molecule("CH3CH2OH"), path, backend=AUTO)
    assert abs(predicted["energy"] - expected["energy"]) < 1e-9
    assert capsys.readouterr().err == ""  # remembered


def test_atoms_without_neighbours_decide_nothing(path: Path, clock) -> None:
    potential = eqmol.load(path, backend=AUTO)
    potential(from_atoms(ase.Atoms("H"), potential.cutoff))
    assert "gaunt" not in {backend_of(op) for op in operations(potential).values()}
    potential(ethanols(1))
    assert "gaunt" in {backend_of(op) for op in operations(potential).values()}


@pytest.mark.parametrize(("family", "portable"), [("gaunt", "grid"), ("coupled", "cg")])
def test_files_name_a_backend_that_runs_anywhere(tmp_path: Path, family: str, portable: str) -> None:
    potential = build(recipe(family=family, backend=AUTO))
    assert potential.recipe["backbone"]["backend"] == AUTO
    save(potential, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["eqmol"])["recipe"]["backbone"]["backend"] == portable
    assert eqmol.load(tmp_path / "model.safetensors").recipe["backbone"]["backend"] == portable


def test_choices_must_fit_the_model() -> None:
    with pytest.raises(InputError, match=r"no tensor product 'backbone\.layers\.7\.power'"):
        apply(model(), {"backbone.layers.7.power": "cg"})


# --- training


def test_training_begins_as_without_measuring(tmp_path: Path, clock) -> None:
    options = ["model.family=gaunt", "trainer.max_epochs=1"]
    train(tmp_path, "auto", "backend=auto", *options)
    train(tmp_path, "fixed", "backend=gaunt", *options)
    # the algorithm that evaluates is chosen anew; rounding turns the eigenvectors of the uncertainty
    found = [{k: v for k, v in weights(tmp_path, out).items() if "aux." not in k} for out in ("auto", "fixed")]
    assert_same(*found)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same cache", "empty cache"])
def test_a_resumed_run_keeps_its_algorithms(tmp_path: Path, monkeypatch, clock, elsewhere: bool) -> None:
    options = ["backend=auto", "model.family=gaunt"]
    train(tmp_path, "whole", *options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            train(tmp_path, "parts", *options)
    clock["cg"] = 0.1  # another choice, if it was made again
    if elsewhere:
        monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "other"))
    train(tmp_path, "parts", *options, "resume=auto")
    assert_same(weights(tmp_path, "parts"), weights(tmp_path, "whole"))

"""Conversion keeps the function, opens the new weights to training, refuses what would lose something, and proves itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import write

import eqmol
from eqmol.checkpoint import default_dtype, read_header, save
from eqmol.checkpoint.recipe import build
from eqmol.cli.convert import main
from eqmol.convert import convert as conversion
from eqmol.convert import mace as growth_of_mace
from eqmol.convert.convert import EXACT, convert, differences, example_structures, num_parameters
from eqmol.convert.weights import missing_weights, weight_map
from eqmol.errors import InputError
from eqmol.graph import collate
from eqmol.inference.evaluate import graph_of
from eqmol.models import Potential
from eqmol.ops import Spec
from tests.ops.cases import spec_id
from tests.recipes import model

EVERYTHING = {"family": "coupled", "parity": "so3", "degree": 2, "filter_degree": 3, "channels": 4, "fields": 2}
CHANGES = [
    {"family": "coupled"},
    {"parity": "so3"},
    {"family": "coupled", "parity": "so3"},
    {"channels": 5},
    {"fields": 2},
    {"correlation": 3},
    {"degree": 2},
    {"widen": 2},
    {"filter_degree": 3, "channels": 4},
    {"filter_degree": 3, "correlation": 3},
    {**EVERYTHING, "correlation": 3},
]


def old_model(family: str, parity: str, **backbone: Any) -> Potential:
    return model(backend="cg", family=family, parity=parity, **backbone)


def enlarging() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Family, parity and changes, at least one of which changes something."""
    for family in ("gaunt", "coupled"):
        for parity in ("o3", "so3"):
            before = {"family": family, "parity": parity}
            yield from ((family, parity, c) for c in CHANGES if not c.items() <= before.items())


def name_of(value: Any) -> str:
    return " ".join(f"{name}={v}" for name, v in value.items()) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("family", "parity", "changes"), list(enlarging()), ids=name_of)
def test_function_is_kept(family: str, parity: str, changes: dict[str, Any]) -> None:
    old = old_model(family, parity)
    new = convert(old, changes)
    assert num_parameters(new) > num_parameters(old)
    structures = list(example_structures(old.elements, old.cutoff))
    for difference in differences(old, new, structures, EXACT):
        assert difference.largest <= 1e-10


@pytest.mark.parametrize("degrees", [(0, 2), (2, 3)])
@pytest.mark.parametrize("family", ["gaunt", "coupled"])
def test_function_is_kept_from_other_sizes(family: str, degrees: tuple[int, int]) -> None:
    old = old_model(family, "so3", degree=degrees[0], correlation=3, layers=3, fields=2, pair_radial=True)
    new = convert(old, {"degree": degrees[1], "channels": 4})
    found = differences(old, new, example_structures(old.elements, old.cutoff), EXACT)
    assert max(difference.largest for difference in found) <= 1e-10


def test_separate_paths_grow_in_channels() -> None:
    old = old_model("coupled", "o3", widen="paths", first_residual=False, density=True)
    new = convert(old, {"channels": 5, "fields": 2, "correlation": 3})
    found = differences(old, new, example_structures(old.elements, old.cutoff), EXACT)
    assert max(difference.largest for difference in found) <= 1e-10
    with pytest.raises(InputError, match="widen=paths grows in channels, fields and order only"):
        convert(old, {"degree": 2})
    with pytest.raises(InputError, match="widen=paths of this model cannot become 2"):
        convert(old, {"widen": 2})


def gradients(potential: Potential) -> dict[str, torch.Tensor]:
    potential.train().zero_grad()
    structures = example_structures(potential.elements, potential.cutoff)
    output = potential(collate([graph_of(potential, atoms) for atoms in structures]), forces=True)
    (output["energies"].square().sum() * 1e-6 + output["forces"].square().sum()).backward()
    return {name: p.grad.clone() for name, p in potential.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("family", "parity", "changes"), list(enlarging()), ids=name_of)
def test_new_weights_learn(family: str, parity: str, changes: dict[str, Any]) -> None:
    new = convert(old_model(family, parity), changes)
    with default_dtype(torch.float64):
        able = gradients(build(new.recipe))  # what learns in a new model of these sizes
    zero = {name: parameter.detach() == 0 for name, parameter in new.named_parameters()}
    first = gradients(new)
    blocked = sum(int(mask.sum()) for mask in zero.values())
    assert blocked == 0 or any(bool((first[name][zero[name]] != 0).any()) for name in first)
    for _ in range(2):
        step = gradients(new)
        with torch.no_grad():
            for name, parameter in new.named_parameters():
                parameter -= 1e-2 * step[name] / step[name].norm()
    later = gradients(new)
    dead = {name for name, gradient in later.items() if ((gradient == 0) & (able[name] != 0)).any()}
    # an old field of a gaunt power of order 2 meets a new degree only squared; the new fields learn it
    squared = new.recipe["backbone"]["family"] == "gaunt" and "filter_degree" in changes and "channels" in changes
    assert dead <= ({"backbone.layers.1.mix.weight"} if squared else set())


def test_new_degrees_that_could_not_learn_are_refused() -> None:
    with pytest.raises(InputError, match=r"filter_degree=3 cannot be learned.*fields=.*family=coupled"):
        convert(old_model("gaunt", "o3"), {"filter_degree": 3})


EQUIFORMER = {
    "degree": 2,
    "filter_degree": 3,
    "channels": 4,
    "layers": 2,
    "cutoff": 3.5,
    "heads": 2,
    "alpha_channels": 3,
}
FORMS = [
    {"feedforward": "product", "selfmix": True},
    {"messages": "nonlinear"},
    {"feedforward": "product", "family": {"convolution": "coupled", "product": "gaunt"}},
    {"degree_out": 1, "direct": True},
]


def equiformer(family: Any, parity: str, direct: bool = False, **form: Any) -> Potential:
    base = model().recipe
    kept = {name: base["backbone"][name] for name in ("elements", "avg_num_neighbors", "radial_hidden")}
    backbone = {"_target_": "eqmol.models.Equiformer", "backend": "cg", "family": family, "parity": parity}
    forces = {"forces": "direct", "zbl": False} if direct else {}
    with default_dtype(torch.float64):
        return build({**base, **forces, "backbone": {**backbone, **kept, **EQUIFORMER, **form}}).eval()


@pytest.mark.parametrize(
    "changes", [{"family": "coupled"}, {"parity": "so3"}, {"family": "coupled", "parity": "so3"}], ids=name_of
)
@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_equiformer(form: dict[str, Any], changes: dict[str, Any]) -> None:
    old = equiformer(**{"family": "gaunt", "parity": "o3", **form})
    if form.get("messages") == "nonlinear" and "family" not in changes:
        with pytest.raises(InputError, match=r"inner_matrix.weight is followed by a gate.*family=coupled"):
            convert(old, changes)
        return
    new = convert(old, changes)
    structures = [a for a in example_structures(old.elements, old.cutoff) if old.conservative or not a.pbc.any()]
    assert max(d.largest for d in differences(old, new, structures, EXACT)) <= 1e-10
    with pytest.raises(InputError, match="cannot hold this model"):
        convert(new, {name: old.recipe["backbone"][name] for name in changes})


def test_equiformer_keeps_its_channels() -> None:
    with pytest.raises(InputError, match="channels of this model's Equiformer cannot grow while the function is kept"):
        convert(equiformer("gaunt", "o3"), {"channels": 8})


def test_direct_forces_grow() -> None:
    old = model(degree_out=1)
    with default_dtype(torch.float64):
        old = build({**old.recipe, "forces": "direct", "zbl": False}).eval()
    structures = [a for a in example_structures(old.elements, old.cutoff) if not a.pbc.any()]
    new = convert(old, {"channels": 5})
    assert max(d.largest for d in differences(old, new, structures, EXACT)) <= 1e-10


SMALLER = [
    ({"channels": 2}, r"channels=2 is less than the model's 3: \d+ of its \d+ parameters would be lost"),
    ({"degree": 0}, "degree=0 is less"),
    ({"correlation": 1}, "correlation=1 is less"),
    ({"filter_degree": 1, "channels": 9}, "filter_degree=1 is less"),
    ({"family": "gaunt"}, r"family=gaunt cannot hold .* 4 of 7 of the convolution of layer 2, 2 of 4 of the power"),
    ({"parity": "o3"}, r"parity=o3 cannot hold .* of the convolution of layer 2"),
    ({"channels": 3}, "nothing changes"),
]


@pytest.mark.parametrize(("changes", "message"), SMALLER, ids=name_of)
def test_losses_are_refused(changes: dict[str, Any], message: str) -> None:
    old = old_model("coupled", "so3" if "parity" in changes else "o3")
    before = {name: p.detach().clone() for name, p in old.named_parameters()}
    with pytest.raises(InputError, match=message):
        convert(old, changes)
    assert all(torch.equal(before[name], p) for name, p in old.named_parameters())


MAPS = [
    (Spec("convolution", "gaunt", "o3", 1, 2, 2), Spec("convolution", "coupled", "so3", 2, 3, 3)),
    (Spec("convolution", "gaunt", "o3", 1, 2, 2), Spec("convolution", "gaunt", "so3", 2, 3, 3)),
    (Spec("product", "coupled", "o3", 2, 2, 1), Spec("product", "coupled", "so3", 2, 3, 2)),
    (Spec("power", "gaunt", "o3", 2, 0, 1, 2), Spec("power", "coupled", "so3", 3, 0, 2, 3)),
    (Spec("power", "gaunt", "so3", 2, 0, 1, 2), Spec("power", "gaunt", "so3", 3, 0, 1, 3)),
]


@pytest.mark.parametrize(("old", "new"), MAPS, ids=spec_id)
def test_weight_map_against_path_weights(old: Spec, new: Spec) -> None:
    """Old own weights and mapped ones give every path of the old degrees the same coefficient, the others none."""
    found = weight_map(old, new)
    own = np.random.default_rng(0).normal(size=old.num_weights)
    paths = [spec.power_paths if spec.operation == "power" else spec.pair_paths for spec in (old, new)]
    expected = dict(zip(paths[0], own @ old.paths * old.path_normalization, strict=True))
    result = dict(zip(paths[1], own @ found.matrix.numpy() @ new.paths * new.path_normalization, strict=True))
    for path, value in result.items():
        factors, l3 = (path[0], path[1]) if old.operation == "power" else ((path[0],), path[2])
        if max(factors) <= old.degree_in and l3 <= old.degree_out:
            assert value * float(found.scale[l3]) == pytest.approx(expected.get(path, 0.0), abs=1e-12)
    assert missing_weights(old, new) == 0
    assert missing_weights(new, old) > 0


# --- command line


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "gaunt.safetensors"
    save(model(torch.float32, backend="grid", family="gaunt"), path, metrics={"val_loss": 0.5})
    return path


def test_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "some.xyz", [molecule("CH3OH"), bulk("Cu", cubic=True)])
    write(tmp_path / "other.traj", molecule("H2O"))
    target = tmp_path / "coupled.safetensors"
    arguments = [
        str(source),
        str(target),
        "--family",
        "coupled",
        "--channels",
        "4",
        "--structures",
        str(tmp_path / "s*.xyz"),
        str(tmp_path / "other.traj"),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "3 structures" in printed
    assert all(word in printed for word in ("energy", "forces", "stress", "allowed"))
    header = read_header(target)
    backbone = header.document["recipe"]["backbone"]
    assert (backbone["family"], backbone["channels"], backbone["backend"]) == ("coupled", 4, "cg")
    assert header.document["metrics"] == {"val_loss": 0.5}
    assert header.dtype == torch.float32
    for backend in ("cg", "escn"):
        energy = eqmol.predict(molecule("CH3OH"), target, backend=backend)["energy"]
        assert energy == pytest.approx(eqmol.predict(molecule("CH3OH"), source)["energy"], abs=1e-4)
    assert main(arguments) == 2
    assert "coupled.safetensors exists; give another name, or --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize("part", ["put_weights", "put_linear", "put_radial", "put_matrix"])
def test_broken_mapping_is_caught(
    source: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth_of_mace, part, lambda new, old, *args, **kwargs: None)
    target = tmp_path / "broken.safetensors"
    assert main([str(source), str(target), "--family", "coupled"]) == 1
    assert "the models differ by" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [source]


def test_rounding_is_checked_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conversion.ROUNDED, torch.float32, 1e-16)
    assert main([str(source), str(tmp_path / "out.safetensors"), "--family", "coupled"]) == 1
    assert not (tmp_path / "out.safetensors").exists()


WRONG = [
    (["IN"], "the following arguments are required: OUT; eqmol convert --help shows how"),
    (["IN", "OUT", "--chanels", "4"], "unrecognized arguments: --chanels 4"),
    (["IN", "OUT", "--channels", "many"], "argument --channels: 'many' is not an integer from 1 to 2048"),
    (["IN", "OUT", "--family", "best"], "argument --family: invalid choice: 'best'"),
    (["IN", "OUT"], "nothing changes; give a new value for at least one of family="),
    (["IN", "IN", "--channels", "4", "--overwrite"], "exists; give another name"),
    (["nowhere.safetensors", "OUT", "--channels", "4"], "nowhere.safetensors"),
    (["IN", "OUT", "--channels", "4", "--structures", "nowhere.xyz"], "nowhere.xyz"),
    (["IN", "missing/OUT", "--channels", "4"], "cannot write"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_commands(
    source: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"IN": str(source), "OUT": str(tmp_path / "out.safetensors"), "missing/OUT": str(tmp_path / "no" / "out")}
    assert main([files.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(tmp_path.iterdir()) == [source]

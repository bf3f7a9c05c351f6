"""Models with heads: each its own readouts and E0s, chosen wherever the model is evaluated."""

import io

import numpy as np
import pytest
import torch
from ase.io import read
from rich.console import Console

import eqmol
from eqmol import checkpoint
from eqmol.checkpoint.warm_start import WarmStart
from eqmol.cli.main import main
from eqmol.data.xyz.heads import HeadSets
from eqmol.errors import InputError
from eqmol.graph import collate, from_atoms
from eqmol.train.run import run
from tests.recipes import recipe
from tests.train.runs import TINY, bare, frames, shifted

SHIFTS = {"H": -2.5, "C": -980.0, "N": -1410.0, "O": -1940.0}


def heads_model(dtype=torch.float64):
    """A model with two heads and random weights, and a single one of each."""
    torch.manual_seed(3)
    one = recipe()
    energies, binding = [one["e0"], [-1.0, -2.0, -3.0, -4.0]], [[-1.0, -2.0, -3.0, -1.0], [0.5, 0.4, 0.3, 0.2]]
    with checkpoint.default_dtype(dtype):
        return checkpoint.build(one | {"e0": energies, "binding": binding, "readout_heads": ["a", "b"]}).eval()


def test_a_head_is_the_model_with_its_readouts(tmp_path):
    model = heads_model()
    eqmol.save(model, tmp_path / "m.safetensors")
    atoms = read(frames(tmp_path / "f.xyz", 0, 2), ":")
    for each in atoms:
        each.symbols[each.symbols == "N"] = "C"
    graphs = [from_atoms(each, model.cutoff) for each in atoms]
    for graph, head in zip(graphs, (1, 0), strict=True):
        graph.head = torch.tensor([head])
    mixed = model(collate(graphs))
    found = {name: eqmol.predict(atoms, tmp_path / "m.safetensors", head=name, close_contacts="warn") for name in "ab"}
    for number, name in enumerate("ba"):
        assert found[name][number]["energy"] == pytest.approx(float(mixed["energy"][number]), abs=1e-9)
        forces = mixed["forces"][number * len(atoms[0]) :][: len(atoms[0])]
        np.testing.assert_allclose(found[name][number]["forces"], forces.numpy(), atol=1e-10)
    assert abs(found["a"][0]["energy"] - found["b"][0]["energy"]) > 1
    single = eqmol.load(tmp_path / "m.safetensors", head="b")
    assert "readout_heads" not in single.recipe
    assert "heads" not in single.sections
    eqmol.save(single, tmp_path / "b.safetensors")
    again = eqmol.predict(atoms, tmp_path / "b.safetensors", close_contacts="warn")
    assert again[0]["energy"] == pytest.approx(found["b"][0]["energy"], abs=1e-10)
    atoms[0].calc = eqmol.Calculator(model, head="b", close_contacts="warn")
    assert atoms[0].get_potential_energy() == pytest.approx(found["b"][0]["energy"], abs=1e-9)
    assert checkpoint.read_header(tmp_path / "m.safetensors").document["heads"] == {"names": ["a", "b"]}


def test_a_head_must_be_chosen(tmp_path, capsys):
    file = tmp_path / "m.safetensors"
    eqmol.save(heads_model(), file)
    with pytest.raises(InputError, match="has the heads a, b; choose one"):
        eqmol.Calculator(file)
    with pytest.raises(InputError, match="has no head 'c'; choose among a, b"):
        eqmol.load(file, head="c")
    with pytest.raises(InputError, match="has no heads to choose from"):
        eqmol.Calculator(eqmol.load(file, head="a"), head="a")
    given = ["predict", str(file), str(frames(tmp_path / "f.xyz", 0, 1)), "-o", str(tmp_path / "out.xyz")]
    assert main(given) == 2
    assert "choose one by head= or --head" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["a"], ["a", "a"], "ab", [1, 2], ["", "b"], ["a"] * 65])
def test_wrong_names_are_refused(names):
    with pytest.raises(InputError, match="readout_heads"):
        checkpoint.build(recipe() | {"readout_heads": names})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": {"a": {"train_file": "a.xyz"}}}, "at least two names"),
        ({"heads": {"a": {"train_file": "a.xyz"}, "b": {"wrong": 1}}}, r"heads\.b has the unknown key wrong"),
        ({"heads": {"a": {"train_file": "x"}, "b": {"train_file": "x"}}, "share": {"c": 0.1}}, "a part of one of a, b"),
        ({"heads": {"a": {"train_file": "x"}, "b": {"train_file": "x", "replay": {"file": "y"}}}}, "nor replay"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        HeadSets(cutoff=3.0, **options)


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_a_run_on_two_levels_of_theory(tmp_path):
    low = frames(tmp_path / "low.xyz", 0, 12)
    high = shifted(frames(tmp_path / "part.xyz", 12, 8), tmp_path / "high.xyz", SHIFTS)
    low_test = frames(tmp_path / "test_low.xyz", 20, 2)
    high_test = shifted(low_test, tmp_path / "test_high.xyz", SHIFTS)
    options = [option for option in TINY if "isolated" not in option and option != "data=xyz"]
    parts = [f"low: {{train_file: {low}, test_files: {{t: {low_test}}}}}"]
    parts.append(f"high: {{train_file: {high}, test_files: {{t: {high_test}}}}}")
    options += ["data=heads", f"data.heads={{{', '.join(parts)}}}", "data.share={low: 0.25}", "trainer.max_epochs=2"]
    screen = Console(file=io.StringIO(), width=200)
    metrics = run(bare(tmp_path, "run", *options), screen)
    assert screen.file.getvalue().count("replay 22 %") == 2
    assert set(metrics["test"]) == {"low t", "high t"}
    file = tmp_path / "run" / "model.safetensors"
    for head, test in (("low", low_test), ("high", high_test)):
        structures = read(test, ":")
        found = eqmol.predict([each.copy() for each in structures], file, head=head)
        errors = [p["energy"] - s.get_potential_energy() for p, s in zip(found, structures, strict=True)]
        expected = metrics["test"][f"{head} t"]["energy_rmse_mev"]
        assert 1000 * np.sqrt(np.mean(np.square(errors))) == pytest.approx(expected, rel=1e-4)
        assert expected / len(structures[0]) < 1000  # though the levels are hundreds of eV per atom apart
    with pytest.raises(InputError, match="has the heads low, high, and a run starts from one"):
        WarmStart(file)
    metrics = run(bare(tmp_path, "run", *options, "trainer.max_epochs=3", "resume=auto"), screen)
    assert metrics["steps"] == 9
    eqmol.save(eqmol.load(file, head="low"), tmp_path / "low.safetensors")
    with pytest.raises(InputError, match="a run with data=heads starts from no model"):
        run(bare(tmp_path, "other", *options, f"init_from={tmp_path / 'low.safetensors'}"), screen)

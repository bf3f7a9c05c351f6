"""Whole runs: what lies in the folder, resuming to the bit, and what stops a run."""

import csv
import io
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from ase.io import read
from rich.console import Console

import eqmol
from eqmol.cli.train import main
from eqmol.errors import InputError
from eqmol.graph import collate
from eqmol.train.loss import WeightedLoss
from eqmol.train.resume import LastCheckpoint
from eqmol.train.run import run
from eqmol.train.stop import Interrupted
from eqmol.train.symmetry import symmetry_errors
from eqmol.train.task import NonFiniteLossError, Task
from eqmol.units import quantity
from tests.models.systems import graph_of, make_model, structures
from tests.train.runs import TINY, assert_same, configuration, frames, train, weights


def test_everything_of_a_run_lies_in_one_folder(tmp_path, monkeypatch, figures):
    monkeypatch.chdir(tmp_path)
    metrics = train(tmp_path)
    names = {"model.safetensors", "last.ckpt", "metrics.json", "config.yaml", "log.csv", "parity.png"}
    names |= {"learning_curve.png", "parity.npz", "calibration.png", "calibration.npz"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == names
    assert {p.name for p in tmp_path.iterdir()} == {"run", "train.xyz", "val.xyz", "test.xyz"}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert set(metrics["test"]) == {"later"}
    for split in (metrics["train"], metrics["val"], metrics["test"]["later"]):
        for kind in ("rmse", "mae"):
            assert split[f"energy_{kind}_mev"] > split[f"energy_{kind}_mev_per_atom"] > 0
            assert split[f"forces_{kind}_mev_per_a"] > 0
    assert metrics["seconds_per_epoch"] > 0
    assert metrics["peak_memory_mib"] > 0
    with (tmp_path / "run" / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    for picture in ("parity.png", "learning_curve.png"):
        assert (tmp_path / "run" / picture).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_reported_errors_are_those_of_the_saved_model(tmp_path):
    metrics = train(tmp_path)["test"]["later"]
    structures = read(tmp_path / "test.xyz", ":")
    predicted = eqmol.predict(structures, eqmol.load(tmp_path / "run" / "model.safetensors"))
    forces = np.concatenate(
        [p["forces"] - s.calc.results["forces"] for p, s in zip(predicted, structures, strict=True)]
    )
    energy = np.array([p["energy"] - s.calc.results["energy"] for p, s in zip(predicted, structures, strict=True)])
    assert metrics["forces_rmse_mev_per_a"] == pytest.approx(1e3 * np.sqrt(np.mean(forces**2)), rel=1e-5)
    assert metrics["forces_mae_mev_per_a"] == pytest.approx(1e3 * np.mean(abs(forces)), rel=1e-5)
    assert metrics["energy_rmse_mev"] == pytest.approx(1e3 * np.sqrt(np.mean(energy**2)), rel=1e-5)
    assert metrics["energy_mae_mev_per_atom"] == pytest.approx(1e3 * np.mean(abs(energy)) / 27, rel=1e-5)


def test_overfits_two_molecules(tmp_path):
    """162 components of forces by thousands of weights: they are learnt by heart, and others are not learnt."""
    two = frames(tmp_path / "two.xyz", 0, 2)
    options = [f"data.train_file={two}", f"data.val_file={two}", "data.batch_size=2", "trainer.max_epochs=200"]
    options += [
        "trainer.check_val_every_n_epoch=50",
        "trainer.checkpoint_minutes=null",
        "trainer.ema_decay=0.9",
        "task.optimizer.lr=0.04",
        "task.schedule.warmup_steps=10",
        "task.targets.energy.final_weight=null",  # as debug=overfit has it
    ]
    metrics = train(tmp_path, "run", *options, "model.channels=8", "model.filter_degree=2", "backend=grid")
    learnt = metrics["train"]["forces_rmse_mev_per_a"] / metrics["train"]["forces_rms_mev_per_a"]
    assert learnt < 0.12
    assert metrics["test"]["later"]["forces_rmse_mev_per_a"] > 5 * metrics["train"]["forces_rmse_mev_per_a"]


def interrupt_at(monkeypatch, step):
    """Press Ctrl-C during one training step."""
    original = Task.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", training_step)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [5, 7], ids=["inside an epoch", "at its end"])
def test_interrupted_and_resumed_is_as_uninterrupted(tmp_path, monkeypatch, workers, step):
    options = [f"data.num_workers={workers}"]
    train(tmp_path, "whole", *options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(Interrupted):
            train(tmp_path, "parts", *options)
    metrics = train(tmp_path, "parts", *options, "resume=auto")
    assert_same(weights(tmp_path, "parts"), weights(tmp_path, "whole"))
    assert metrics["test"] == json.loads((tmp_path / "whole" / "metrics.json").read_text())["test"]


def command_line(monkeypatch, folder, *options):
    """Run train.py in this process; return its exit code."""
    configuration(folder)  # writes the files
    files = [f"data.train_file={folder / 'train.xyz'}", f"data.val_file={folder / 'val.xyz'}"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("sys.argv", ["train.py", *TINY, *files, f"output_dir={folder / 'run'}", *options])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capfd):
    interrupt_at(monkeypatch, 5)
    assert command_line(monkeypatch, tmp_path) == 130
    out, err = capfd.readouterr()
    assert "once more to stop at once" in err
    assert out.splitlines()[-1].endswith(
        f"logger=csv data.train_file={tmp_path / 'train.xyz'} "
        f"data.val_file={tmp_path / 'val.xyz'} output_dir={tmp_path / 'run'} resume=auto"
    )


def test_a_failed_run_says_what_is_kept(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(WeightedLoss, "__call__", lambda self, output, *_: output["energy"].sum() * torch.nan)
    assert command_line(monkeypatch, tmp_path) == 1
    assert capfd.readouterr().err.startswith("error: the loss is not finite at step 0 (epoch 0); the structures of")


@pytest.mark.parametrize(
    ("schedule", "optimizer", "ema"),
    [
        ("cosine", "muon", "0.99"),
        ("plateau", "adam", "null"),
        pytest.param("cosine", "soap", "0.99", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_as_uninterrupted(tmp_path, monkeypatch, schedule, optimizer, ema):
    """What a killed run leaves is the folder as it was after some checkpoint."""
    options = [f"task/schedule={schedule}", f"task/optimizer={optimizer}", "trainer.early_stopping=2"]
    options.append(f"trainer.ema_decay={ema}")
    original = LastCheckpoint._save

    def save(self, trainer):
        original(self, trainer)
        if trainer.current_epoch == 1:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "_save", save)
        train(tmp_path, "whole", *options)
    train(tmp_path, "killed", *options, "resume=auto")
    assert_same(weights(tmp_path, "killed"), weights(tmp_path, "whole"))


def test_the_checkpoint_holds_what_a_run_needs(tmp_path):
    train(tmp_path, "run", "trainer.early_stopping=5")
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert {"state_dict", "current_model_state", "optimizer_states", "schedule", "loops", "callbacks"} <= set(state)
    callbacks = " ".join(state["callbacks"])
    for name in ("EMA", "EarlyStopping", "BestModel", "LastCheckpoint"):
        assert name in callbacks
    moved = [k for k, v in state["current_model_state"].items() if not torch.equal(v, state["state_dict"][k])]
    assert moved, "averaged and raw weights are the same"


def test_a_changed_configuration_is_not_resumed(tmp_path):
    train(tmp_path)
    with pytest.raises(InputError, match=r"model.channels=5 \(was 4\)"):
        train(tmp_path, "run", "model.channels=5", "resume=auto")


def test_a_run_is_not_overwritten(tmp_path):
    train(tmp_path, "run", "trainer.max_epochs=1")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="already holds a run"):
        train(tmp_path)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_only_validated_epochs_are_called_best(tmp_path):
    out = io.StringIO()
    run(configuration(tmp_path, "run", "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2"), Console(file=out))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("epoch ")]
    assert len(lines) == 4
    validated, best = (np.array([text in line for line in lines]) for text in ("val RMSE", "best"))
    assert validated.tolist() == [False, True, False, True]
    assert best[1]
    assert not best[~validated].any()


@pytest.mark.parametrize("step", [0, 6])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, step):
    original = WeightedLoss.__call__
    calls = []

    def loss(self, output, batch, raised, shared):
        value = original(self, output, batch, raised, shared)
        if output["energy"].requires_grad:
            calls.append(1)
            if len(calls) == step + 1:
                return value * torch.nan
        return value

    monkeypatch.setattr(WeightedLoss, "__call__", loss)
    with pytest.raises(NonFiniteLossError, match=rf"step {step} .*train\.xyz, frame \d+; "):
        train(tmp_path)
    kept = {p.name for p in (tmp_path / "run").iterdir()}
    assert ({"model.safetensors", "last.ckpt"} <= kept) == (step > 0)
    if step:
        eqmol.load(tmp_path / "run" / "model.safetensors")


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to output_dir"):
        train(tmp_path, "file/run")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trainer.max_epochs=abc", "max_epochs='abc'"),
        ("trainer.max_time=1h", "DD:HH:MM:SS"),
        ("trainer.precision=half", "precision=half"),
        ("trainer.accelerator=tpu", "accelerator=tpu"),
        ("task.optimizer.lr=-1", "lr=-1"),
        ("task.optimizer.lr=true", "lr=True"),
        ("task.optimizer.momentum=2", "task.optimizer is wrong: momentum=2"),
        ("task.optimizer.matrix_factor=-1", "matrix_factor=-1"),
        ("task.optimizer.momentum=null", "task.optimizer is wrong: momentum=None must be a number from 0 to below 1"),
        ("+task.optimizer.betas=[0.9]", r"betas=\[0.9\] must be two numbers"),
        ("+task.optimizer.amsgrad=true", "task.optimizer is wrong: .*amsgrad"),
        ("task.raise_at=2", "raise_at=2"),
        ("+task.targets.charge={weight: 1}", "unknown target 'charge'"),
    ],
)
def test_wrong_options_are_named(tmp_path, option, message):
    with pytest.raises(InputError, match=message):
        run(configuration(tmp_path, "run", option), Console(file=io.StringIO()))
    assert not (tmp_path / "run").exists()


FAMILIES = {"coupled": ["cg", "escn"], "gaunt": ["gaunt", "grid", "cg"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_function_trains_the_same_way(tmp_path, family):
    """Validation losses of every epoch, float64, under each algorithm of the family."""
    curves = {}
    for backend in FAMILIES[family]:
        options = [f"backend={backend}", f"model.family={family}", "trainer.precision=float64", "trainer.max_epochs=4"]
        train(tmp_path, backend, *options, "model.filter_degree=2")
        with (tmp_path / backend / "log.csv").open() as file:
            curves[backend] = np.array([float(row["val_loss"]) for row in csv.DictReader(file)])
    first, *others = curves.values()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-8)


def test_the_mirror_error_is_reported_for_so3_alone(tmp_path):
    options = ["trainer.max_epochs=1", "model.filter_degree=2"]
    assert train(tmp_path, "so3", *options, "model.parity=so3")["mirror_error_mev_per_atom"] > 0
    assert "mirror_error_mev_per_atom" not in train(tmp_path, "o3", *options)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("equiformer", {"feedforward": "s2"}),
        ("equiformer", {"feedforward": "grid"}),
        ("equiformer-so2", {"activation": "s2"}),
        ("equiformer", {"feedforward": "product"}),
    ],
    ids=str,
)
def test_the_rotation_error_is_reported_for_what_is_sampled_alone(variant, options):
    potential = make_model(variant=variant, family="coupled", degree=2, **options)
    loader = [collate([graph_of(atoms) for atoms in structures().values()])]
    found = symmetry_errors(potential, loader, torch.device("cpu"))
    assert found.keys() == (set() if "product" in options.values() else {"rotation_error_mev_per_atom"})
    potential.backbone.samples_sphere = True
    error, sentence = symmetry_errors(potential, loader, torch.device("cpu"))["rotation_error_mev_per_atom"]
    assert (error < 1e-2) == (not found)
    assert quantity(error, "meV/atom") in sentence


@pytest.mark.parametrize("preset", ["fast", "overfit"])
def test_debug_presets_run(tmp_path, preset):
    options = [f"debug={preset}", "trainer.max_epochs=2", "trainer.overfit=4"]
    metrics = train(tmp_path, "run", *options)
    others = {name: error for name, error in metrics["val"].items() if name != "baseline"}
    assert metrics["train"] == pytest.approx(others, rel=1e-5)  # in another order
    assert metrics["steps"] == 4

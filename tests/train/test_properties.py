"""Training of properties: loss, noise, gap, tables, and a whole run on the embedded sample."""

import csv
import io
import json
import os
import signal

import numpy as np
import pytest
import torch
from ase.build import molecule
from hydra import compose, initialize_config_dir
from rich.console import Console

import eqmol
from eqmol.cli.train import CONF
from eqmol.data.qm9 import datamodule
from eqmol.data.qm9.datamodule import QM9
from eqmol.data.qm9.published import PUBLISHED
from eqmol.data.qm9.targets import TARGETS, TRAINED
from eqmol.errors import InputError
from eqmol.inference.errors import Errors
from eqmol.models import MACE, Properties
from eqmol.molecules.features import BONDS
from eqmol.train import tables
from eqmol.train.objectives import PropertyObjective
from eqmol.train.report import parity_points
from eqmol.train.run import run
from eqmol.train.stop import Interrupted
from eqmol.train.task import Task
from tests.train.runs import assert_same, weights

ELEMENTS = [1, 6, 7, 8]
ALL = ("U0", "mu", "gap", "homo", "lumo")
TINY = [
    "data=qm9_sample",
    "task.target=[U0,mu]",
    "model.channels=4",
    "model.filter_degree=1",
    "model.correlation=2",
    "model.layers=1",
    "model.radial_hidden=[8]",
    "model.cutoff=3.0",
    "data.num_train=40",
    "data.num_val=8",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "logger=csv",
]


@pytest.fixture(scope="module")
def batch():
    data = QM9(cutoff=3.0, folder="qm9_sample", required=ALL, num_train=5, num_val=5, batch_size=5)
    data.setup()
    return next(iter(data.train_dataloader()))


def model(targets=ALL, **options) -> Properties:
    torch.manual_seed(0)
    backbone = MACE("cg", "coupled", "o3", 1, 1, 4, 1, 2, 1, 3.0, ELEMENTS, 4.0, degree_out=1)
    entry = {"e0": [-10.0, -50.0, -70.0, -100.0], "mean": 0.5, "scale": 0.7}
    statistics = {
        name: TARGETS[name].plain() | entry | {"scale": 0.3 * (column + 1), "spread": 0.4 * (column + 1)}
        for column, name in enumerate(targets)
    }
    found = Properties(backbone, ELEMENTS, statistics, **options)
    found.recipe = {"statistics": statistics}
    return found


def task(target=ALL, predictor=None, **options) -> Task:
    objective = PropertyObjective(target, optimizer=torch.optim.Adam, schedule=None, **options)
    predictor = predictor or model(objective.required)
    return Task(predictor, objective, {"properties": predictor.recipe["statistics"]})


@pytest.mark.parametrize("loss", ["mae", "mse", "huber"])
def test_loss_is_the_weighted_mean_of_scaled_errors(batch, loss):
    weights = [1.0, 0.0, 2.5, 1.0, 0.5]
    trained = task(predictor=model(), weights=weights, loss=loss).eval()
    output = trained(batch)
    expected = 0.0
    for column, (name, weight) in enumerate(zip(ALL, weights, strict=True)):
        errors = (output[name] - batch[f"target_{name}"]).detach().numpy() / (0.4 * (column + 1))
        small = np.abs(errors) < 1
        each = {
            "mae": np.abs(errors),
            "mse": errors**2,
            "huber": np.where(small, errors**2, 2 * np.abs(errors) - 1),  # that of PyTorch twice: as mse where small
        }
        expected += weight * each[loss].mean()
    assert trained.loss_of(output, batch, 0.0, shared=False).item() == pytest.approx(expected, rel=1e-10)


def test_noise_displaces_in_training_only_and_by_the_seed(batch):
    trained = task(predictor=model(denoise=True), noise=0.1, noise_weight=0.5)
    before = batch.pos.clone()
    torch.manual_seed(3)
    first = trained(batch)
    again = trained(batch)
    torch.manual_seed(3)
    same = trained(batch)
    assert batch.pos.equal(before)
    assert first["U0"].equal(same["U0"])
    assert not first["U0"].equal(again["U0"])
    moved = batch.clone()
    moved.pos = before + 0.1 * first["xi"]
    assert trained.predictor(moved)["U0"].equal(first["U0"])
    plain = {name: value for name, value in first.items() if name != "xi"}
    denoising = trained.loss_of(first, batch, 0.0, False) - trained.loss_of(plain, batch, 0.0, False)
    assert denoising.item() == pytest.approx(0.5 * (first["noise"] - first["xi"]).square().mean().item(), rel=1e-10)
    assert "xi" not in trained.eval()(batch)


def test_positions_come_back_after_an_error(batch):
    trained = task(predictor=model(denoise=True), noise=0.1)
    before = batch.pos.clone()
    batch.atomic_numbers[0] += 80
    with pytest.raises(InputError, match="does not know"):
        trained(batch)
    batch.atomic_numbers[0] -= 80
    assert batch.pos.equal(before)


def test_gap_as_difference_is_trained(batch):
    trained = task(("homo", "lumo", "gap"), model(("homo", "lumo", "gap"), gap="difference"), weights=[0.0, 0.0, 1.0])
    output = trained(batch)
    assert output["gap"].equal(output["lumo"] - output["homo"])
    trained.loss_of(output, batch, 0.0, False).backward()
    heads = trained.predictor.heads
    assert set(heads) == {"homo", "lumo"}
    assert all(any(p.grad is not None and p.grad.any() for p in head.parameters()) for head in heads.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": []}, "at least one target"),
        ({"target": ["mu", "mu"]}, "each once"),
        ({"target": "mu", "weights": [1.0, 2.0]}, "2 weights for 1 targets"),
        ({"target": "mu", "weights": [-1.0]}, "weight"),
        ({"target": "mu", "loss": "norm"}, "task.loss=norm is unknown; choose one of mae, mse, huber"),
        ({"target": "mu", "noise": 0.1, "predictor": model(("mu",))}, "predictor.denoise=true"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        task(**options)


@pytest.mark.parametrize("target", ["mu", ["U0", "mu"], list(TRAINED)])
def test_what_is_required_logged_and_drawn(target):
    names = [target] if isinstance(target, str) else target
    trained = task(target, model(names))
    assert trained.objective.required == tuple(names)
    assert [quantity.name for quantity in tables.quantities(trained.targets)] == names
    assert set(tables.columns(trained.targets)) == {f"{name}_{kind}" for name in names for kind in ("mae", "rmse")}
    assert tables.curves(trained.targets)[0] == (f"{names[0]}_mae", f"{names[0]} MAE ({TARGETS[names[0]].shown_unit})")


def test_errors_are_in_the_units_of_tables(batch):
    errors = Errors([TARGETS["U0"], TARGETS["mu"]])
    errors.update({"U0": batch.target_U0 + 0.002, "mu": batch.target_mu - 0.5}, batch)
    other = Errors([TARGETS["U0"], TARGETS["mu"]])
    other.update({"U0": batch.target_U0 - 0.004, "mu": batch.target_mu}, batch)
    errors.extend(other)
    expected = {"structures": 10, "U0_mae": 3.0, "U0_rmse": np.sqrt(10), "mu_mae": 0.25, "mu_rmse": np.sqrt(0.125)}
    assert errors.summary() == pytest.approx(expected)


def test_parity_leaves_the_atom_references_out(batch):
    net = model().eval()
    trained = task(predictor=net)
    output = trained.eval()(batch)
    pairs = {target.name: parity_points(target, net, output, batch) for target in trained.targets}
    counts = (batch.atomic_numbers[:, None] == torch.tensor(ELEMENTS)).double()
    references = torch.zeros(5, dtype=torch.float64).index_add(0, batch.batch, counts @ net.heads["U0"].e0)
    torch.testing.assert_close(pairs["U0"][0], batch.target_U0 - references, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pairs["U0"][1] - pairs["U0"][0], output["U0"] - batch.target_U0, rtol=1e-10, atol=1e-10)
    assert pairs["mu"][0].equal(batch.target_mu)


def printed(table) -> str:
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    return console.file.getvalue()


def test_published_errors_stand_beside_those_of_the_standard_split_only():
    trained = task(("U0", "mu", "A"), model(("U0", "mu", "A")))
    rows = [("test", {"structures": 10_831, "U0_mae": 6.25, "mu_mae": 0.02, "A_mae": 1.0})]
    assert "EquiformerV2" not in printed(*tables.error_tables(trained.targets, rows, {}, None, {}))
    shown = printed(*tables.error_tables(trained.targets, rows, {}, None, PUBLISHED))
    assert [line.split()[-2:] for line in shown.splitlines() if line.startswith("  PaiNN")] == [["5.85", "0.012"]]
    assert all(set(errors) == set(TRAINED) for errors in PUBLISHED.values())


# --- whole runs


def train(folder, *options):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY, f"output_dir={folder}", *options])
    console = Console(file=io.StringIO(), width=120)
    return run(cfg, console), console.file.getvalue()


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few molecules
def test_a_run_its_folder_and_its_model(tmp_path):
    metrics, shown = train(tmp_path / "run")
    names = {"model.safetensors", "last.ckpt", "metrics.json", "config.yaml", "log.csv", "parity.png"}
    names |= {"learning_curve.png", "parity.npz", "split.json"}  # as other data sets, and the split
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert metrics["units"] == {"U0": "meV", "mu": "D"}
    assert metrics["test"]["test"].keys() == {"structures", "U0_mae", "U0_rmse", "mu_mae", "mu_rmse", "baseline"}
    assert metrics["test"]["test"]["baseline"].keys() == {"structures", "U0_mae", "U0_rmse", "mu_mae", "mu_rmse"}
    assert "U0 in meV, mu in D" in shown
    assert "EquiformerV2" not in shown
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert float(rows[-1]["val_mu_mae"]) > 0

    data = QM9(cutoff=3.0, folder="qm9_sample", required=("U0", "mu"), split_file=str(tmp_path / "run" / "split.json"))
    data.setup()
    graphs = data.test_graphs["test"]
    molecules = [graphs.molecules.atoms(int(row)) for row in graphs.rows]
    found = eqmol.predict(molecules, eqmol.load(tmp_path / "run" / "model.safetensors"))
    for name, factor in (("U0", 1000.0), ("mu", 1.0)):
        errors = np.array([p[name] - graph[f"target_{name}"].item() for p, graph in zip(found, graphs, strict=True)])
        assert metrics["test"]["test"][f"{name}_mae"] == pytest.approx(factor * np.abs(errors).mean(), rel=1e-4)


def test_a_run_with_noise_that_is_interrupted_and_resumed_is_the_same_run(tmp_path, monkeypatch):
    noisy = ("task.noise=0.05", "predictor.denoise=true", "task.target=mu")
    train(tmp_path / "whole", *noisy)
    original = Task.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", training_step)
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", *noisy)
    train(tmp_path / "parts", *noisy, "resume=auto")
    assert_same(weights(tmp_path, "parts"), weights(tmp_path, "whole"))


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few molecules
def test_a_run_with_bonds_and_descriptors(tmp_path):
    train(tmp_path / "run", "data.features=[bonds,TPSA]", "task.target=gap", "trainer.max_epochs=1")
    net = eqmol.load(tmp_path / "run" / "model.safetensors")
    assert net.features == (*BONDS, "TPSA")
    with pytest.raises(InputError, match=r"which need bonds; give molecules as SMILES, \.sdf"):
        eqmol.predict(molecule("H2O"), net)


def test_a_run_on_the_standard_split_shows_published_errors_also_when_it_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(datamodule, "CHARACTERIZED", 260)
    monkeypatch.setattr(datamodule, "STANDARD", (40, 8))
    for options in ([], ["resume=auto"]):
        _, shown = train(tmp_path / "run", "task.target=mu", "trainer.max_epochs=1", *options)
        assert "EquiformerV2" in shown

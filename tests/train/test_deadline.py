"""The time of a run: from the beginning of its processes, over all starts, with evaluation and figures inside."""

import csv
import io
import json
import re
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import molecule
from rich.console import Console
from torch.utils.data import DataLoader

import eqmol
from eqmol import plots
from eqmol.cli import train as cli
from eqmol.data import datamodule
from eqmol.errors import InputError
from eqmol.train import deadline, report, stop
from eqmol.train.resume import LastCheckpoint
from eqmol.train.run import make_deadline, run
from eqmol.train.stop import Clock, Interrupted, process_start
from eqmol.train.task import Task
from eqmol.train.uncertainty import DRAWS, Uncertainty
from tests.train.runs import TINY, assert_same, configuration, weights

SET_UP, STEP, STRUCTURE = 7.0, 1.0, 0.25  #: seconds of a fake clock: set-up, a step, the evaluation of a structure
LIMITED = ["trainer.max_epochs=100", "trainer.max_time=00:00:00:50"]
#: 12 training, 4 validation and 3 test structures, one more validation, and exact variances of 4
RESERVE = deadline.FINISH_SECONDS + STRUCTURE * (12 + 4 + 3 + 4 + DRAWS * 4)


class FakeTime:
    """Seconds that pass in training, evaluation and figures, and in nothing else."""

    def __init__(self, monkeypatch):
        self.now, self.busy, self.structure = 1000.0, 1.0, STRUCTURE
        monkeypatch.setattr(stop, "monotonic", lambda: self.now)
        monkeypatch.setattr(stop, "process_time", lambda: self.now / self.busy)
        monkeypatch.setattr(deadline, "time", lambda: self.now)
        self.passing(monkeypatch, Task, "training_step", lambda batch: STEP)
        self.passing(monkeypatch, Task, "validation_step", lambda batch: self.structure * batch.num_graphs)
        self.passing(monkeypatch, Task, "evaluate", lambda batch: self.structure * batch.num_graphs)
        exact = "_estimate_exact"
        self.passing(monkeypatch, Uncertainty, exact, lambda batch: DRAWS * self.structure * batch.num_graphs)
        monkeypatch.setattr(plots, "parity", self.draw)
        monkeypatch.setattr(plots, "learning_curve", lambda *_: None)

    def draw(self, *_):
        self.now += self.busy * deadline.FINISH_SECONDS

    def passing(self, monkeypatch, owner, name, seconds):
        original = getattr(owner, name)

        def method(task, *arguments):
            batch = arguments[0] if name.endswith("_step") else arguments[1]
            self.now += seconds(batch)
            return original(task, *arguments)

        monkeypatch.setattr(owner, name, method)


@pytest.fixture
def clock(monkeypatch):
    return FakeTime(monkeypatch)


def timed(clock, folder, out, *options, set_up=SET_UP):
    """Run; return metrics, what the screen showed, and the time from the beginning of the process."""
    screen = io.StringIO()
    began = clock.now
    clock.now += set_up
    cfg = configuration(folder, out, *options)
    metrics = run(cfg, Console(file=screen, width=200), began)
    return metrics, screen.getvalue(), clock.now - began


def saved(folder, out="run"):
    """The reserve and the clock in last.ckpt."""
    state = torch.load(folder / out / "last.ckpt", weights_only=True)["callbacks"]
    return sum(state["Deadline"]["reserve"]), state["LastCheckpoint"]["clock"]


def has_std(folder):
    """Whether the saved model says how sure it is."""
    return "energy_std" in eqmol.predict([molecule("CH4")], folder / "run" / "model.safetensors")[0]


def log(folder, out="run"):
    with (folder / out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_process_began_before_this_test():
    assert 0.0 < time.monotonic() - process_start() < 86400.0
    clock = Clock(process_start())
    assert clock.besides() > 0.0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_command_counts_from_the_start_of_its_process(tmp_path, monkeypatch, jobs):
    times = []
    monkeypatch.setattr("eqmol.train.run.run", lambda cfg, began: times.append(began))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.chdir(tmp_path)
    cli.main([*(["-m", "seed=0,1"] if jobs == 2 else []), *TINY, f"output_dir={tmp_path / 'run'}"])
    assert times[0] == pytest.approx(process_start(), abs=0.5)
    assert times[1:] == [None] * (jobs - 1)  # the process began with the first job


def test_max_time_holds_everything(tmp_path, clock):
    metrics, screen, total = timed(clock, tmp_path, "run", *LIMITED)
    assert 50.0 - STEP <= total <= 50.0 + STEP
    assert metrics["steps"] == np.ceil(50.0 - SET_UP - RESERVE - STRUCTURE * 4 * (len(log(tmp_path)) - 1))
    assert f"7 s went by before the training, {50 - 7 - RESERVE:.0f} s are for it, {RESERVE:.0f} s are kept" in screen
    assert "the evaluation of 19 structures, tables and figures (measured)" in screen
    assert "epoch 1  loss" in screen  # and not of 100, as the time ends the run
    for name in ("model.safetensors", "last.ckpt", "metrics.json"):
        assert (tmp_path / "run" / name).exists()


def test_the_schedule_ends_with_the_training(tmp_path, clock, monkeypatch):
    seen = []
    original = Task.on_train_batch_start

    def on_train_batch_start(self, batch, batch_idx):
        seen.append(self.progress)
        original(self, batch, batch_idx)

    monkeypatch.setattr(Task, "on_train_batch_start", on_train_batch_start)
    timed(clock, tmp_path, "run", *LIMITED)
    assert seen == sorted(seen)
    assert seen[0] < 0.05
    assert 0.95 < seen[-1] < 1.0


def test_the_time_of_all_starts_counts(tmp_path, clock):
    *_, first = timed(clock, tmp_path, "run", *LIMITED)
    reserve, state = saved(tmp_path)
    assert reserve == pytest.approx(RESERVE, rel=0.01)
    assert state["elapsed"] + state["besides"] == pytest.approx(first)
    longer = ["trainer.max_epochs=100", "trainer.max_time=00:00:01:10", "resume=auto"]
    metrics, screen, second = timed(clock, tmp_path, "run", *longer, set_up=2.0)
    assert 70.0 - STEP - STRUCTURE * 4 <= first + second <= 70.0 + STEP
    assert "(estimated)" not in screen
    assert saved(tmp_path)[0] == pytest.approx(RESERVE, rel=0.01)
    again, _, third = timed(clock, tmp_path, "run", *longer)
    assert third == SET_UP + STRUCTURE * (19 + DRAWS * 4) + deadline.FINISH_SECONDS  # evaluated, not trained
    assert again["steps"] == metrics["steps"]
    assert again["test"] == metrics["test"]


def test_interrupted_and_resumed_is_as_uninterrupted(tmp_path, clock, monkeypatch):
    timed(clock, tmp_path, "whole", *LIMITED)
    with monkeypatch.context() as patch:
        original = LastCheckpoint.on_train_batch_end

        def on_train_batch_end(self, trainer, *arguments):
            if trainer.global_step == 14:
                self.interrupt.requested = signal.SIGINT
            original(self, trainer, *arguments)

        patch.setattr(LastCheckpoint, "on_train_batch_end", on_train_batch_end)
        with pytest.raises(Interrupted):
            timed(clock, tmp_path, "parts", *LIMITED)
    assert saved(tmp_path, "parts")[0] == pytest.approx(RESERVE, rel=0.01)
    timed(clock, tmp_path, "parts", *LIMITED, "resume=auto", set_up=0.0)
    assert_same(weights(tmp_path, "parts"), weights(tmp_path, "whole"))
    assert log(tmp_path, "parts") == log(tmp_path, "whole")


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_that_ends_between_validations_validates_its_end(tmp_path, clock, epochs):
    by_time = ["trainer.max_time=00:00:00:30", "trainer.max_epochs=null", "trainer.check_val_every_n_epoch=9"]
    by_epochs = ["trainer.check_val_every_n_epoch=2", f"trainer.max_epochs={epochs}"]
    for out, options in (("time", by_time), ("epochs", by_epochs)):
        metrics, *_ = timed(clock, tmp_path, out, *options)
        validated = [row["epoch"] for row in log(tmp_path, out) if row["val_loss"]]
        assert validated[-1] == log(tmp_path, out)[-1]["epoch"]
        assert metrics["val"]["structures"] == 4


@pytest.mark.parametrize(("seconds", "limit"), [(7, "trainer.max_time is 7 s"), (12, "trainer.max_time is 12 s")])
def test_a_time_shorter_than_the_set_up_is_refused(tmp_path, clock, seconds, limit):
    options = [f"trainer.max_time=00:00:00:{seconds:02d}"]
    with pytest.raises(InputError, match=f"^{limit}, .*set-up took 7 s, .*evaluation of 19 structures; give more$"):
        timed(clock, tmp_path, "run", *options)
    assert not (tmp_path / "run").exists()


def test_the_estimate_before_the_training_counts(tmp_path, clock, monkeypatch):
    original = Task.__call__

    def slow(self, batch):
        clock.now += 3.0 * batch.num_graphs
        return original(self, batch)

    monkeypatch.setattr(Task, "__call__", slow)
    kept = deadline.MARGIN * 3 * (4 + 3 + 4 + DRAWS * 4) + deadline.FINISH_SECONDS + deadline.TRAINING_SHARE * 50
    with pytest.raises(InputError, match=rf"and {int(kept)} s are kept"):
        timed(clock, tmp_path, "run", *LIMITED)


@pytest.mark.parametrize("edges", [False, True])
def test_the_reserve_goes_by_atoms_and_pairs(monkeypatch, edges):
    def loader(sizes):
        return DataLoader(sizes, batch_sampler=[list(range(len(sizes)))])

    def sizes(graphs):
        return np.array(graphs), 9 * np.array(graphs) if edges else None

    sets = {"train": loader([5]), "val": loader([2, 2]), "large": loader([100])}
    data = SimpleNamespace(sizes=sizes, evaluation_dataloaders=lambda: sets)
    monkeypatch.setattr("eqmol.train.run.images", lambda model: {"mirror": (), "rotation": ()})
    task = SimpleNamespace(clock=Clock(), predictor=None)
    found = make_deadline(600.0, task, data, loader([2]), Console(quiet=True))
    each = 10 if edges else 1
    sizes = {"train": 5, "val": 4, "large": 100, "mirror images": 4, "rotation images": 4}
    assert found.work == {name: each * size for name, size in sizes.items()}
    assert (found.structures, found.validated, found.first) == (4, 2 * each, 2 * each)


def test_a_machine_that_becomes_busy(tmp_path, clock, monkeypatch):
    original = Task.on_train_epoch_end

    def becoming_busy(self):
        if self.current_epoch == 2:
            clock.busy, clock.structure = 2.0, 2 * STRUCTURE
        original(self)

    monkeypatch.setattr(Task, "on_train_epoch_end", becoming_busy, raising=False)
    _, screen, total = timed(clock, tmp_path, "run", *LIMITED)
    assert 50.0 - STEP <= total <= 50.0 + STEP + 2 * STRUCTURE * 4
    kept = (RESERVE, 2 * (RESERVE - STRUCTURE * 12) + 50 * deadline.TRAINING_SHARE)
    said = [float(words) for words in re.findall(r"(\d+) s are kept for .*\(measured\)", screen)]
    assert said == pytest.approx(kept, abs=1.0)
    assert saved(tmp_path)[0] == pytest.approx(2 * RESERVE, rel=0.01)


def test_the_evaluation_of_the_training_set_ends_in_time(tmp_path, clock, monkeypatch):
    original = Task.on_train_end

    def becoming_slow(self):
        clock.structure = 2 * STRUCTURE
        original(self)

    monkeypatch.setattr(Task, "on_train_end", becoming_slow, raising=False)
    metrics, screen, total = timed(clock, tmp_path, "run", *LIMITED)
    # two batches tell the pace, and exact variances, which take twice as long, cannot be left out
    assert total <= 50.0 + STEP + 2 * STRUCTURE * 4 + STRUCTURE * DRAWS * 4
    assert 0 < metrics["train"]["structures"] < 12
    assert metrics["train"]["sampled_from"] == 12
    assert (metrics["val"]["structures"], metrics["test"]["later"]["structures"]) == (4, 3)
    assert f"evaluated {metrics['train']['structures']:.0f} structures of train, as the time is nearly over" in screen
    assert "so few say nothing of how sure predictions are" in screen
    assert not has_std(tmp_path)
    timed(clock, tmp_path, "run", *LIMITED, "resume=auto")
    assert has_std(tmp_path)


def test_the_first_batch_of_an_evaluation_tells_no_pace(clock):
    spent = SimpleNamespace(elapsed=lambda: clock.now - 1000.0, besides=lambda: 0.0)
    work = {"train": 100, "val": 50}
    found = deadline.Deadline(spent, 100.0, None, 0, work, 50, 5, Console(quiet=True))
    found.reserve, found._trains = (25.0, 20.0), True
    clock.now += 65.0
    is_over = found.watch("train")
    clock.now += 5.0  # with tables
    assert not is_over(0.05)
    clock.now += 1.0
    assert not is_over(0.1)
    clock.now += 14.0
    assert is_over(0.11)


def test_training_ends_before_the_job_of_a_queue(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{clock.now + 40:.0f}")
    _, screen, total = timed(clock, tmp_path, "run", "trainer.max_epochs=10")
    assert total <= 40.0 + STEP
    assert "time until the job ends at " in screen
    assert "the training stops here, before the job ends, and is not complete; resume=auto continues it" in screen
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{clock.now + 1000:.0f}")
    metrics, screen, _ = timed(clock, tmp_path, "run", "trainer.max_epochs=10", "resume=auto")
    assert metrics["steps"] == 40
    assert "stops here" not in screen
    timed(clock, tmp_path, "whole", "trainer.max_epochs=10")
    assert_same(weights(tmp_path), weights(tmp_path, "whole"))


def test_the_job_may_have_no_time_left(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{clock.now + 12:.0f}")
    with pytest.raises(InputError, match=r"^the job has 12 s, which leaves no time to train"):
        timed(clock, tmp_path, "run")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "soon")
    with pytest.warns(UserWarning, match="SLURM_JOB_END_TIME=soon is no time"):
        assert deadline.job_end() is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1.0, "0 s"), (85.4, "85 s"), (725.0, "12 min 5 s"), (12100.0, "3 h 21 min")]
)
def test_durations_for_a_person(seconds, text):
    assert deadline.shown(seconds) == text


# --- the evaluation


def test_a_large_training_set_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(datamodule, "EVALUATED", 5)
    screen = io.StringIO()
    metrics = run(configuration(tmp_path, "run", "trainer.max_epochs=1"), Console(file=screen, width=80))
    assert metrics["train"]["structures"] == 5
    assert metrics["train"]["sampled_from"] == 12
    assert metrics["val"]["structures"] == 4
    assert "sampled_from" not in metrics["val"]
    assert "5 of 12" in screen.getvalue()
    assert [line for line in screen.getvalue().splitlines() if line.startswith("evaluating")] == [
        "evaluating train: 5 structures",
        "evaluating val: 4 structures",
        "evaluating later: 3 structures",
    ]
    again = run(configuration(tmp_path, "run", "resume=auto", "trainer.max_epochs=1"), Console(file=io.StringIO()))
    assert again["train"] == metrics["train"] == json.loads((tmp_path / "run" / "metrics.json").read_text())["train"]
    eqmol.load(tmp_path / "run" / "model.safetensors")


def test_a_terminal_shows_how_far_the_evaluation_is():
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True)
    report.watch(iter([3, 3, 1]), "train", 7, console)
    assert "evaluating train" in screen.getvalue()
    assert "7 of 7" in screen.getvalue()


def test_debugging_evaluates_a_few_structures_of_every_set(tmp_path):
    metrics = run(configuration(tmp_path, "run", "debug=fast", "trainer.overfit=2"), Console(file=io.StringIO()))
    assert [split["structures"] for split in (metrics["train"], metrics["val"], metrics["test"]["later"])] == [2, 2, 2]

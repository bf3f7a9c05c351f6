"""A run ends with a table, or with an error: never with success because something raised the wrong exception."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException, _TunerExitException

from eqmol.cli import train as cli
from eqmol.data.loader import CompleteLoader
from eqmol.train import run
from eqmol.train.export import BestModel
from eqmol.train.lightning import watch
from eqmol.train.log import EpochLog
from eqmol.train.resume import LastCheckpoint
from eqmol.train.task import Task
from tests.train.runs import configuration, train


def raiser(exception: BaseException):
    def raises(*_, **__):
        raise exception

    return raises


HOOKS = [
    (LastCheckpoint, "_save"),
    (LastCheckpoint, "on_train_batch_end"),
    (BestModel, "on_validation_end"),
    (EpochLog, "on_train_epoch_end"),
    (Task, "on_train_batch_start"),
    (Task, "training_step"),
    (Task, "validation_step"),
    (Task, "configure_gradient_clipping"),
    (torch.optim.Optimizer, "zero_grad"),
]
OTHERS = [_TunerExitException(), SIGTERMException(), SystemExit(0), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize(("owner", "name"), HOOKS, ids=[f"{owner.__name__}.{name}" for owner, name in HOOKS])
def test_stop_iteration_in_a_hook_is_an_error(tmp_path, monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, raiser(StopIteration()))
    with pytest.raises(RuntimeError, match="StopIteration in "):
        train(tmp_path, "run", "trainer.max_epochs=2")
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("exception", OTHERS, ids=lambda exception: type(exception).__name__)
@pytest.mark.parametrize("name", ["training_step", "on_validation_epoch_end"])
def test_other_exceptions_that_look_like_an_end(tmp_path, monkeypatch, name, exception):
    monkeypatch.setattr(Task, name, raiser(exception))
    with pytest.raises(RuntimeError, match=r"no known reason|the training was ended by"):
        train(tmp_path, "run", "trainer.max_epochs=2")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_stop_iteration_of_a_logger_that_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(CSVLogger, "save", raiser(StopIteration()))
    with pytest.raises(RuntimeError, match=r"StopIteration in CSVLogger\.save"):
        watch(CSVLogger(tmp_path)).save()


class Structures:
    """Six structures, the fourth of which raises."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 3:
            raise StopIteration
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_yields_all_batches_or_raises(workers):
    loader = CompleteLoader(Structures(), batch_size=1, num_workers=workers, collate_fn=list)
    with pytest.raises(RuntimeError, match="3 of 6"):
        list(loader)


def test_exit_inside_a_run_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "make_data", raiser(SystemExit(0)))
    configuration(tmp_path)
    files = [f"data.train_file={tmp_path / 'train.xyz'}", f"data.val_file={tmp_path / 'val.xyz'}"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("sys.argv", ["train.py", "data=xyz", *files, f"output_dir={tmp_path / 'run'}"])
    with pytest.raises(RuntimeError, match=r"sys\.exit\(0\) inside the run"):
        cli.main()
    assert not (tmp_path / "run").exists()

"""A training run: configuration in, output folder out."""

import os
import sys
from itertools import islice
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig
from rich.console import Console
from torch.utils.data import DataLoader

from eqmol.checkpoint.warm_start import WarmStart
from eqmol.data.atomic_energies import KEEP
from eqmol.data.datamodule import GraphSets
from eqmol.data.loader import count, first_batch, share_of
from eqmol.train import folder, lightning, model, processes, settings
from eqmol.train.deadline import Deadline, job_end
from eqmol.train.ema import EMA
from eqmol.train.export import BestModel
from eqmol.train.folder import RunFolder, open_folder, run_name
from eqmol.train.log import EpochLog, Screen
from eqmol.train.objectives import Objective
from eqmol.train.report import print_summary, write_report
from eqmol.train.resume import LastCheckpoint
from eqmol.train.settings import make, plain
from eqmol.train.stop import Clock, Interrupt
from eqmol.train.symmetry import images
from eqmol.train.task import Task
from eqmol.train.uncertainty import DRAWS, EXACT_BATCHES, has_exact

LOG_WIDTH = 110  #: columns of tables in a pipe or a file


def run(cfg: DictConfig, console: Console | None = None, began: float | None = None) -> dict[str, Any]:
    """Train, evaluate, and write everything into the output folder.

    With several devices the command is started anew for each of the others; then this returns in the first process what the
    others return nothing of.

    Args:
        cfg: composed from ``conf/train.yaml``; its ``output_dir`` and ``statistics`` are filled in here.
        console: where to print.
        began: when the run began, as :func:`time.monotonic` tells; None: now.

    Returns:
        What metrics.json holds; nothing in a process that is not the first.

    Raises:
        InputError: something the user gave is wrong.
        NonFiniteLossError: the loss or its gradient became NaN or infinite; what was written before is kept.
        Interrupted: Ctrl-C or SIGTERM; last.ckpt is written.
    """
    console = console or Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else LOG_WIDTH)
    clock = Clock(began)
    options = settings.check(cfg)
    objective: Objective = make(cfg.task, _convert_="all")
    with lightning.quiet():
        processes.start(cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.num_nodes)
        out = open_run(cfg)
    if not processes.is_first():
        console = Console(quiet=True)
    with out, lightning.quiet():
        with processes.in_turn():
            data = make_data(cfg, objective)
            warm = None if cfg.init_from is None or out.checkpoint is not None else WarmStart(cfg.init_from)
            constants = model.complete(cfg, data, out, warm, objective)
            config = plain(cfg)
            out.check(config)
            predictor, started = model.make(cfg, data, warm)
            task = Task(predictor, objective, config["statistics"], data.metrics, clock, takes_up=data.e0 != KEEP)
        if not processes.is_first():
            torch.manual_seed(cfg.seed + processes.rank())  # its own noise
        interrupt = Interrupt(announce=processes.is_first())
        validation = share_of(data.val_dataloader(), processes.rank(), processes.size())
        deadline = make_deadline(options.max_time, task, data, validation, console)
        callbacks = make_callbacks(cfg, config, clock, interrupt, deadline, out, console)
        trainer = lightning.make_trainer(cfg.trainer, cfg.logger, out, [each for each in callbacks if each is not None])
        device = trainer.strategy.root_device
        settled = model.settle_algorithms(predictor, data, out, device, options.verify)
        deadline.estimate(task, lambda: first_batch(validation).to(device))
        begun = started if out.checkpoint is None else []
        print_summary(console, task, data, out, device, [*begun, constants, task.frozen, *settled])
        if out.checkpoint is None:
            deadline.check()
        if processes.is_first():
            out.begin(cfg)
        with interrupt:
            lightning.fit(trainer, task, data, out.checkpoint)
            if not processes.is_first():
                return {}
            times = timings(trainer, clock, callbacks.best)
            print_rate(console, len(data.train_graphs), times["seconds_per_epoch"])
            metrics = write_report(
                out, data, task, device, times, console, interrupt.check, options.verify, deadline.watch
            )
            callbacks.last.finish()
    console.print(f"model: {out.path / folder.MODEL}", soft_wrap=True, highlight=False)
    return metrics


def open_run(cfg: DictConfig) -> RunFolder:
    """Open the output folder, once for all processes, and note in the configuration where it is."""
    out = processes.of_first(open_folder(cfg.output_dir, cfg.resume) if processes.is_first() else None)
    assert out is not None
    cfg.output_dir = str(out.path)
    return out


def make_data(cfg: DictConfig, objective: Objective) -> GraphSets:
    """Read the data."""
    data: GraphSets = make(cfg.data, required=objective.required)
    data.prepare_data()
    data.few = cfg.trainer.overfit
    data.setup("fit")
    if data.few is not None:
        data.keep_first(data.few)
    return data


def make_deadline(
    max_time: float | None, task: Task, data: GraphSets, validation: DataLoader, console: Console
) -> Deadline:
    """Return what ends the training in time for the evaluation of all sets."""

    def work(loader: DataLoader, batches: int | None = None) -> int:
        atoms, edges = data.sizes(loader.dataset)  # type: ignore[arg-type]  # the graphs of a set
        sizes = atoms if edges is None else atoms + edges
        return int(sum(sizes[batch].sum() for batch in islice(loader.batch_sampler or (), batches)))

    sets = data.evaluation_dataloaders()
    return Deadline(
        task.clock,
        max_time,
        job_end(),
        structures=sum(map(count, sets.values())),
        work={name: work(loader) for name, loader in sets.items()}
        | {f"{name} images": work(sets["val"]) for name in images(task.predictor)}
        | ({"exact std": DRAWS * work(sets["val"], EXACT_BATCHES)} if has_exact(task.predictor) else {}),
        validated=work(validation),
        first=work(validation, 1),
        console=console,
    )


class Callbacks(NamedTuple):
    """The callbacks of a run, in the order that matters: average, judge, time, stop early, log, show, save."""

    ema: EMA | None
    best: BestModel
    deadline: Deadline
    patience: EarlyStopping | None
    log: EpochLog
    screen: Screen
    last: LastCheckpoint


def make_callbacks(
    cfg: DictConfig,
    config: dict[str, Any],
    clock: Clock,
    interrupt: Interrupt,
    deadline: Deadline,
    out: RunFolder,
    console: Console,
) -> Callbacks:
    """Return the callbacks of a run; ``config`` are its settings as they are saved."""
    settings, name = cfg.trainer, run_name(config)
    ema = None if settings.ema_decay is None else EMA(settings.ema_decay)
    best = BestModel(out.path / folder.MODEL, name, ema)
    patience = None
    if settings.early_stopping is not None:
        patience = EarlyStopping("val_loss", patience=settings.early_stopping, check_on_train_epoch_end=False)
    log = EpochLog(out.path / folder.LOG, clock, best)
    held = None if out.lock is None else out.lock.check
    minutes = settings.checkpoint_minutes
    last = LastCheckpoint(out.path / folder.LAST, config, name, clock, interrupt, deadline, minutes, held)
    return Callbacks(ema, best, deadline, patience, log, Screen(console, log), last)


def print_rate(console: Console, structures: int, seconds: float) -> None:
    """Print how many structures of the training set each of several processes took per second, validation included."""
    if processes.several() and seconds > 0:
        rate = structures / seconds / processes.size()
        console.print(f"{processes.size()} processes, {rate:.3g} structures per second in each", highlight=False)


def timings(trainer: Trainer, clock: Clock, best: BestModel) -> dict[str, Any]:
    """Return what metrics.json says of the run itself."""
    seconds = clock.elapsed()
    return {
        "seconds_per_epoch": seconds * trainer.num_training_batches / max(trainer.global_step, 1),
        "seconds": seconds,
        "steps": trainer.global_step,
        "best_epoch": best.epoch,
    }

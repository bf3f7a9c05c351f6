"""A training run: configuration in, output folder out."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console, RenderableType
from torch.utils.data import DataLoader

from eqmol import checkpoint, tuning
from eqmol.checkpoint.warm_start import WarmStart
from eqmol.data.atomic_energies import KEEP
from eqmol.data.loader import count, share_of
from eqmol.errors import InputError
from eqmol.graph.targets import DEGREES
from eqmol.models.predictor import Predictor
from eqmol.train import folder, processes, start, warm_energies
from eqmol.train.code import check_targets
from eqmol.train.deadline import Deadline, job_end
from eqmol.train.ema import EMA
from eqmol.train.export import BestModel
from eqmol.train.folder import RunFolder, open_folder, run_name
from eqmol.train.guard import Guard, fit, watch
from eqmol.train.log import EpochLog, Screen
from eqmol.train.precision import BFLOAT16, allow_tf32, multiply_in_bfloat16
from eqmol.train.report import print_summary, write_report
from eqmol.train.resume import CheckpointFile, LastCheckpoint, algorithms, compare_compiled_code
from eqmol.train.schedule import Budget, parse_duration
from eqmol.train.stop import Interrupt
from eqmol.train.task import Task

PRECISIONS = {
    "float32": torch.float32,
    "32-true": torch.float32,
    "float64": torch.float64,
    "64-true": torch.float64,
    BFLOAT16: torch.float32,
}
LOG_WIDTH = 110  #: columns of tables in a pipe or a file
ACCELERATORS = ("auto", "cpu", "gpu")
VERIFY = {"on": True, "true": True, "off": False, "false": False}
START = "start"  #: name among the statistics of what :func:`eqmol.train.start.measure` returns
STATISTICS_TOLERANCE = 1e-6  #: relative; the same data give the same numbers up to the order of summation


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
    check_targets(cfg)
    check_trainer(cfg.trainer)
    check_positive("task.optimizer.lr", cfg.task.optimizer.lr)
    verify = parse_verify(cfg.verify)
    task = make_task(cfg)
    if began is not None:
        task.clock.begin(began)
    check_optimizer(task)
    with quiet_lightning():
        processes.start(cfg.trainer.accelerator, cfg.trainer.devices)
    is_first = processes.rank() == 0
    if not is_first:
        console = Console(quiet=True)
    out = processes.of_first(open_folder(cfg.output_dir, cfg.resume) if is_first else None)
    assert out is not None
    cfg.output_dir = str(out.path)
    with out, quiet_lightning():
        with processes.in_turn():
            datamodule = make_data(cfg, task)
            warm = None if cfg.init_from is None or out.checkpoint is not None else WarmStart(cfg.init_from)
            energies = fill_statistics(cfg, datamodule, out, warm)
            raise_degree(cfg)
            fill_start(cfg, datamodule, out, warm)
            config = plain(cfg)
            out.check(config)
            predictor = make_predictor(cfg)
            predictor.set_domain(datamodule.shortest_distances(predictor.elements), len(datamodule.train_graphs))
            predictor.set_state(datamodule.electronic_state())
            predictor.set_labels(datamodule.label_keys())
            started = None if warm is None else warm.fill(predictor)
            task.attach(predictor)
            measured = task.begin(plain(cfg.statistics))
        if not is_first:
            torch.manual_seed(cfg.seed + processes.rank())  # its own noise
        name = run_name(config)
        best = BestModel(out.path / folder.MODEL, name, make_ema(cfg))
        interrupt = Interrupt(announce=is_first)
        sets = datamodule.evaluation_dataloaders()
        val_loader = share_of(datamodule.val_dataloader(), processes.rank(), processes.size())
        deadline = make_deadline(cfg.trainer.max_time, task, sets, val_loader, console)
        trainer = make_trainer(cfg, config, name, task, best, interrupt, deadline, out, console)
        tuned = settle_algorithms(task, datamodule, out, trainer.strategy.root_device, verify)
        code = None
        if out.checkpoint is not None and out.state is not None:
            code = compare_compiled_code(out.checkpoint, out.state["eqmol"]["kernels"], task.predictor)
        deadline.estimate(task, first_batch(val_loader).to(trainer.strategy.root_device))
        if out.checkpoint is None:
            deadline.check()
        if is_first:
            out.begin(cfg)
        print_summary(console, task, datamodule, out, trainer.strategy.root_device)
        for shown in (*measured, started, energies, tuned, code):
            if shown is not None:
                console.print(shown, soft_wrap=True, highlight=False)
        datamodule.trainer = trainer  # training batches are those of this process
        trainer.datamodule = datamodule  # type: ignore[attr-defined]
        with interrupt:
            fit(trainer, task, datamodule.train_dataloader(), val_loader, out.checkpoint)
            if not is_first:
                return {}
            extra = {
                "seconds_per_epoch": task.clock.elapsed() * trainer.num_training_batches / max(trainer.global_step, 1),
                "seconds": task.clock.elapsed(),
                "steps": trainer.global_step,
                "best_epoch": best.epoch,
            }
            device = trainer.strategy.root_device
            metrics = write_report(out, sets, device, extra, console, task, interrupt.check, verify)
            last = trainer.callbacks[-1]  # type: ignore[attr-defined]
            assert isinstance(last, LastCheckpoint)
            last.finish()
    console.print(f"model: {out.path / folder.MODEL}", soft_wrap=True, highlight=False)
    return metrics


def plain(settings: DictConfig) -> dict[str, Any]:
    """Return settings as plain values, with all references resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))


def check_trainer(settings: DictConfig) -> None:
    """Refuse what cannot work before any work is done."""
    if settings.precision not in PRECISIONS:
        raise InputError(f"trainer.precision={settings.precision} is unknown; choose one of {', '.join(PRECISIONS)}")
    if type(settings.tf32) is not bool:
        raise InputError(f"trainer.tf32={settings.tf32} must be true or false")
    if settings.accelerator not in ACCELERATORS:
        raise InputError(f"trainer.accelerator={settings.accelerator} is unknown; choose {', '.join(ACCELERATORS)}")
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator=gpu, but torch finds no GPU here; use trainer.accelerator=cpu")
    devices = settings.devices
    if type(devices) is not int or devices < 1:
        raise InputError(f"trainer.devices={devices} must be a positive integer")
    if settings.accelerator != "cpu" and torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise InputError(
            f"trainer.devices={devices}, but torch finds {torch.cuda.device_count()} GPUs here; lower it, or use "
            "trainer.accelerator=cpu"
        )
    epochs = settings.max_epochs
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise InputError(f"trainer.max_epochs={epochs} must be a positive integer, or null with trainer.max_time")
    Budget(settings.max_epochs, None if settings.max_time is None else parse_duration(settings.max_time))


def parse_verify(value: Any) -> bool:
    """Read ``verify=on`` or ``verify=off``."""
    text = str(value).lower()
    if text not in VERIFY:
        raise InputError(f"verify={value} is unknown; choose on or off")
    return VERIFY[text]


def check_positive(name: str, value: Any) -> None:
    """Refuse what is not a positive number."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{name}={value} must be a positive number")


def check_optimizer(task: Task[Any]) -> None:
    """Refuse arguments that the optimiser refuses, before anything is read or written."""
    groups = [{"params": [torch.zeros(1, 1, requires_grad=True)], "inputs": inputs} for inputs in (None, 0)]
    try:
        task.make_optimizer(groups)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"task.optimizer is wrong: {error}") from error


def fill_statistics(cfg: DictConfig, data: Any, out: RunFolder, warm: WarmStart | None = None) -> RenderableType | None:
    """Freeze the statistics of the training set into the configuration, unless the user gave them.

    A resumed run takes those of its checkpoint, and this tells whether its data are still the same. A run that starts from a
    model takes those of the model, with the elements and the energies of elements of the data.

    Returns:
        What a run that starts from a model does with constants of the elements.

    Raises:
        InputError: the data of a resumed run have changed, or their energies are implausible.
    """
    if data.e0 == KEEP and cfg.init_from is None:
        raise InputError("data.e0=keep keeps the E0s of a model, but there is none: give init_from=MODEL.safetensors")
    given = {} if cfg.statistics is None else plain(cfg.statistics)
    if warm is not None:
        warm.check_kind(cfg.predictor._target_)
        warm.add_elements(given.get("elements", data.statistics()["elements"]))
    if given:
        warm_energies.show(data, given, "statistics of the configuration")
        cfg.statistics = data.statistics() | given
        return None
    if warm is not None:
        chosen, words = warm_energies.settle(data, warm)
        cfg.statistics = data.statistics() | chosen
        return words
    if out.config is None:
        cfg.statistics = data.statistics()
        return None
    earlier = {name: value for name, value in out.config["statistics"].items() if name != START}
    if cfg.init_from is None and not _close(data.statistics(), earlier):
        raise InputError(
            f"cannot resume: the statistics of the training data are {data.statistics()}, those of {out.checkpoint} are "
            f"{earlier}; give the same data"
        )
    warm_energies.show(data, earlier, f"{out.checkpoint}")
    cfg.statistics = earlier
    return None


def fill_start(cfg: DictConfig, datamodule: Any, out: RunFolder, warm: WarmStart | None) -> None:
    """Freeze what gives the untrained model the size of its labels into the statistics, unless the user gave it.

    A resumed run and one that starts from a model keep what they have, be it nothing.
    """
    if START in cfg.statistics:
        return
    if out.config is not None:
        constants = out.config["statistics"].get(START, {})
    elif warm is not None:
        constants = warm.statistics[START]
    else:
        constants = start.measure(make_predictor(cfg), datamodule.sample())
    if constants:
        with open_dict(cfg):
            cfg.statistics[START] = constants


def raise_degree(cfg: DictConfig) -> None:
    """Give the last features the degree that the targets are read from: 1 for vectors, 2 for tensors."""
    kinds = [entry["kind"] for entry in cfg.statistics.get("properties", {}).values()]
    needed = max((DEGREES.get(kind, 0) for kind in kinds), default=0)
    if cfg.model.get("degree_out", 0) < needed:
        cfg.model.degree_out = needed


def _close(a: Any, b: Any) -> bool:
    """Return whether two trees of numbers are equal up to rounding."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_close, a, b))
    if isinstance(a, str):
        return bool(a == b)
    return isinstance(b, int | float) and math.isclose(a, b, rel_tol=STATISTICS_TOLERANCE, abs_tol=STATISTICS_TOLERANCE)


def make(settings: DictConfig, **options: Any) -> Any:
    """Build the object that settings describe; what the user got wrong is told without Hydra's words around it."""
    try:
        return instantiate(settings, **options)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def make_task(cfg: DictConfig) -> Task:
    """Build what trains the model; it says what labels it needs before there is a model."""
    task = make(cfg.task, predictor=None, _convert_="all")
    assert isinstance(task, Task)
    return task


def make_data(cfg: DictConfig, task: Task) -> Any:
    """Read the data."""
    datamodule = make(cfg.data, required=task.required)
    datamodule.prepare_data()
    datamodule.setup("fit")
    if cfg.trainer.overfit is not None:
        few = slice(cfg.trainer.overfit)
        datamodule.train_graphs = datamodule.val_graphs = datamodule.train_graphs[few]
        datamodule.test_graphs = {name: graphs[few] for name, graphs in datamodule.test_graphs.items()}
    return datamodule


def make_predictor(cfg: DictConfig) -> Predictor:
    """Build the model from its recipe."""
    pl.seed_everything(cfg.seed, verbose=False)  # after the data, so that the weights do not depend on them
    with checkpoint.default_dtype(PRECISIONS[cfg.trainer.precision]):
        predictor = checkpoint.build(plain(cfg.predictor))
    allow_tf32(cfg.trainer.tf32)
    if cfg.trainer.precision == BFLOAT16:
        multiply_in_bfloat16(predictor)
    return predictor


def settle_algorithms(
    task: Task, datamodule: Any, out: RunFolder, device: torch.device, verify: bool
) -> RenderableType | None:
    """Choose algorithms for backend=auto on the first batch of the run, or as the checkpoint has them; verify them.

    Returns:
        What to print about the choice.

    Raises:
        VerificationError: the model would compute something else than the reference.
    """
    model = task.predictor.to(device)
    auto = model.recipe["backbone"].get("backend") == tuning.AUTO
    if auto and out.state is not None:  # other algorithms round differently, and the run would not be the same
        tuning.apply(model, out.state["eqmol"]["algorithms"])
    measure = auto and out.state is None
    is_first = processes.rank() == 0
    if measure and not is_first:
        tuning.apply(model, processes.of_first({}))
    batch = first_batch(datamodule.train_dataloader())
    tuned = tuning.settle(model, batch.to(device), "training" if measure and is_first else None, verify)
    if measure and is_first:
        processes.of_first(algorithms(model))
    if tuned is not None:
        return tuned.table()
    return f"backend=auto: the algorithms are those of {out.checkpoint}" if auto else None


def first_batch(loader: DataLoader) -> Any:
    """Return the first batch of a loader, made in this process."""
    assert loader.batch_sampler is not None
    return loader.collate_fn([loader.dataset[index] for index in next(iter(loader.batch_sampler))])


def make_deadline(
    max_time: str | None, task: Task, sets: Mapping[str, DataLoader], val_loader: DataLoader, console: Console
) -> Deadline:
    """Return what ends the training in time for the evaluation of all sets."""
    passes = len(val_loader.dataset) * task.further_passes(task.predictor)  # type: ignore[arg-type]
    return Deadline(
        task.clock,
        None if max_time is None else parse_duration(max_time),
        job_end(),
        structures=sum(map(count, sets.values())) + passes,
        validated=count(val_loader),
        console=console,
    )


def make_ema(cfg: DictConfig) -> EMA | None:
    """Return the average of the weights, if one is wanted."""
    return None if cfg.trainer.ema_decay is None else EMA(cfg.trainer.ema_decay)


def make_trainer(
    cfg: DictConfig,
    config: dict[str, Any],
    name: str,
    task: Task,
    best: BestModel,
    interrupt: Interrupt,
    deadline: Deadline,
    out: RunFolder,
    console: Console,
) -> pl.Trainer:
    """Assemble Lightning's trainer. The order of the callbacks matters: average, judge, time, log, show, save."""
    settings = cfg.trainer
    log = EpochLog(out.path / folder.LOG, task.clock, best)
    callbacks: list[Callback] = [] if best.ema is None else [best.ema]
    callbacks += [best, deadline]
    if settings.early_stopping is not None:
        callbacks.append(EarlyStopping("val_loss", patience=settings.early_stopping, check_on_train_epoch_end=False))
    callbacks += [
        log,
        Screen(console, log),
        LastCheckpoint(
            out.path / folder.LAST,
            config,
            name,
            task.clock,
            interrupt,
            deadline,
            settings.checkpoint_minutes,
            None if out.lock is None else out.lock.check,
        ),
    ]
    return pl.Trainer(
        default_root_dir=out.path,
        accelerator=settings.accelerator,
        devices=settings.devices,
        # every step has the same graph, which may leave out a head; buffers are tables that never change
        strategy=DDPStrategy(static_graph=True, broadcast_buffers=False) if processes.several() else "auto",
        use_distributed_sampler=False,  # the loaders know which batches are whose
        max_epochs=-1 if settings.max_epochs is None else settings.max_epochs,
        gradient_clip_val=settings.gradient_clip_val,
        check_val_every_n_epoch=settings.check_val_every_n_epoch,
        num_sanity_val_steps=0,
        inference_mode=False,  # forces need autograd in validation
        logger=watch(instantiate(cfg.logger)) if cfg.logger else False,
        profiler=Guard(),
        plugins=CheckpointFile(out.state),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's hints, which are about choices made here on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)  # number of workers, logging interval
            for name in ("LeafSpec", "broadcast_buffers"):  # Lightning's own use of torch
                warnings.filterwarnings("ignore", f".*{name}.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

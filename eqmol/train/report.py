"""After the run: errors of the best model on every split, as a table, as numbers and as figures."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from eqmol import checkpoint, plots
from eqmol.data.comparison import Baseline
from eqmol.data.datamodule import GraphSets
from eqmol.data.loader import count
from eqmol.data.replay import REPLAY
from eqmol.files import replacing
from eqmol.graph.targets import Target
from eqmol.models.predictor import Predictor
from eqmol.train import folder
from eqmol.train.baseline import Simple, judged, verdict
from eqmol.train.endings import Ending, forgetting
from eqmol.train.endings import sentences as endings_of
from eqmol.train.folder import RunFolder
from eqmol.train.remainder import take_up
from eqmol.train.symmetry import symmetry_errors
from eqmol.train.tables import Row, curves, error_tables, loss_table, offset_notes, quantities
from eqmol.train.task import Task
from eqmol.train.uncertainty import Uncertainty, finish

TRAIN, VAL = "train", "val"  #: names of the splits that are not tests
MAX_POINTS = 20_000  #: force components per split in the parity plot
#: Structures of a training set, or all, from which the uncertainty of predictions is learnt.
ENOUGH = 50

Tell = Callable[[Mapping[str, Tensor], Any], None]  #: is told of a prediction and its batch


class Evaluation:
    """Errors and parity data of one split.

    Args:
        task: says how a model is judged.
        model: the saved one.
        baseline: what it has to beat.
        learns: take the split for the baseline to learn from, and not to be compared on.
        tell: is told what the model predicts of every batch, the last layer included; None: nobody is.
    """

    def __init__(
        self, task: Task, model: Predictor, baseline: Baseline, learns: bool, tell: Tell | None = None
    ) -> None:
        self.errors = task.new_errors()
        self.baseline_errors = task.new_errors()
        self._task = task
        self._model = model
        self._baseline = baseline
        self._learns = learns
        self._tell = tell
        self._points: dict[str, list[Tensor]] = {}

    def run(
        self, loader: Any, device: torch.device, check: Callable[[], None], is_over: Callable[[float], bool]
    ) -> Iterator[int]:
        """Predict every batch of a loader; yield its number of structures.

        Args:
            loader: of the split.
            device: where.
            check: raises when the user asks to stop.
            is_over: told the part that is done, tells whether to end here.
        """
        done, total = 0, count(loader)
        for batch in loader:
            check()
            labelled = batch.to(device)
            output = self._task.evaluate(self._model, labelled, self._tell is not None)
            if self._tell is not None:
                self._tell(output, labelled)
            self.errors.update(output, labelled)
            if self._learns:
                self._baseline.learn(labelled)
            else:
                self.baseline_errors.update(self._baseline(labelled), labelled)
            for target in self._task.targets:
                points = parity_points(target, self._model, output, labelled)
                if points is not None:
                    self._points.setdefault(target.name, []).append(points.cpu())
            yield labelled.num_graphs
            done += labelled.num_graphs
            if is_over(done / total):
                return

    def parity(self) -> dict[str, NDArray[np.float32]]:
        """Return arrays [2, points] of reference and prediction, thinned out evenly to what a figure can show; those of
        targets without labels are absent.
        """
        data = {}
        for name, parts in self._points.items():
            points = torch.cat(parts, dim=1).numpy()
            if points.shape[1] == 0:
                continue
            step = max(1, -(-points.shape[1] // MAX_POINTS))
            data[name] = points[:, ::step].astype(np.float32)
        return data


def parity_points(target: Target, model: Predictor, output: Mapping[str, Tensor], batch: Any) -> Tensor | None:
    """Return reference and prediction [2, points] of a target; None without labels, and of a stress.

    Energies are relative to isolated atoms, in eV per atom, forces those of free atoms, extensive properties what the atom
    references leave.
    """
    labels = target.labels(batch)
    if labels is None or target.kind == "stress":
        return None
    pair = torch.stack((labels, output[target.name]))
    if target.kind in ("energy", "extensive"):
        pair = pair - model.references(target.name, batch)
    if target.kind == "energy":
        pair = pair / batch.ptr.diff()
    return pair[:, labels.isfinite()]


def write_report(
    run: RunFolder,
    data: GraphSets,
    task: Task,
    device: torch.device,
    extra: Mapping[str, Any],
    console: Console,
    check: Callable[[], None] = lambda: None,
    verify: bool = True,
    limit: Callable[[str], Callable[[float], bool]] = lambda name: lambda done: False,
) -> dict[str, Any]:
    """Evaluate the saved model on every split; print the table, write metrics.json and the figures.

    Args:
        run: the folder with model.safetensors.
        data: its sets, and what the model is compared with.
        task: says how the model is judged.
        device: where to evaluate.
        extra: further entries of metrics.json.
        console: where to print.
        check: raises when the user asks to stop; called after every batch.
        verify: see :func:`eqmol.load`.
        limit: see :meth:`eqmol.train.deadline.Deadline.watch`.

    Returns:
        What metrics.json holds: "train", "val", "test" (by name), and ``extra``.
    """
    model = checkpoint.load(run.path / folder.MODEL, device=device, verify=verify)
    model.dispersion = None  # labels are without
    corrected = take_up(run.path / folder.MODEL, model, data)
    metrics: dict[str, Any] = {TRAIN: {}, VAL: {}, "test": {}}
    parity: dict[str, NDArray[np.float32]] = {}
    rows: list[Row] = []
    baseline = data.baseline(model.recipe) or Simple(task.targets)
    compared: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    loaders: Mapping[str, Any] = data.evaluation_dataloaders()
    published = data.published()
    uncertainty = Uncertainty.of(model, VAL)
    for name, loader in loaders.items():
        learns = name == TRAIN and baseline.learns
        tell: Tell | None = None
        if uncertainty is not None:
            tell = uncertainty.learn if name == TRAIN else partial(uncertainty.judge, name)
        evaluation = Evaluation(task, model, baseline, learns, tell)
        watch(evaluation.run(loader, device, check, limit(name)), name, count(loader), console)
        summary: dict[str, Any] = dict(evaluation.errors.summary())
        if summary["structures"] < count(loader):
            words = f"evaluated {summary['structures']:.0f} structures of {name}, as the time is nearly over"
            if name == TRAIN and uncertainty is not None and summary["structures"] < ENOUGH:
                uncertainty = None
                words += "; so few say nothing of how sure predictions are, which resume=auto makes up for"
            console.print(words, soft_wrap=True, highlight=False)
        if summary["structures"] < len(loader.dataset):
            summary["sampled_from"] = len(loader.dataset)
        rows.append((name, summary))
        if not learns:
            compared[name] = summary, evaluation.baseline_errors.summary()
            summary = summary | {"baseline": compared[name][1]}
        groups = evaluation.errors.by_config_type()
        if len(groups) > 1:
            rows.extend((f"  {group}", errors) for group, errors in groups.items())
            summary = summary | {"config_types": groups}
        rows.extend((f"  {other} (published)", errors) for other, errors in published.get(name, {}).items())
        if name in (TRAIN, VAL):
            metrics[name] = summary
        else:
            metrics["test"][name] = summary
        parity |= {f"{name}/{quantity}": points for quantity, points in evaluation.parity().items()}
    further = further_metrics(task, model, loaders[VAL], device)
    metrics |= {name: value for name, (value, _) in further.items()}
    forgot = None
    if data.replay is not None:
        allowed = data.replay.growth
        forgot = forgetting(judged(task.targets), task.before, metrics["test"][REPLAY], allowed)
        if forgot is not None:
            metrics[REPLAY] = {"before": dict(task.before), "growth": forgot[1], "allowed": allowed}
    metrics |= extra
    metrics["uncertainty"], calibrated = finish(run, model, uncertainty)
    metrics["peak_memory_mib"] = round(peak_memory_mib(device), 1)
    with replacing(run.path / folder.METRICS) as file:
        json.dump(checkpoint.plain(metrics), file, indent=2)
    with replacing(run.path / folder.PARITY_DATA, "wb") as file:
        np.savez_compressed(file, **parity)  # type: ignore[arg-type]
    points = run.path / folder.PARITY_DATA
    plots.parity(points, run.path / folder.METRICS, run.path / folder.PARITY, quantities(task.targets))
    plots.learning_curve(run.path / folder.LOG, run.path / folder.LEARNING_CURVE, curves(task.targets))
    shown_baselines = (
        {} if baseline.learns else {title: (baseline.name, other) for title, (_, other) in compared.items()}
    )
    for table in error_tables(task.targets, rows, shown_baselines, task.metrics, data.comparisons()):
        console.print(table, markup=False)
    compared.pop(TRAIN, None)
    ending = Ending(
        judged(task.targets),
        metrics[TRAIN],
        *compared[VAL],
        metrics["test"],
        *task.end,
        backend=_backend(model.recipe),
    )
    sentences = [
        corrected,
        *calibrated,
        *offset_notes(task.targets, rows),
        *(sentence for _, sentence in further.values()),
    ]
    endings = (verdict(judged(task.targets), compared, baseline.name), None if forgot is None else forgot[0])
    for sentence in (*sentences, *endings, *endings_of(ending)):
        if sentence is not None:
            console.print(sentence, markup=False, soft_wrap=True, highlight=False)
    return metrics


def _backend(recipe: Mapping[str, Any]) -> str:
    """Return the algorithm of the products, "" of a model without."""
    backend = recipe["backbone"].get("backend", "")
    return backend if isinstance(backend, str) else ", ".join(backend.values())


def further_metrics(task: Task, model: Predictor, loader: Any, device: torch.device) -> dict[str, tuple[Any, str]]:
    """Return further entries of metrics.json, each with a sentence for the screen: broken symmetries, units of properties."""
    further: dict[str, tuple[Any, str]] = {}
    further |= symmetry_errors(model, loader, device)
    units = {target.name: target.shown_unit for target in task.targets if target.is_property}
    if units:
        listed = ", ".join(f"{name} in {unit}" if unit else name for name, unit in units.items())
        further["units"] = (units, f"metrics.json and log.csv have errors of {listed}")
    return further


def watch(done: Iterable[int], name: str, total: int, console: Console) -> None:
    """Go through the evaluation of a set, and show how far it is: a bar on a terminal, one line elsewhere.

    Args:
        done: structures, batch by batch.
        name: of the set.
        total: its structures.
        console: where to show it.
    """
    if not console.is_terminal:
        console.print(f"evaluating {name}: {total} structures", soft_wrap=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
    )
    with Progress(
        *columns, TimeRemainingColumn(compact=True), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        line = bar.add_task(f"evaluating {name}", total=total)
        for structures in done:
            bar.advance(line, structures)


def print_summary(
    console: Console,
    task: Task,
    data: GraphSets,
    run: RunFolder,
    device: torch.device,
    notes: Sequence[RenderableType | None],
) -> None:
    """Print what is about to be trained, on what, where it will lie, and notes."""
    for table in data.tables():
        console.print(table, markup=False)  # names of files may look like it
    model = task.predictor
    backbone = model.recipe["backbone"]
    weights = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads()
    start = "continues" if run.checkpoint is not None else "begins"
    # a model of the user's may have no products to choose
    products = "".join(f"{key} {backbone[key]}, " for key in ("family", "parity") if key in backbone)
    backend = f"backend {backbone['backend']} on " if "backend" in backbone else ""
    summary = (
        f"model: {weights:,} weights, {products}{str(model.dtype).removeprefix('torch.')}; {backend}{device}, "
        f"{threads} thread{'s' * (threads > 1)}\noutput: {run.path} ({start})"
    )
    for shown in (summary, loss_table(task.loss, task.labels, task.targets), *notes):
        if shown is not None:
            console.print(shown, soft_wrap=True, highlight=False, markup=False)


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory used so far, MiB: of the GPU if there is one in use, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan
    import resource  # only where there is one

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

"""After the run: errors of the best model on every split, as a table, as numbers and as figures."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from eqmol import checkpoint, plots
from eqmol.data.loader import count
from eqmol.files import replacing
from eqmol.models.predictor import Predictor
from eqmol.train import baseline, folder
from eqmol.train.folder import RunFolder
from eqmol.train.task import Task

TRAIN, VAL = "train", "val"  #: names of the splits that are not tests
MAX_POINTS = 20_000  #: force components per split in the parity plot


class Evaluation:
    """Errors and parity data of one split.

    Args:
        task: says how a model is judged.
        model: the saved one.
        learns: take the split for the baseline to learn from, and not to be compared on.
    """

    def __init__(self, task: Task, model: Predictor, learns: bool):
        self.errors = task.new_errors()
        self.baseline_errors = task.new_errors()
        self._task = task
        self._model = model
        self._learns = learns
        self._points: dict[str, list[Tensor]] = {}

    def run(self, loader: Any, device: torch.device, check: Callable[[], None]) -> Iterator[int]:
        """Predict every batch of a loader; yield its number of structures."""
        for batch in loader:
            check()
            labelled = batch.to(device)
            output = self._task.evaluate(self._model, labelled)
            self.errors.update(output, labelled)
            if self._learns:
                self._task.baseline.learn(labelled)
            else:
                self.baseline_errors.update(self._task.baseline(labelled), labelled)
            for name, points in self._task.parity(self._model, output, labelled).items():
                self._points.setdefault(name, []).append(points.cpu())
            yield labelled.num_graphs

    def parity(self) -> dict[str, NDArray[np.float32]]:
        """Return arrays [2, points] of reference and prediction, thinned out evenly to what a figure can show; those of
        quantities without labels are absent.
        """
        data = {}
        for name, parts in self._points.items():
            points = torch.cat(parts, dim=1).numpy()
            if points.shape[1] == 0:
                continue
            step = max(1, -(-points.shape[1] // MAX_POINTS))
            data[name] = points[:, ::step].astype(np.float32)
        return data


def write_report(
    run: RunFolder,
    loaders: Mapping[str, Any],
    device: torch.device,
    extra: Mapping[str, Any],
    console: Console,
    task: Task,
    check: Callable[[], None] = lambda: None,
    verify: bool = True,
) -> dict[str, Any]:
    """Evaluate the saved model on every split; print the table, write metrics.json and the figures.

    Args:
        run: the folder with model.safetensors.
        loaders: "train", "val" and the tests by name; of a part of a set where it is large.
        device: where to evaluate.
        extra: further entries of metrics.json.
        console: where to print.
        task: says how the model is judged.
        check: raises when the user asks to stop; called after every batch.
        verify: see :func:`eqmol.load`.

    Returns:
        What metrics.json holds: "train", "val", "test" (by name), and ``extra``.
    """
    model = checkpoint.load(run.path / folder.MODEL, device=device, verify=verify)
    metrics: dict[str, Any] = {TRAIN: {}, VAL: {}, "test": {}}
    parity: dict[str, NDArray[np.float32]] = {}
    rows: list[tuple[str, dict[str, float]]] = []
    compared: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for name, loader in loaders.items():
        learns = name == TRAIN and task.baseline.learns
        evaluation = Evaluation(task, model, learns)
        watch(evaluation.run(loader, device, check), name, count(loader), console)
        summary: dict[str, Any] = dict(evaluation.errors.summary())
        if count(loader) < len(loader.dataset):
            summary["sampled_from"] = len(loader.dataset)
        rows.append((name, summary))
        if not learns:
            compared[name] = summary, evaluation.baseline_errors.summary()
            if not task.baseline.learns:
                rows.append((task.baseline.name, compared[name][1]))
            summary = summary | {"baseline": compared[name][1]}
        groups = evaluation.errors.by_config_type()
        if len(groups) > 1:
            rows.extend((f"  {group}", errors) for group, errors in groups.items())
            summary = summary | {"config_types": groups}
        if name in (TRAIN, VAL):
            metrics[name] = summary
        else:
            metrics["test"][name] = summary
        parity |= {f"{name}/{quantity}": points for quantity, points in evaluation.parity().items()}
    further = task.further_metrics(model, loaders[VAL], device)
    metrics |= {name: value for name, (value, _) in further.items()}
    metrics |= extra
    metrics["peak_memory_mib"] = round(peak_memory_mib(device), 1)
    with replacing(run.path / folder.METRICS) as file:
        json.dump(checkpoint.plain(metrics), file, indent=2)
    with replacing(run.path / folder.PARITY_DATA, "wb") as file:
        np.savez_compressed(file, **parity)  # type: ignore[arg-type]
    data = run.path / folder.PARITY_DATA
    plots.parity(data, run.path / folder.METRICS, run.path / folder.PARITY, task.quantities)
    plots.learning_curve(run.path / folder.LOG, run.path / folder.LEARNING_CURVE, task.curves)
    for table in task.tables(rows):
        console.print(table, markup=False)
    shown = [sentence for _, sentence in further.values()]
    compared.pop(TRAIN, None)
    for sentence in (*shown, baseline.verdict(task.judged, compared, task.baseline.name)):
        if sentence is not None:
            console.print(sentence, markup=False, soft_wrap=True, highlight=False)
    return metrics


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


def print_summary(console: Console, task: Task, datamodule: Any, run: RunFolder, device: torch.device) -> None:
    """Print what is about to be trained, on what, and where it will lie."""
    for table in datamodule.tables():
        console.print(table, markup=False)  # names of files may look like it
    model = task.predictor
    backbone = model.recipe["backbone"]
    weights = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads()
    start = "continues" if run.checkpoint is not None else "begins"
    # a model of the user's may have no products to choose
    products = "".join(f"{key} {backbone[key]}, " for key in ("family", "parity") if key in backbone)
    backend = f"backend {backbone['backend']} on " if "backend" in backbone else ""
    console.print(
        f"model: {weights:,} weights, {products}{str(model.dtype).removeprefix('torch.')}; {backend}{device}, "
        f"{threads} thread{'s' * (threads > 1)}\noutput: {run.path} ({start})",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory used so far, MiB: of the GPU if there is one in use, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan
    import resource  # only where there is one

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

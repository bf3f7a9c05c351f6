"""What happens to a model when it meets its first batch: algorithms are chosen, and compared with the reference."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from eqmol.models.predictor import Predictor
from eqmol.ops import kernels
from eqmol.tuning.measure import Mode
from eqmol.tuning.operations import is_reference, operations
from eqmol.tuning.tables import tabulate
from eqmol.tuning.tune import Tuning, tune
from eqmol.tuning.verify import verify

WIDTH = 100  #: columns of the table where the terminal has fewer


@contextmanager
def uncollected() -> Iterator[None]:
    """Let Python's search for cycles rest: expressions of kernels are many and have none, and every search walks all of torch."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def settle(model: Predictor, graph: Any, mode: Mode | None, check: bool, tables: bool = False) -> Tuning | None:
    """Choose algorithms by measurement, tabulate, compile, then verify; weights, gradients and random numbers are left alone.

    Args:
        model: on its device.
        graph: a batch on that device.
        mode: what the model is used for; None keeps its algorithms.
        check: whether to verify.
        tables: whether radial weights may be read from tables: the weights are constants from now on.

    Raises:
        VerificationError: the model computes something else than the reference.
    """
    device = next(model.parameters()).device
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with generators, kernels.said(), uncollected():
        tuning = None if mode is None else tune(model, graph, mode)
        note = tabulate(model, graph) if tables else None
        if note is not None:
            print(note, file=sys.stderr)
        learned = any(parameter.requires_grad for parameter in model.parameters())
        tabulated = model.backbone.table_nodes is not None
        kernels.build(operations(model).values(), device, model.dtype, learned, model.training, tabulated)
        if check:
            verify(model, graph)
    return tuning


class FirstUse:
    """A forward pre-hook that settles a model's algorithms on the first batch that has edges, and then rests.

    Args:
        measured: choose by measurement. The choice stays for later batches of other sizes.
        check: verify.
        tables: read radial weights from tables, see :func:`settle`.
    """

    def __init__(self, measured: bool, check: bool, tables: bool) -> None:
        self.measured = measured
        self.check = check
        self.tables = tables
        self.pending = True

    def __call__(self, model: Predictor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before ``model(graph, forces=..., stress=...)``."""
        given = dict(zip(("graph", "forces", "stress"), args, strict=False)) | kwargs
        graph = given["graph"]
        if not self.pending or graph.num_edges == 0:
            return
        self.pending = False  # copies of the model, which are evaluated meanwhile, come here too
        try:
            evaluated: Mode = "forces" if given.get("forces", True) or given.get("stress") else "energy"
            mode: Mode = "training" if model.training else evaluated
            tuning = settle(model, graph, mode if self.measured else None, self.check, self.tables)
        except BaseException:
            self.pending = True
            raise
        if tuning is not None and tuning.measured:
            from rich.console import Console

            width = max(Console(stderr=True).width, WIDTH)
            Console(stderr=True, width=width).print(tuning.table())


def at_first_use(model: Predictor, measured: bool, check: bool, tables: bool = False) -> None:
    """Let a model be tuned, compiled and verified when it is first evaluated; arguments as of :class:`FirstUse`."""
    cpu, ops = torch.device("cpu"), operations(model).values()
    compiled = any(kernels.may_apply(op, model.dtype) for op in ops)
    if measured or compiled or tables or (check and not all(is_reference(op, cpu, model.dtype) for op in ops)):
        model.register_forward_pre_hook(FirstUse(measured, check, tables), with_kwargs=True)

"""One process per method: its own imports, memory and threads. It measures itself, one call at a time, when told to."""

import ctypes
import gc
import importlib
import multiprocessing
import sys
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.peers.case import Case

PROCESS = Path("/proc/self")
CURRENT_E3NN = Path(sys.prefix) / "e3nn-current"


class Worker:
    """A method in a process of its own; ``worker.ask(name, ...)`` calls a method of :class:`Session` there.

    Raises:
        RuntimeError: what went wrong in the process.
    """

    def __init__(self, method: str) -> None:
        self.connection, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(there, method), daemon=True)
        self.process.start()

    def ask(self, request: str, *arguments: Any) -> Any:
        self.connection.send((request, arguments))
        answer, error = self.connection.recv()
        if error:
            raise RuntimeError(error)
        return answer

    def stop(self) -> None:
        self.connection.send(None)
        self.process.join()


def serve(connection: Connection, method: str) -> None:
    """Answer requests until None arrives."""
    warnings.simplefilter("ignore")
    if method == "e3nn-current":
        sys.path.insert(0, str(CURRENT_E3NN))
    session = Session(method)
    while (request := connection.recv()) is not None:
        name, arguments = request
        try:
            connection.send((getattr(session, name)(*arguments), None))
        except Exception as error:
            connection.send((None, f"{type(error).__name__}: {error}"))


class Session:
    """What a worker holds: a method, and the case it is ready for."""

    def __init__(self, method: str) -> None:
        import torch

        # constants of e3nn 0.4.4 contain slices
        torch.serialization.add_safe_globals([slice])
        self.method = method

    def prepare(self, case: Case) -> tuple[int, float]:
        """Make ready for a case; returns the number of weights and the largest error relative to the largest value."""
        import torch

        self.ready = self.cotangent = None
        suite = importlib.import_module(f"benchmarks.peers.{case.operation}")
        self.ready = suite.prepare(case, self.method)
        with torch.no_grad():
            output = self.ready.function(*self.ready.inputs)
            self.cotangent = torch.randn_like(output)
            if self.ready.check is None:
                return self.ready.weights, float("nan")
            own, reference = self.ready.check(output)
            return self.ready.weights, float((own - reference).abs().max() / reference.abs().max())

    def call(self) -> None:
        """Forward and backward."""
        import torch

        output = self.ready.function(*self.ready.inputs)
        torch.autograd.grad(output, self.ready.inputs, self.cotangent)

    def warm(self, threads: int) -> float:
        """Seconds of a call after warm-up on so many threads."""
        import torch

        torch.set_num_threads(threads)
        for _ in range(3):  # compilers specialise during the first two
            start = time.perf_counter()
            self.call()
            seconds = time.perf_counter() - start
        return seconds

    def measure(self, number: int) -> tuple[float, float]:
        """Wall and process CPU time per call in seconds, the mean of ``number`` calls."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(number):
            self.call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return tuple(t / number / self.ready.share for t in (wall, cpu))

    def peak_memory(self) -> float:
        """MiB of resident memory that a call takes at most on top of its inputs; nan where the system does not tell."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # freed blocks that the allocator keeps would hide what the call takes
        before = _resident("VmRSS")
        (PROCESS / "clear_refs").write_text("5")
        self.call()
        return (_resident("VmHWM") - before) / self.ready.share


def _resident(key: str) -> float:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))

"""One process per method: its own imports, memory and threads. It measures itself, one call at a time, when told to."""

import ctypes
import importlib
import multiprocessing
import sys
import time
import warnings
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.case import Case, Ready

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Calls that take longer are not repeated without need.
SLOW = 1.0
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

    ready: Ready
    cotangent: Tensor | None

    def __init__(self, method: str) -> None:
        torch.serialization.add_safe_globals([slice])  # constants of e3nn 0.4.4 contain slices
        torch.set_num_threads(1)
        fix_malloc()
        self.method = method

    def prepare(self, case: Case) -> tuple[int, float]:
        """Make ready for a case; returns the number of weights and the largest error relative to the largest value."""
        suite = importlib.import_module(f"benchmarks.peers.{case.operation}")
        self.ready, self.cotangent = suite.prepare(case, self.method), None
        output = self.call()
        if self.ready.check is None:
            return self.ready.weights, float("nan")
        own, reference = self.ready.check(output)
        return self.ready.weights, float((own - reference).abs().max() / reference.abs().max())

    def call(self) -> Tensor:
        """Forward and backward; returns the output."""
        output = self.ready.function(*self.ready.inputs)
        if self.cotangent is None:
            self.cotangent = torch.randn_like(output)
        torch.autograd.grad(output, self.ready.inputs, self.cotangent)
        return output.detach()

    def warm(self, threads: int) -> float:
        """Seconds of a call on so many threads, after two to warm up unless it is slow."""
        torch.set_num_threads(threads)
        for _ in range(3):  # compilers specialise again when the number of threads changes
            start = time.perf_counter()
            self.call()
            seconds = time.perf_counter() - start
            if seconds > SLOW:
                break
        return seconds

    def measure(self, number: int) -> dict[str, float]:
        """Wall and process CPU time per call in seconds, the mean of ``number`` calls."""
        if number > 1:
            self.call()  # the turns of the other processes emptied the caches
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(number):
            self.call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        calls = number * self.ready.share
        return {"wall": wall / calls, "cpu": cpu / calls}

    def peak_memory(self) -> float:
        """MiB that PyTorch's allocator hands out at most at one time during a call, on top of its inputs."""
        cpu = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
            self.call()
        events = profile.profiler.kineto_results.events()
        changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        peak = max(accumulate(size for _, size in changes))
        return peak / 2**20 / self.ready.share


def fix_malloc() -> None:
    """Fix glibc's thresholds, which otherwise move with the history of a process, at the end of their range."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**25)
    libc.mallopt(M_TRIM_THRESHOLD, 2**26)

"""One process per case, within limits of CPU time and memory."""

import math
import multiprocessing
import resource
import signal
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from benchmarks.steps.step import MODELS, Case, Step
from eqmol.cli.options import keep_freed_memory
from eqmol.errors import InputError
from eqmol.train.memory import OutOfMemoryError, memory_errors

MEASURED = ("step_ms", "peak_mib")
COLUMNS = ("forces", "family", "degree", "backend", "atoms", "edges", *MEASURED)


class Limits(NamedTuple):
    """CPU time of a case in seconds, of its timed steps in seconds, their number, and memory in GiB."""

    case: int
    steps: float
    number: int
    memory: float


class Worker:
    """A case in a process of its own, which takes a step when told to; the first one is a warm-up."""

    def __init__(self, case: Case, limits: Limits) -> None:
        self.limits, self.times = limits, list[float]()
        self.row: dict[str, Any] = case._asdict() | {"family": MODELS[case.model][0]}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["hydra", "eqmol.train.run", "benchmarks.peers.report"])
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(case, limits, there), daemon=True)
        self.process.start()
        there.close()
        self.ask("prepare")
        self.step()

    def step(self) -> None:
        """Take a step while there is time for it."""
        if sum(self.times) <= self.limits.steps:
            self.ask("step")
            self.times.append(self.row.get("seconds", math.nan))

    def finish(self) -> dict[str, Any]:
        """The numbers of the case."""
        self.ask("memory")
        self.connection.close()
        self.process.join()
        self.row["step_ms"] = 1e3 * statistics.median(self.times[1:] or self.times)
        row = {name: self.row.get(name, math.nan) for name in COLUMNS} | {"outcome": "ok"}
        return (
            row
            if "outcome" not in self.row
            else row | dict.fromkeys(MEASURED, math.nan) | {"outcome": self.row["outcome"]}
        )

    def ask(self, request: str) -> None:
        """Add the answer to the row, unless the case has come to its end."""
        if "outcome" in self.row:
            return
        try:
            self.connection.send(request)
            self.row |= self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            over = self.process.exitcode == -signal.SIGXCPU
            self.row["outcome"] = f"over {self.limits.case} s" if over else f"ended with {self.process.exitcode}"


def serve(case: Case, limits: Limits, connection: Connection) -> None:
    """Answer until the other end is closed; the system ends a process that exceeds its CPU time."""
    torch.set_num_threads(1)
    keep_freed_memory()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + limits.case, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_DATA, (int(limits.memory * 2**30), resource.RLIM_INFINITY))
    try:
        connection.recv()
        step = Step(case)
        connection.send({"atoms": step.batch.num_nodes, "edges": step.batch.num_edges})
        with memory_errors(step.batch):
            while connection.recv() == "step":
                begin = time.process_time()
                step()
                connection.send({"seconds": time.process_time() - begin})
            connection.send({"peak_mib": step.peak_memory()})
    except (MemoryError, OutOfMemoryError):
        connection.send({"outcome": "out of memory"})
    except InputError as error:
        connection.send({"outcome": str(error)})
    except EOFError:
        return


def measure(cases: list[Case], limits: Limits) -> list[dict[str, Any]]:
    """The rows of cases whose steps are taken in turn."""
    workers = [Worker(case, limits) for case in cases]
    for _ in range(limits.number):
        for worker in workers:
            worker.step()
    return [worker.finish() for worker in workers]

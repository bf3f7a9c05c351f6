"""Several processes that train one model, one per device: who they are, what they tell one another.

Every process holds the whole model and takes its share of the batches; gradients are averaged. The first process alone
prints and writes. Without other processes all of this does nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor

from eqmol.errors import InputError

T = TypeVar("T")
TORCHRUN = "TORCHELASTIC_RUN_ID"  #: set in processes that torchrun has started


def start(accelerator: str, devices: int, num_nodes: int) -> None:
    """Start the other processes of this machine, unless torchrun or SLURM has done so, and connect those of all machines.

    They run the same command.

    Args:
        accelerator: as Lightning names it.
        devices: processes of a machine.
        num_nodes: machines.

    Raises:
        InputError: torchrun has started another number of processes.
    """
    wanted, started = devices * num_nodes, os.environ.get("WORLD_SIZE", "")
    if TORCHRUN in os.environ and started != str(wanted):
        raise InputError(
            f"torchrun has started {started} processes, and trainer.devices={devices} trainer.num_nodes={num_nodes} are "
            f"{wanted}; make them the same"
        )
    if wanted > 1 and not several():
        Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp").launch()


def several() -> bool:
    """Return whether there are other processes."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process; 0 prints and writes."""
    return dist.get_rank() if several() else 0


def is_first() -> bool:
    """Return whether this is the process that prints and writes."""
    return rank() == 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if several() else 1


@contextmanager
def in_turn() -> Iterator[None]:
    """Let the first process go ahead, and the others follow when it is through: it finds what is wrong, and says so once."""
    if rank() > 0:
        dist.barrier()
    yield
    if several() and rank() == 0:
        dist.barrier()


def of_first(value: T) -> T:
    """Return the value of the first process."""
    values = [value]
    if several():
        dist.broadcast_object_list(values)
    return values[0]


def gather(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if not several():
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def mean(value: Tensor) -> Tensor:
    """Return the mean over the processes."""
    if not several():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / size()


def highest(*values: float) -> list[float]:
    """Return the largest of each value over the processes."""
    if not several():
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def is_loss_of_another(error: RuntimeError) -> bool:
    """Return whether an error says no more than that another process ended, which tells the user why."""
    return several() and any(word in str(error) for word in ("gloo", "onnection", "NCCL"))

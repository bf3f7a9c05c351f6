"""Batches in a seeded order that can be continued from any point."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from eqmol.errors import InputError
from eqmol.graph import AtomGraph, collate


class ShuffledBatches(Sampler[list[int]]):
    """The batches of one epoch in an order that depends on (seed, epoch) only, from batch ``start`` on.

    Args:
        num_graphs: size of the set.
        batch_size: graphs per batch; the last batch may be smaller.
        seed: of the run.
    """

    def __init__(self, num_graphs: int, batch_size: int, seed: int) -> None:
        self.num_graphs = num_graphs
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return -(-self.num_graphs // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch that is left."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_graphs).tolist()
        for batch in range(self.start, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]


class ResumableLoader(DataLoader):
    """Shuffled batches of graphs; ``state_dict`` says where the consumer is, also with workers that run ahead.

    Lightning stores and restores the state with its own. The order does not depend on the number of workers, and the
    global random state is left alone.

    Args:
        graphs: with their neighbour lists; workers only collate.
        batch_size: graphs per batch.
        seed: of the run.
        num_workers: processes; 0 collates in this one.
    """

    batch_sampler: ShuffledBatches

    def __init__(self, graphs: Sequence[AtomGraph], batch_size: int, seed: int, num_workers: int = 0) -> None:
        super().__init__(
            graphs,  # type: ignore[arg-type]  # a list has all that a map-style set needs
            batch_sampler=ShuffledBatches(len(graphs), batch_size, seed),
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(seed),
        )
        self.epoch = 0
        self.consumed = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch asks for its private iterator class
        """Continue the epoch, or begin the next one when this one was consumed."""
        if self.consumed >= len(self):
            self.epoch, self.consumed = self.epoch + 1, 0
        self.batch_sampler.epoch, self.batch_sampler.start = self.epoch, self.consumed
        for batch in super().__iter__():
            self.consumed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the cursor, with the settings that give it a meaning."""
        return {"epoch": self.epoch, "consumed": self.consumed, **self._settings()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where a loader with the same settings was.

        Raises:
            InputError: the settings differ.
        """
        for name, value in self._settings().items():
            if state[name] != value:
                raise InputError(
                    f"the run to be resumed had {name.replace('_', ' ')} {state[name]}, this one has {value}; "
                    "resume with the same data, or start a new run"
                )
        self.epoch, self.consumed = state["epoch"], state["consumed"]

    def _settings(self) -> dict[str, int]:
        """Return what the order of the batches depends on."""
        sampler = self.batch_sampler
        return {"training_frames": sampler.num_graphs, "batch_size": sampler.batch_size, "seed": sampler.seed}

"""Batches in a seeded order that can be continued from any point."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from eqmol.errors import InputError
from eqmol.graph import AtomGraph, collate

#: Batches bounded by size vary in number from epoch to epoch; this many more than in the first are always enough room.
SLACK = 1.05
ATTEMPTS = 10


@dataclass(frozen=True)
class Limits:
    """What a batch may hold at most, besides its number of graphs; no graph alone is larger.

    Args:
        atoms: [graphs] atoms of each.
        edges: [graphs] edges of each; needed if they are limited.
        max_atoms: atoms in a batch, or None.
        max_edges: edges in a batch, or None.
    """

    atoms: NDArray[np.int64]
    edges: NDArray[np.int64] | None = None
    max_atoms: int | None = None
    max_edges: int | None = None

    @property
    def cost(self) -> NDArray[np.int64]:
        """What the time of a graph grows with [graphs]."""
        return self.atoms if self.edges is None else self.edges


def fill(order: Iterable[int], batch_size: int, limits: Limits | None = None) -> list[list[int]]:
    """Cut an order of graphs into batches, each as long as the limits allow.

    Args:
        order: indices of graphs.
        batch_size: most graphs per batch.
        limits: most atoms and edges per batch.
    """
    if limits is None:
        indices = list(order)
        return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    sizes = [
        (size.tolist(), most)
        for size, most in ((limits.atoms, limits.max_atoms), (limits.edges, limits.max_edges))
        if size is not None and most is not None
    ]
    batches: list[list[int]] = []
    room = [0] * len(sizes)
    for index in order:
        if (
            not batches
            or len(batches[-1]) == batch_size
            or any(size[index] > left for (size, _), left in zip(sizes, room, strict=True))
        ):
            batches.append([])
            room = [most for _, most in sizes]
        batches[-1].append(index)
        room = [left - size[index] for (size, _), left in zip(sizes, room, strict=True)]
    return batches


def split_up(batches: list[list[int]], number: int) -> list[list[int]]:
    """Halve batches, the last ones first, until there are ``number``; repeat some where all hold a single graph."""
    while (missing := number - len(batches)) > 0:
        divisible = [i for i, batch in enumerate(batches) if len(batch) > 1][-missing:]
        if not divisible:
            return batches + [batches[i % len(batches)] for i in range(missing)]
        halved = set(divisible)
        batches = [half for i, batch in enumerate(batches) for half in (_halves(batch) if i in halved else [batch])]
    return batches


def _halves(batch: list[int]) -> list[list[int]]:
    middle = -(-len(batch) // 2)
    return [batch[:middle], batch[middle:]]


class ShuffledBatches(Sampler[list[int]]):
    """The batches of one epoch in an order that depends on (seed, epoch) only, from batch ``start`` on.

    Every epoch has the same number of batches, also where sizes limit them, and every process gets as many. At each step
    the processes get batches of about the same size.

    Args:
        num_graphs: size of the set.
        batch_size: most graphs per batch; the last batch may be smaller.
        seed: of the run.
        limits: most atoms and edges per batch.
        rank: which of the processes this is.
        num_ranks: processes that share the epoch.
        drawn: how many graphs of the set stand at its end and how many of them an epoch has, drawn anew for each.
    """

    def __init__(
        self,
        num_graphs: int,
        batch_size: int,
        seed: int,
        limits: Limits | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        drawn: tuple[int, int] = (0, 0),
    ) -> None:
        self.num_graphs = num_graphs
        self.batch_size = batch_size
        self.seed = seed
        self.limits = limits
        self.rank = rank
        self.num_ranks = num_ranks
        self.drawn = drawn
        self.epoch = 0
        self.start = 0
        self._num_batches = -(-self._count() // num_ranks) * num_ranks

    def __len__(self) -> int:
        """Return the number of batches of this process in a whole epoch."""
        return self._num_batches // self.num_ranks

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch that is left."""
        yield from self.batches()[self.rank :: self.num_ranks][self.start :]

    def batches(self) -> list[list[int]]:
        """Return the batches of all processes in this epoch, those of one step beside each other."""
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.limits is None:
            return split_up(fill(self._order(rng), self.batch_size), self._num_batches)
        for _ in range(ATTEMPTS):
            order = self._order(rng)
            batches = fill(order, self.batch_size, self.limits)
            if len(batches) <= self._num_batches:
                break
        else:
            batches = self._by_size(order)[: self._num_batches]  # of drawn graphs there may be a few more
        batches = split_up(batches, self._num_batches)
        batches.sort(key=lambda batch: int(self.limits.cost[batch].sum()))  # type: ignore[union-attr]
        steps = [batches[i : i + self.num_ranks] for i in range(0, len(batches), self.num_ranks)]
        return [batch for step in rng.permutation(len(steps)) for batch in steps[step]]

    def _order(self, rng: np.random.Generator) -> list[int]:
        """Return the graphs of an epoch."""
        order = rng.permutation(self.num_graphs)
        some, number = self.drawn
        if some:
            always = self.num_graphs - some
            kept = np.concatenate((np.arange(always), always + rng.permutation(some)[:number]))
            order = order[np.isin(order, kept)]
        return order.tolist()

    def _by_size(self, order: Sequence[int]) -> list[list[int]]:
        """Return batches of graphs of similar size: about as many in every epoch."""
        assert self.limits is not None
        indices = np.sort(np.asarray(order))
        sizes = self.limits.cost[indices]
        return fill(indices[np.argsort(-sizes, kind="stable")].tolist(), self.batch_size, self.limits)

    def _count(self) -> int:
        """Return how many batches an epoch has."""
        some, number = self.drawn
        graphs = self.num_graphs - some + number
        if self.limits is None:
            return -(-graphs // self.batch_size)
        order = self._order(np.random.default_rng([self.seed, 0]))
        first = fill(order, self.batch_size, self.limits)
        return max(min(int(SLACK * len(first)), graphs), len(self._by_size(order)))


def share_of(loader: DataLoader, rank: int, num_ranks: int) -> DataLoader:
    """Return the batches of one of several processes: together they have every graph of an unshuffled loader once.

    Raises:
        InputError: fewer graphs than processes.
    """
    if num_ranks == 1:
        return loader
    batches = list(loader.batch_sampler)  # type: ignore[arg-type]
    graphs = sum(map(len, batches))
    if graphs < num_ranks:
        raise InputError(
            f"{num_ranks} processes cannot share {graphs} validation structures; use fewer (trainer.devices)"
        )
    return CompleteLoader(
        loader.dataset,
        batch_sampler=split_up(batches, num_ranks)[rank::num_ranks],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        generator=torch.Generator(),
    )


def first_batch(loader: DataLoader) -> Any:
    """Return the first batch of a loader, made in this process."""
    assert loader.batch_sampler is not None
    return loader.collate_fn([loader.dataset[index] for index in next(iter(loader.batch_sampler))])


def count(loader: DataLoader) -> int:
    """Return the number of graphs in all batches of an unshuffled loader."""
    return sum(map(len, loader.batch_sampler))  # type: ignore[arg-type]


class CompleteLoader(DataLoader):
    """Batches in a fixed order, all of them: a StopIteration from a structure would pass for the end of the data."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch asks for its private iterator class
        """Yield all batches."""
        return complete(super().__iter__(), len(self))


def complete(batches: Iterable[Any], number: int) -> Iterator[Any]:
    """Yield ``number`` batches.

    Raises:
        RuntimeError: there are fewer.
    """
    found = 0
    for batch in batches:
        found += 1
        yield batch
    if found < number:
        raise RuntimeError(f"StopIteration in the batches' making: {found} of {number} were made")


class ResumableLoader(DataLoader):
    """Shuffled batches of graphs; ``state_dict`` says where the consumer is, also with workers that run ahead.

    Lightning stores and restores the state with its own. The order does not depend on the number of workers, and the
    global random state is left alone.

    Args:
        graphs: with their neighbour lists, or making them when asked for one; workers do that and collate.
        batch_size: most graphs per batch.
        seed: of the run.
        num_workers: processes; 0 collates in this one.
        limits, rank, num_ranks, drawn: see :class:`ShuffledBatches`.
    """

    batch_sampler: ShuffledBatches

    def __init__(
        self,
        graphs: Sequence[AtomGraph],
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        limits: Limits | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        drawn: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(
            graphs,  # type: ignore[arg-type]  # a list has all that a map-style set needs
            batch_sampler=ShuffledBatches(len(graphs), batch_size, seed, limits, rank, num_ranks, drawn),
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
        for batch in complete(super().__iter__(), len(self) - self.consumed):
            self.consumed += 1
            yield batch

    @property
    def replayed(self) -> float:
        """The share of old structures in an epoch."""
        sampler = self.batch_sampler
        return sampler.drawn[1] / max(sampler.num_graphs - sampler.drawn[0] + sampler.drawn[1], 1)

    def state_dict(self) -> dict[str, int]:
        """Return the cursor, with the settings that give it a meaning."""
        return {"epoch": self.epoch, "consumed": self.consumed, **self._settings()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where a loader with the same settings was.

        Raises:
            InputError: the settings differ.
        """
        settings = self._settings()
        for name in sorted({*settings, *state} - {"epoch", "consumed"}):
            if state.get(name) != settings.get(name):
                raise InputError(
                    f"the run to be resumed had {name.replace('_', ' ')} {state.get(name)}, this one has "
                    f"{settings.get(name)}; resume with the same data, or start a new run"
                )
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])

    def _settings(self) -> dict[str, int]:
        """Return what the order of the batches depends on."""
        sampler, limits = self.batch_sampler, self.batch_sampler.limits
        settings = {"training_frames": sampler.num_graphs, "batch_size": sampler.batch_size, "seed": sampler.seed}
        optional = {
            "batch_atoms": None if limits is None else limits.max_atoms,
            "batch_edges": None if limits is None else limits.max_edges,
            "processes": None if sampler.num_ranks == 1 else sampler.num_ranks,
            "replayed_structures": sampler.drawn[1] or None,
        }
        return settings | {name: value for name, value in optional.items() if value is not None}

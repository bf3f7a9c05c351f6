"""Training batches: seeded order, exact continuation with and without workers."""

import functools
import itertools
import operator

import ase
import numpy as np
import pytest
import torch

from eqmol.data.loader import Limits, ResumableLoader, ShuffledBatches, fill, split_up
from eqmol.errors import InputError
from eqmol.graph import from_atoms

WORKERS = [0, 2]


def graphs(count: int = 23) -> list:
    """Frames that say which they are in ``source``."""
    return [from_atoms(ase.Atoms("He"), 3.0, energy=float(i), source=str(i)) for i in range(count)]


def loader(num_workers: int = 0, seed: int = 7, count: int = 23, batch_size: int = 4) -> ResumableLoader:
    return ResumableLoader(graphs(count), batch_size, seed, num_workers)


def epoch(batches) -> list[list[str]]:
    return [batch.source for batch in batches]


def test_an_epoch_has_every_frame_once_and_epochs_differ():
    batches = loader()
    first, second = epoch(batches), epoch(batches)
    assert len(batches) == len(first) == 6
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 3]
    for batch_sources in (first, second):
        assert sorted(int(source) for batch in batch_sources for source in batch) == list(range(23))
    assert first != second


def test_order_depends_on_seed_and_not_on_workers_or_global_state():
    expected = epoch(loader())
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert epoch(loader(num_workers=2)) == expected
    assert epoch(loader()) == expected
    assert epoch(loader(seed=8)) != expected
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("consumed", [1, 3, 6, 7, 12, 15])
def test_resuming_gives_the_remaining_batches(num_workers, consumed):
    whole = loader()
    expected = [source for _ in range(4) for source in epoch(whole)]

    interrupted, seen = loader(num_workers), []
    while len(seen) < consumed:
        for batch in interrupted:
            seen.append(batch.source)
            if len(seen) == consumed:
                break  # workers have run ahead by now
    state = interrupted.state_dict()
    resumed = loader(num_workers)
    resumed.load_state_dict(state)
    while len(seen) < len(expected):
        seen.extend(epoch(resumed))
    assert seen == expected


def test_a_state_is_plain_and_survives_safe_loading(tmp_path):
    batches = loader()
    next(iter(batches))
    torch.save(batches.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert state == {"epoch": 0, "consumed": 1, "training_frames": 23, "batch_size": 4, "seed": 7}


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 5}, {"count": 22}])
def test_resuming_with_other_settings_is_refused(change):
    with pytest.raises(InputError, match="the run to be resumed had"):
        loader(**change).load_state_dict(loader().state_dict())


# --- batches bounded by size


def sizes(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of atoms and edges, some ten times larger than others."""
    rng = np.random.default_rng(1)
    atoms = np.exp(rng.uniform(np.log(5), np.log(50), count)).astype(int)
    return atoms, atoms * rng.integers(10, 30, count)


def bounded(
    num_ranks: int = 1, rank: int = 0, seed: int = 3, count: int = 200, batch_size: int = 12
) -> ShuffledBatches:
    return ShuffledBatches(count, batch_size, seed, Limits(*sizes(count), 100, 2000), rank, num_ranks)


def one_epoch(sampler: ShuffledBatches, epoch: int = 0) -> list[list[int]]:
    sampler.epoch = epoch
    return list(sampler)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_epoch_has_every_frame_once_within_the_limits_in_as_many_batches(num_ranks):
    atoms, edges = sizes()
    for epoch in range(30):
        ranks = [one_epoch(bounded(num_ranks, rank), epoch) for rank in range(num_ranks)]
        assert [len(batches) for batches in ranks] == [len(bounded(num_ranks))] * num_ranks
        batches = [batch for batches in ranks for batch in batches]
        assert sorted(i for batch in batches for i in batch) == list(range(200))
        assert max(atoms[batch].sum() for batch in batches) <= 100
        assert max(edges[batch].sum() for batch in batches) <= 2000
        assert max(map(len, batches)) <= 12
    # the batches are full: with one more frame of mean size most would be too large
    assert np.mean([edges[batch].sum() for batch in batches]) > 0.6 * 2000


def test_processes_get_batches_of_about_the_same_size_at_each_step():
    edges = sizes()[1]
    first, second = (one_epoch(bounded(2, rank)) for rank in (0, 1))
    difference = [abs(edges[a].sum() - edges[b].sum()) for a, b in zip(first, second, strict=True)]
    assert np.median(difference) < 50
    assert one_epoch(bounded(2, 0), 1) != first


def test_a_crowded_epoch_falls_back_to_batches_of_similar_graphs():
    # three graphs fit only if a large one never meets another: most orders need more batches than the first
    atoms = np.array([60, 60, 60, 40, 40, 40])
    for seed in range(20):
        sampler = ShuffledBatches(6, 10, seed, Limits(atoms, None, 100))
        for epoch in range(10):
            batches = one_epoch(sampler, epoch)
            assert len(batches) == len(sampler)
            assert sorted(i for batch in batches for i in batch) == list(range(6))
            assert max(atoms[batch].sum() for batch in batches) <= 100


@pytest.mark.parametrize(("count", "batch_size"), [(24, 4), (23, 4), (9, 4), (3, 1)])
def test_two_processes_share_the_batches_of_one(count, batch_size):
    ranks = [list(ShuffledBatches(count, batch_size, 5, None, rank, 2)) for rank in (0, 1)]
    whole = list(ShuffledBatches(count, 2 * batch_size, 5))
    assert len(ranks[0]) == len(ranks[1])
    if count % (2 * batch_size) == 0:
        assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    assert set(functools.reduce(operator.iadd, functools.reduce(operator.iadd, ranks, []), [])) == set(range(count))


def test_filling_is_what_a_loop_over_frames_does():
    atoms, edges = sizes(50)
    batches = fill(range(50), 6, Limits(atoms, edges, 120, None))
    assert functools.reduce(operator.iadd, batches, []) == list(range(50))
    for batch, following in itertools.pairwise(batches):
        assert atoms[batch].sum() + atoms[following[0]] > 120 or len(batch) == 6
    assert fill(range(5), 2) == [[0, 1], [2, 3], [4]]


def test_splitting_halves_the_last_and_repeats_only_single_graphs():
    assert split_up([[1, 2, 3], [4, 5]], 3) == [[1, 2, 3], [4], [5]]
    assert split_up([[1, 2, 3], [4, 5]], 4) == [[1, 2], [3], [4], [5]]
    assert split_up([[1], [2]], 3) == [[1], [2], [1]]


def bounded_loader(num_workers: int = 0, most: int = 3) -> ResumableLoader:
    return ResumableLoader(graphs(), 4, 7, num_workers, Limits(np.ones(23, int), None, most, None))


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("consumed", [1, 8, 11])
def test_bounded_batches_resume_too(num_workers, consumed):
    whole = bounded_loader()
    expected = [source for _ in range(3) for source in epoch(whole)]
    interrupted, seen = bounded_loader(num_workers), []
    while len(seen) < consumed:
        for batch in interrupted:
            seen.append(batch.source)
            if len(seen) == consumed:
                break
    resumed = bounded_loader(num_workers)
    resumed.load_state_dict(interrupted.state_dict())
    while len(seen) < len(expected):
        seen.extend(epoch(resumed))
    assert seen == expected


def test_resuming_with_other_limits_or_processes_is_refused():
    with pytest.raises(InputError, match="had batch atoms 3, this one has 2"):
        bounded_loader(most=2).load_state_dict(bounded_loader().state_dict())
    with pytest.raises(InputError, match="had processes None, this one has 2"):
        ResumableLoader(graphs(), 4, 7, rank=1, num_ranks=2).load_state_dict(loader().state_dict())

"""Training batches: seeded order, exact continuation with and without workers."""

import ase
import pytest
import torch

from eqmol.data.loader import ResumableLoader
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

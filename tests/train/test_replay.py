"""Old structures that are trained on again: how many, which, and whether errors on them grew."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from eqmol.data.loader import Limits, ShuffledBatches
from eqmol.data.replay import Replay
from eqmol.data.xyz.datamodule import FileSets
from eqmol.errors import InputError
from eqmol.train.endings import forgetting
from eqmol.train.run import run
from tests.train.runs import configuration, frames, train

JUDGED = {"energy_rmse_mev_per_atom": "energies", "forces_rmse_mev_per_a": "forces"}


@pytest.mark.parametrize("limits", [None, Limits(np.arange(20) % 5 + 1, max_atoms=8)])
def test_each_epoch_has_all_new_structures_and_some_old_ones(limits):
    sampler = ShuffledBatches(20, 3, 0, limits, drawn=(8, 4))
    seen, batches = [], len(sampler)
    for epoch in range(12):
        sampler.epoch = epoch
        found = [index for batch in sampler for index in batch]
        assert len(list(sampler)) == batches
        assert set(range(12)) <= set(found)
        assert len({index for index in found if index >= 12}) == 4
        seen.append(frozenset(index for index in found if index >= 12))
    assert len(set(seen)) > 6
    assert frozenset.union(*seen) == set(range(12, 20))


@pytest.mark.parametrize(("share", "expected"), [(0.25, 4), (0.9, 18), (0, 0)])
def test_old_structures_that_judge_are_not_trained_on(share, expected):
    old = list(range(20))
    held, kept, number = Replay("old.xyz", share).divide(old, 12, seed=1)
    assert len(held) == 2
    assert number == expected
    assert not set(held) & set(kept)
    assert len(kept) == (18 if share else 0)


@pytest.mark.parametrize(
    "option", [3, {}, {"file": "a", "more": 1}, {"file": "a", "share": 1}, {"file": "a", "growth": -1}]
)
def test_options_that_cannot_be_are_refused(option):
    with pytest.raises(InputError, match=r"data\.replay"):
        FileSets(cutoff=3.0, train_file="a.xyz", replay=option)


@pytest.mark.parametrize(("now", "words"), [(12.4, "within the 25 %"), (12.6, "forgets. Raise data.replay.share")])
def test_growth_beyond_what_is_allowed_is_said(now, words):
    before = {"energy_rmse_mev_per_atom": 2.0, "forces_rmse_mev_per_a": 10.0}
    after = {"energy_rmse_mev_per_atom": 1.0, "forces_rmse_mev_per_a": now}
    sentence, growth = forgetting(JUDGED, before, after, 0.25)
    assert words in sentence
    assert "energies 2" in sentence
    assert math.isclose(growth["forces"], now / 10 - 1)
    assert growth["energies"] == -0.5
    assert forgetting(JUDGED, {}, after, 0.25) is None


def test_a_run_tells_the_share_and_what_became_of_the_old_errors(tmp_path):
    old = frames(tmp_path / "old.xyz", 20, 10)
    train(tmp_path, "first", f"data.train_file={old}", "trainer.max_epochs=2")
    options = [f"init_from={tmp_path / 'first' / 'model.safetensors'}", "trainer.max_epochs=2"]
    options.append(f"data.replay={{file: {old}, share: 0.25, growth: 0}}")
    screen = Console(file=io.StringIO(), width=300)
    metrics = run(configuration(tmp_path, "second", *options), screen)
    printed = screen.file.getvalue()
    assert printed.count("replay 25 %") == 2
    assert "errors on the old data before and after: energies" in printed
    replay = metrics["replay"]
    after, before = metrics["test"]["replay"]["forces_rmse_mev_per_a"], replay["before"]["forces_rmse_mev_per_a"]
    assert replay["growth"]["forces"] == pytest.approx(after / before - 1)
    assert metrics["steps"] == 2 * math.ceil(16 / 3)
    with pytest.raises(InputError, match="has old data of a model, but there is none"):
        train(tmp_path, "third", options[-1])

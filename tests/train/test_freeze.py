"""Parts that training leaves as they are: to the bit, with the average, across a stop, and by which names."""

import re
import shutil

import pytest
import torch

from eqmol.errors import InputError
from eqmol.train.freeze import freeze, read_patterns
from eqmol.train.resume import LastCheckpoint
from tests.models.systems import make_model
from tests.train.runs import assert_same, train, weights

FROZEN = "task.freeze=[backbone.embedding,backbone.layers.0,'*.radial.*']"


def is_frozen(name: str) -> bool:
    return "backbone.embedding" in name or "backbone.layers.0" in name or ".radial." in name


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a model to start from."""
    folder = tmp_path_factory.mktemp("freeze")
    train(folder, "first", "trainer.max_epochs=1")
    return folder


@pytest.mark.parametrize("optimizer", ["muon", pytest.param("adam", marks=pytest.mark.slow)])
def test_frozen_parts_stay_as_they_are(first, optimizer):
    start = f"init_from={first / 'first' / 'model.safetensors'}"
    options = [start, f"data.train_file={first / 'val.xyz'}", f"task/optimizer={optimizer}", FROZEN]
    train(first, optimizer, *options, "trainer.max_epochs=2", "trainer.ema_decay=0.7")
    before = {k.removeprefix("best."): v for k, v in weights(first, "first").items() if k.startswith("best.")}
    after, compared = weights(first, optimizer), 0
    for name, tensor in after.items():
        kind, _, key = name.partition(".")
        key = key.removeprefix("module.").removeprefix("predictor.")
        if key not in before or not tensor.is_floating_point() or key.startswith(("reference.", "aux.")):
            continue
        assert tensor.equal(before[key]) == is_frozen(key), name
        compared += is_frozen(key) and kind in ("averaged", "raw", "best")
    assert compared == 3 * sum(is_frozen(key) for key in before)
    state = torch.load(first / optimizer / "last.ckpt", weights_only=True)["optimizer_states"][0]
    trained = [key for key in before if not is_frozen(key) and not key.startswith(("reference.", "repulsion.", "aux."))]
    assert len(state["state"]) == len(trained)
    assert sum(len(group["params"]) for group in state["param_groups"]) == len(trained)


def test_resumed_runs_go_on_to_the_bit(first, monkeypatch):
    options = [f"init_from={first / 'first' / 'model.safetensors'}", FROZEN, "trainer.max_epochs=2"]
    original = LastCheckpoint._save

    def save(self, trainer):
        original(self, trainer)
        if trainer.current_epoch == 0:
            shutil.copytree(first / "whole", first / "killed")

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "_save", save)
        train(first, "whole", *options)
    train(first, "killed", *options, "resume=auto")
    assert_same(weights(first, "killed"), weights(first, "whole"))


def test_an_unmatched_pattern_is_refused_with_names():
    model = make_model()
    with pytest.raises(
        InputError, match=r"'backbon.\*' matches none of the model's parameters, which are backbone.emb"
    ):
        freeze(model, ["backbone.embedding", "backbon.*"])


def test_nothing_left_to_train_is_refused():
    with pytest.raises(InputError, match="leaves nothing to train"):
        freeze(make_model(), ["*"])


@pytest.mark.parametrize(("given", "expected"), [(None, ()), ("a.*", ("a.*",)), (["a", "b"], ("a", "b"))])
def test_patterns_are_read(given, expected):
    assert read_patterns(given) == expected


@pytest.mark.parametrize("given", [3, [1], [""], {"a": 1}])
def test_other_patterns_are_refused(given):
    with pytest.raises(InputError, match=re.escape("task.freeze=")):
        read_patterns(given)

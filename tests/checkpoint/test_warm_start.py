"""Runs that start from the weights of a model."""

import pytest

from eqmol.errors import InputError
from eqmol.graph.contacts import SHORTEST
from tests.train.runs import assert_same, train, weights

STILL = ["trainer.max_epochs=1", "task.optimizer.lr=1e-30"]
DIRECT = ["model.degree_out=1", "predictor.forces=direct"]


def test_a_run_starts_as_the_function_of_the_file(tmp_path):
    first = train(tmp_path, "first", "trainer.max_epochs=1")
    file = tmp_path / "first" / "model.safetensors"
    options = [f"init_from={file}", f"data.train_file={tmp_path / 'val.xyz'}", "backend=escn", *STILL]
    second = train(tmp_path, "second", *options)  # other data, other statistics
    for metrics in (first, second):
        del metrics["test"]["later"]["baseline"]  # of another training set
    assert second["test"]["later"] == pytest.approx(first["test"]["later"], rel=1e-5)
    files = [weights(tmp_path, name) for name in ("first", "second")]
    best = [{k: v for k, v in file.items() if k.startswith("best") and "uncertainty" not in k} for file in files]
    domains = [tensors.pop(f"best.{SHORTEST}") for tensors in best]
    ends = [tensors.pop("best.repulsion.reach") for tensors in best]
    assert_same(*best)
    assert not domains[0].equal(domains[1])
    assert (ends[1] <= ends[0]).all()  # both data are kept clear of


def test_direct_forces_are_followed_by_conservative_ones(tmp_path):
    first = train(tmp_path, "direct", "trainer.max_epochs=1", *DIRECT)
    file = tmp_path / "direct" / "model.safetensors"
    second = train(tmp_path, "conservative", f"init_from={file}", "model.degree_out=1", *STILL)
    key = "energy_rmse_mev"
    assert second["val"][key] == pytest.approx(first["val"][key], rel=1e-5)
    assert second["val"]["forces_rmse_mev_per_a"] != pytest.approx(first["val"]["forces_rmse_mev_per_a"], rel=1e-3)
    back = train(tmp_path, "back", f"init_from={tmp_path / 'conservative' / 'model.safetensors'}", *DIRECT, *STILL)
    assert back["val"][key] == pytest.approx(first["val"][key], rel=1e-5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.channels=5", r"has model.channels=4, this run model.channels=5"),
        ("model.cutoff=4.0", r"has model.cutoff=3.0, this run model.cutoff=4.0"),
        ("predictor.zbl=true", r"has predictor.zbl=auto, this run predictor.zbl=True"),
        ("init_from=nowhere.safetensors", "cannot read the model file nowhere.safetensors"),
    ],
)
def test_another_function_is_refused(tmp_path, option, message):
    train(tmp_path, "first", "trainer.max_epochs=1")
    with pytest.raises(InputError, match=message):
        train(tmp_path, "second", f"init_from={tmp_path / 'first' / 'model.safetensors'}", option)
    assert not (tmp_path / "second").exists()


def test_resumed_runs_do_not_start_anew(tmp_path):
    train(tmp_path, "first", "trainer.max_epochs=1")
    options = [f"init_from={tmp_path / 'first' / 'model.safetensors'}", f"data.train_file={tmp_path / 'val.xyz'}"]
    train(tmp_path, "parts", *options, "trainer.max_epochs=2")
    (tmp_path / "first" / "model.safetensors").unlink()
    assert train(tmp_path, "parts", *options, "trainer.max_epochs=3", "resume=auto")["steps"] == 6

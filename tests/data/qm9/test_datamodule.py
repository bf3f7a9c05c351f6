"""QM9's data module on the embedded sample, and on the real molecules where they are."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eqmol.data.qm9 import statistics
from eqmol.data.qm9.datamodule import QM9
from eqmol.data.qm9.reader import Molecules
from eqmol.data.qm9.targets import TARGETS
from eqmol.data.targets import composition, nuclear_extent
from eqmol.errors import InputError


def sample(**options) -> QM9:
    datamodule = QM9(cutoff=4.0, folder="qm9_sample", required=("U0", "mu"), **options)
    datamodule.setup()
    return datamodule


def test_split_is_complete_and_kept_in_a_file(tmp_path):
    path = tmp_path / "split.json"
    first, again = sample(split_file=str(path)), sample(split_file=str(path), seed=5)
    parts = json.loads(path.read_text())
    assert [len(parts[name]) for name in ("train", "val", "test")] == [198, 10, 52]
    assert sorted(number for part in parts.values() for number in part) == list(range(1, 261))
    assert again.train_graphs.rows.tolist() == first.train_graphs.rows.tolist()  # the file, not the seed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts["train"].append(999), "molecule 999 of 'train' is not in the data set"),
        (lambda parts: parts["val"].append(parts["train"][0]), "is in two splits"),
        (lambda parts: parts.pop("val"), "must be JSON with lists"),
    ],
)
def test_splits_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / "split.json"
    sample(split_file=str(path))
    parts = json.loads(path.read_text())
    change(parts)
    path.write_text(json.dumps(parts))
    with pytest.raises(InputError, match=message):
        sample(split_file=str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"required": ("energy",)}, "no target 'energy'; choose among mu, alpha"),
        ({"num_train": 250, "num_val": 10}, "leave no test set of the 260 molecules"),
        ({"batch_size": 0}, r"data\.batch_size=0"),
        ({"folder": "nowhere"}, "data=qm9_sample"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        QM9(**{"cutoff": 4.0, "folder": "qm9_sample", **options}).setup()


def test_graphs_carry_the_targets():
    datamodule = sample()
    batch = next(iter(datamodule.evaluation_dataloaders()["test"]))
    row = datamodule.test_graphs["test"].rows[3]
    molecules = datamodule.test_graphs["test"].molecules
    assert batch.target_U0[3].item() == molecules.values[row, list(TARGETS).index("U0")]
    assert batch.target_mu.dtype == torch.float64
    assert batch.source[3].endswith(f"gdb_{molecules.ids[row]}")
    assert len(datamodule.train_graphs[:7]) == 7


def test_statistics_are_those_of_least_squares():
    train = sample()._training()
    measured = statistics.measure(train, ("U0", "homo", "mu"))
    counts = composition(train.numbers, train.offsets, [1, 6, 7, 8])
    assert counts.sum() == len(train.numbers)
    u0 = train.values[:, list(TARGETS).index("U0")]
    expected, *_ = np.linalg.lstsq(counts, u0, rcond=None)
    np.testing.assert_allclose(measured["U0"]["e0"], expected, rtol=1e-9)
    remainder = (u0 - counts @ expected) / np.sqrt(counts.sum(1))
    assert measured["U0"]["scale"] == pytest.approx(np.sqrt(np.mean(remainder**2)))
    homo = train.values[:, list(TARGETS).index("homo")]
    sizes = dict.fromkeys(("scale", "spread"), pytest.approx(homo.std()))
    assert measured["homo"] == {
        "kind": "intensive",
        "unit": "eV",
        "e0": [0.0] * 4,
        "mean": pytest.approx(homo.mean()),
        **sizes,
    }
    assert measured["mu"]["mean"] == 0.0


def test_extent_is_mostly_that_of_the_nuclei():
    train = sample()._training()
    r2 = train.values[:, list(TARGETS).index("r2")]
    assert np.std(r2 - nuclear_extent(train.numbers, train.positions, train.offsets)) < 0.1 * np.std(r2)


def carbons(count: int, u0: float, gap: float) -> Molecules:
    """Made-up molecules of two carbon atoms with total energy and gap in eV."""
    values = np.full((count, len(TARGETS)), np.nan)
    values[:, list(TARGETS).index("U0")] = u0
    values[:, list(TARGETS).index("gap")] = gap
    numbers, positions = np.full(2 * count, 6), np.zeros((2 * count, 3))
    return Molecules(np.arange(count), np.arange(count + 1) * 2, numbers, positions, values)


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
def test_labels_in_other_units_are_noticed():
    right = carbons(5, u0=-2066.0, gap=8.0)
    assert statistics.unit_warnings(right) == []
    for factor, unit in ((27.2114, "eV"), (627.51, "kcal/mol")):
        wrong = dataclasses.replace(right, values=right.values * factor)
        first, second = statistics.unit_warnings(wrong)
        assert first.startswith("U0: the median label is")
        assert f"seems to be in {unit} and not in Hartree" in first
        assert second.startswith("gap")


def test_radicals_and_ions_are_noticed():
    closed = carbons(5, u0=-2066.0, gap=8.0)
    assert statistics.open_shell_warnings(closed) == []
    numbers = closed.numbers.copy()
    numbers[closed.offsets[3]] = 7
    (sentence,) = statistics.open_shell_warnings(dataclasses.replace(closed, numbers=numbers))
    assert sentence.startswith(f"1 of 5 molecules, gdb_{closed.ids[3]} first, have an odd number of electrons")


@pytest.mark.realdata
def test_real_molecules():
    datamodule = QM9(cutoff=5.0, required=("U0", "mu", "alpha", "gap", "r2"))
    datamodule.setup()
    assert [len(graphs) for graphs in datamodule._sets().values()] == [3800, 200, 1000]
    measured = datamodule.statistics()
    assert measured["elements"] == [1, 6, 7, 8]
    assert measured["properties"]["U0"]["scale"] < 0.3
    assert measured["properties"]["r2"]["scale"] < 2.0
    assert statistics.unit_warnings(datamodule._training()) == []


def test_processes_share_the_training_set():
    seen = []
    for rank in (0, 1):
        datamodule = sample(batch_size=16)
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        seen += [source for batch in datamodule.train_dataloader() for source in batch.source]
    assert len(set(seen)) == 198
    assert len(seen) < 198 + 16  # every process has as many batches

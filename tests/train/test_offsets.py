"""Errors that are nearly one constant are named, per atom or per structure."""

import numpy as np
import pytest
import torch

from eqmol.data.qm9.targets import TARGETS
from eqmol.graph.targets import ENERGY, FORCES
from eqmol.inference.errors import Errors, offset_of
from eqmol.train.tables import offset_notes

SIZES = [3, 5, 8, 12]


def errors_of(energies, scale: float = 1.0) -> dict[str, float]:
    """The summary of structures of several sizes whose energies are off by so much (eV), and forces by ``scale`` eV/Å."""
    errors = Errors((ENERGY, FORCES))
    for size, energy in zip(SIZES, energies, strict=True):
        labels = {"energy": -10.0, "forces": np.zeros((size, 3))}
        errors.add({"energy": -10.0 + energy, "forces": scale * np.ones((size, 3))}, labels, size)
    return errors.summary()


@pytest.mark.parametrize(
    ("energies", "expected"),
    [
        ([1.5 * size + 0.01 for size in SIZES], (1500.0, "meV/atom")),
        ([-0.25, -0.26, -0.24, -0.25], (-250.0, "meV")),
        ([0.1, -0.1, 0.1, 0.1], None),
        ([0.0] * 4, None),
    ],
)
def test_constant_errors(energies, expected) -> None:
    summary = errors_of(energies)
    offset = offset_of(ENERGY, summary)
    notes = offset_notes((ENERGY, FORCES), [("train", summary)])
    if expected is None:
        assert offset is None
        assert not notes
        assert not any("offset" in name for name in summary)
        return
    assert offset is not None
    assert (offset.value, offset.unit) == (pytest.approx(expected[0], rel=0.01), expected[1])
    (note,) = notes
    assert note.startswith(
        "train: energy: the errors are nearly one constant, " + ("+1.5" if expected[0] > 0 else "-250")
    )


def test_few_errors_are_no_constant() -> None:
    errors = Errors((ENERGY,))
    for _ in range(2):
        errors.add({"energy": 1.0}, {"energy": 0.0}, 3)
    assert not any("offset" in name for name in errors.summary())
    errors.add({"energy": 1.0}, {"energy": 0.0}, 3)
    assert errors.summary()["energy_offset_mev_per_atom"] == pytest.approx(1000 / 3)


def test_batches_and_single_structures_give_the_same_constant() -> None:
    from torch_geometric.data import Batch, Data

    target = TARGETS["mu"]
    labels = torch.tensor([1.0, 2.0, float("nan"), 4.0], dtype=torch.float64)
    graphs = [
        Data(pos=torch.zeros(size, 3), config_type="", **{target.field: labels[i : i + 1]})
        for i, size in enumerate(SIZES)
    ]
    batched, single = Errors((target,)), Errors((target,))
    batched.update({"mu": labels.nan_to_num() + 0.5}, Batch.from_data_list(graphs))
    for size, label in zip(SIZES, labels.tolist(), strict=True):
        single.add({"mu": label + 0.5}, {"mu": label}, size)
    assert batched.summary() == pytest.approx(single.summary())
    assert batched.summary()["mu_offset"] == pytest.approx(0.5)

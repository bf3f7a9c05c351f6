"""Frames that stand in several sets, and labels that contradict each other."""

import os
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read

from eqmol.data.checks.duplicates import duplicates, repeated
from eqmol.graph import from_atoms


def graphs(structures, energies=None):
    energies = np.zeros(len(structures)) if energies is None else energies
    pairs = enumerate(zip(structures, energies, strict=True))
    return [from_atoms(atoms, 3.0, energy=float(e), source=f"frame {i}") for i, (atoms, e) in pairs]


def rattled(atoms, number):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        found.append(atoms.copy())
        found[-1].positions += rng.normal(0, 0.05, (len(atoms), 3))
    return found


@pytest.mark.parametrize("atoms", [molecule("C2H6"), bulk("Cu", cubic=True)], ids=["molecule", "bulk"])
def test_pairs_are_those_of_a_comparison_of_all_with_all(atoms):
    train, test = rattled(atoms, 30), rattled(atoms, 60)[25:]
    for moved in test:
        moved.positions += 1e-6  # as files round
        if not atoms.pbc.any():
            moved.translate([3.0, -1.0, 2.0])
    found = repeated({"train": graphs(train), "test": graphs(test)})
    places = [[a.positions - a.positions.mean(0) for a in part] for part in (train, test)]
    expected = sum(np.abs(a - b).max() < 1e-4 for a in places[0] for b in places[1])
    assert len(found) == expected == 5
    assert {(first.name, second.name) for first, second in found} == {("train", "test")}


def test_another_order_cell_or_element_is_another_frame():
    copper, other = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    other.set_cell(other.cell * 1.01, scale_atoms=False)
    silver = bulk("Cu", cubic=True)
    silver.numbers[0] = 47
    assert repeated({"a": graphs([copper, other, silver])}) == []


def test_what_is_said():
    frames = rattled(molecule("CH3OH"), 4)
    train = graphs([*frames, frames[1]], [0.0, 1.0, 2.0, 3.0, 1.5])
    found = duplicates({"train": train, "val": graphs(frames[2:3], [2.0]), "test": graphs(frames[3:], [3.0])})
    assert [(finding.check, finding.culprit, finding.frames) for finding in found] == [
        ("leakage", True, 1),
        ("leakage", True, 1),
        ("contradictions", True, 2),
        ("duplicates", False, 1),
    ]
    shared, contradiction = (finding.words for finding in found[::2])
    assert shared.startswith("1 pairs of frames are the same in 'train' and 'val' (first: frame 2 and frame 0)")
    assert (
        "1 pairs of frames have the same structure and different labels (first: frame 1 and frame 4, 0.5 eV apart)"
        in contradiction
    )
    assert duplicates({"train": train[:4], "test": []}) == []


def test_turned_copies_are_nearly_the_same():
    frames = rattled(molecule("CH3OH"), 6)
    turned = frames[2].copy()
    turned.rotate(50, (1, 2, 3))
    test = graphs([turned, *rattled(molecule("CH3OH"), 9)[8:]])
    (found,) = duplicates({"train": graphs(frames), "test": test})
    assert (found.check, found.culprit, found.frames) == ("near duplicates", False, 1)


@pytest.mark.realdata
def test_the_training_files_of_3bpa_share_frames():
    folder = Path(os.environ["EQMOL_DATA"]) / "3bpa"
    sets = {name: graphs(read(folder / f"train_{name}.xyz", ":")) for name in ("300K", "mixedT")}
    pairs = [pair for pair in repeated(sets) if pair[0].name != pair[1].name]
    assert len(pairs) == 31

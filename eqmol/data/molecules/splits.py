"""Splits of molecules that never separate what belongs together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eqmol.data.split_files import SPLITS
from eqmol.errors import InputError
from eqmol.molecules.molecule import Molecule

RANDOM, SCAFFOLD = "random", "scaffold"
KINDS = (RANDOM, SCAFFOLD)


def divide(
    molecules: Mapping[int, Molecule], kind: str, val_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[int]]:
    """Return the numbers of the molecules of each split, ascending.

    Molecules that differ in stereochemistry or isotopes at most stay together; with "scaffold" all of one Bemis-Murcko scaffold,
    those without rings being one, and the rarest scaffolds test and validate, as in MoleculeNet (Wu et al. 2018, doi
    10.1039/C7SC02664A). Groups of equal rank are drawn by the seed.

    Args:
        molecules: by number.
        kind: "random" or "scaffold".
        val_fraction, test_fraction: of the molecules, at least so many and so many more as the last group has.
        seed: of the order.

    Raises:
        InputError: nothing would be left to train on.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for number, molecule in molecules.items():
        groups[molecule.scaffold if kind == SCAFFOLD else molecule.skeleton].append(number)
    named = sorted(groups)
    order = [groups[named[index]] for index in np.random.default_rng(seed).permutation(len(named))]
    if kind == SCAFFOLD:
        order.sort(key=len)
    wanted = {name: fraction * len(molecules) for name, fraction in (("test", test_fraction), ("val", val_fraction))}
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for group in order:
        name = next((name for name, size in wanted.items() if len(parts[name]) < size), "train")
        parts[name] += group
    if not parts["train"] or not parts["val"]:
        what = "scaffolds" if kind == SCAFFOLD else "different molecules"
        raise InputError(
            f"the {len(groups)} {what} of {len(molecules)} molecules leave nothing to train or validate on with data.split={kind}, "
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}; give more molecules, or split otherwise"
        )
    return {name: sorted(part) for name, part in parts.items()}


def leaks(molecules: Mapping[int, Molecule], parts: Mapping[str, Sequence[int]], path: Path) -> str:
    """Return a sentence about molecules that a given split has in several parts, "" if there are none."""
    places: dict[str, set[str]] = defaultdict(set)
    for name, part in parts.items():
        for number in part:
            places[molecules[number].skeleton].add(name)
    shared = [smiles for smiles, names in places.items() if len(names) > 1]
    if not shared:
        return ""
    return f"{path}: {len(shared)} molecules are in several splits, {shared[0]} first, so errors of the test set are too small"

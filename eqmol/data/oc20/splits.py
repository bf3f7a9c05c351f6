"""Which frames train and which test: never neighbouring frames of one trajectory without saying so.

``systems`` keeps every frame of a system on one side. ``blocks`` cuts each trajectory into contiguous blocks of which one
validates and one tests: it measures the interpolation within known trajectories. In both some systems are held out whole.
"""

from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqmol.data.oc20.graphs import Library
from eqmol.errors import InputError

SPLITS = ("systems", "blocks")
BLOCKS = 10  #: contiguous blocks of a trajectory


@dataclass(frozen=True)
class Split:
    """Indices of frames.

    Args:
        train: of training.
        val: of validation.
        tests: name -> of a test set.
        refused: system -> elements for which no training system would be left.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    tests: dict[str, NDArray[np.int64]]
    refused: dict[str, list[str]] = field(default_factory=dict)


def split(library: Library, method: str, val_fraction: float, held_out: int, seed: int) -> Split:
    """Divide the frames of a library, by nothing but the seed.

    Args:
        library: all frames.
        method: "systems" or "blocks".
        val_fraction: part of the systems that validates, at least one; without a meaning for "blocks".
        held_out: systems of the test set "held_out". Only systems are held out whose elements all occur in training.
        seed: of the choice.

    Raises:
        InputError: no system can be held out for validation.
    """
    rng = np.random.default_rng(seed)
    count = len(library.systems)
    num_val = max(1, round(val_fraction * count)) if method == "systems" else 0
    chosen, refused = hold_out(library.composition > 0, rng.permutation(count).tolist(), num_val + held_out)
    if len(chosen) < num_val:
        raise InputError(
            f"of {count} systems only {len(chosen)} have elements that all occur in others, too few to validate with "
            f"{num_val}; use data.split=blocks, or give data.val_folder"
        )
    val, tests = _frames(library, chosen[:num_val]), {}
    if chosen[num_val:]:
        tests["held_out"] = _frames(library, chosen[num_val:])
    train = np.flatnonzero(~np.isin(library.system, chosen))
    if method == "blocks":
        train, val, tests["blocks"] = cut_blocks(library, train, rng)
    names = {
        library.systems[system]: [chemical_symbols[z] for z in np.flatnonzero(elements)]
        for system, elements in refused.items()
    }
    return Split(train, val, tests, names)


def hold_out(
    present: NDArray[np.bool_], order: list[int], number: int
) -> tuple[list[int], dict[int, NDArray[np.bool_]]]:
    """Return the first systems of an order that can be held out, and those passed over with the elements that forbid it.

    Args:
        present: [S, Z] elements of each system.
        order: of the systems.
        number: how many are wanted.
    """
    left = present.sum(axis=0)  # training systems with each element
    needed = np.zeros(present.shape[1], bool)
    chosen: list[int] = []
    refused: dict[int, NDArray[np.bool_]] = {}
    for system in order:
        if len(chosen) == number:
            break
        lacking = (needed | present[system]) & (left - present[system] == 0)
        if lacking.any():
            refused[system] = lacking
            continue
        chosen.append(system)
        left = left - present[system]
        needed |= present[system]
    return chosen, refused


def cut_blocks(
    library: Library, indices: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the frames that train, validate and test, of every trajectory with at least as many frames as blocks.

    One block each validates and tests; never the first or the last, so that training frames lie on both sides.
    """
    roles = np.zeros(len(indices), np.int64)
    ends = np.flatnonzero(np.diff(library.system[indices])) + 1
    for frames in np.split(np.arange(len(indices)), ends):  # a library is sorted by system and number
        if len(frames) >= BLOCKS:
            block = np.arange(len(frames)) * BLOCKS // len(frames)
            val, test = rng.choice(np.arange(1, BLOCKS - 1), 2, replace=False)
            roles[frames[block == val]] = 1
            roles[frames[block == test]] = 2
    if not (roles == 1).any():
        raise InputError(f"no trajectory has the {BLOCKS} frames that data.split=blocks needs; use data.split=systems")
    return indices[roles == 0], indices[roles == 1], indices[roles == 2]


def without_unknown(library: Library, known: NDArray[np.bool_]) -> tuple[NDArray[np.int64], dict[str, list[str]]]:
    """Return the frames whose elements are all known, and the systems left out with their other elements.

    Args:
        library: all frames.
        known: [Z] elements of training.
    """
    lacking = (library.composition > 0) & ~known
    refused = {
        library.systems[system]: [chemical_symbols[z] for z in np.flatnonzero(lacking[system])]
        for system in np.flatnonzero(lacking.any(axis=1))
    }
    return np.flatnonzero(lacking.sum(axis=1)[library.system] == 0), refused


def _frames(library: Library, systems: list[int]) -> NDArray[np.int64]:
    return np.flatnonzero(np.isin(library.system, systems))

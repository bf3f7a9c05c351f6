"""One frame of OC20, how it is read, and what makes it unusable."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from eqmol.errors import InputError
from eqmol.graph.system import FLAT_CELL, check_numbers, lowest_height

#: eV/Å; frames in which a force component of a free atom is larger are trial steps of the optimiser, and OC20 drops them.
MAX_FORCE = 50.0
SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2  #: values of tags
ADSORBATE_ELEMENTS = (1, 6, 7, 8)  #: of all adsorbates of OC20


@dataclass(frozen=True)
class Frame:
    """A structure with its labels, as the file has them.

    Args:
        system: id of the trajectory, "random123".
        number: of the frame within it.
        numbers: [N] uint8, atomic numbers.
        positions: [N, 3] float64, Å.
        cell: [3, 3] float64, Å, rows are vectors.
        pbc: [3] bool.
        tags: [N] int8, 0 below the surface, 1 surface, 2 adsorbate.
        fixed: [N] bool, held in place.
        energy: eV, total, unless ``reference`` is 0; NaN if there is none.
        reference: eV, energy of slab and adsorbate apart, so that energy - reference is the adsorption energy; NaN if not
            known.
        forces: [N, 3] float64, eV/Å, of all atoms; None for relaxed energies (IS2RE), or if there are none.
        relaxed: [N, 3] float64, Å, relaxed positions of an initial structure (IS2RE), where the file has them.
    """

    system: str
    number: int
    numbers: NDArray[np.uint8]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    tags: NDArray[np.int8]
    fixed: NDArray[np.bool_]
    energy: float
    reference: float
    forces: NDArray[np.float64] | None
    relaxed: NDArray[np.float64] | None = None


def check(frame: Frame, source: str) -> Frame:
    """Return a frame whose file can be trusted so far.

    Raises:
        InputError: no atoms, arrays of different lengths, unknown elements, no tags, or a singular cell.
    """
    count = len(frame.numbers)
    arrays: dict[str, NDArray[Any]] = {"positions": frame.positions, "tags": frame.tags, "fixed atoms": frame.fixed}
    if frame.forces is not None:
        arrays["forces"] = frame.forces
    if frame.relaxed is not None:
        arrays["relaxed positions"] = frame.relaxed
    for name, array in arrays.items():
        if len(array) != count or count == 0:
            raise InputError(f"{source} has {count} atoms, but {len(array)} {name}")
    check_numbers(frame.numbers, source)
    if not np.isin(frame.tags, (SUBSURFACE, SURFACE, ADSORBATE)).all() or not frame.tags.any():
        raise InputError(
            f"{source}: the tags do not mark surface (1) and adsorbate (2) but are {sorted(set(frame.tags.tolist()))}; "
            "put an inferred_tags.json into the folder, or let them be inferred with infer_tags (data/README.md)"
        )
    if frame.pbc.any() and not (np.isfinite(frame.cell).all() and lowest_height(frame.cell[frame.pbc]) > FLAT_CELL):
        raise InputError(f"{source}: the cell {frame.cell.tolist()} is singular; correct or remove the frame")
    return frame


def integers(values: Any, low: int, high: int, what: str, source: str) -> NDArray[np.int64]:
    """Return numbers that must be whole and within bounds, of whatever type their file has them.

    Raises:
        InputError: one is not.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{source}: each {what} should be a number; its type is {array.dtype}")
    wrong = array[~((array >= low) & (array <= high) & (array == np.floor(array)))]
    if wrong.size > 0:
        raise InputError(f"{source}: the {what} {wrong.flat[0]} is no whole number from {low} to {high}")
    return array.astype(np.int64)


def why_dropped(frame: Frame) -> str | None:
    """Return why a frame must not be trained on, or None."""
    if not np.isfinite(frame.positions).all():
        return "positions are not finite"
    if not math.isfinite(frame.energy):
        return "energy is not finite"
    if frame.forces is None:
        return None
    if not np.isfinite(frame.forces).all():
        return "forces are not finite"
    free = frame.forces[~frame.fixed]
    if free.size > 0 and np.abs(free).max() > MAX_FORCE:
        return f"|F| > {MAX_FORCE:g} eV/Å"
    return None


def infer_tags(numbers: NDArray[np.uint8], fixed: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return tags [N] by the rule that holds where OC20's own are known: the H, C, N, O atoms at the end are the adsorbate,
    fixed atoms are below the surface.

    A guess: the last atoms of an oxide look like an adsorbate.
    """
    others = np.flatnonzero(~np.isin(numbers, ADSORBATE_ELEMENTS))
    tags = np.where(fixed, SUBSURFACE, SURFACE).astype(np.int8)
    tags[others[-1] + 1 if len(others) > 0 else 0 :] = ADSORBATE
    return tags


def adsorbate(numbers: NDArray[np.uint8], tags: NDArray[np.int8]) -> str:
    """Return the composition of the adsorbate, "CH3O" in Hill's order; "" without one."""
    symbols = [chemical_symbols[number] for number in numbers[tags == ADSORBATE]]
    return Formula.from_list(symbols).format("hill") if symbols else ""


@dataclass(frozen=True)
class Reading:
    """How to read what the files leave open.

    Args:
        infer_tags: infer tags that are all 0 or missing, see :func:`eqmol.data.oc20.frame.infer_tags`.
        tags: file name -> [N] tags given apart from the file.
        total: energies of LMDBs of pickles are totals, as in OC22, and not, as OC20's scripts write them, adsorption energies.
        labels: refuse frames without energy or forces; otherwise, as in OC20's test sets, the energy of such a frame is NaN
            and its forces are None.
    """

    infer_tags: bool = False
    tags: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    total: bool = False
    labels: bool = True


#: (path, first entry, entry after the last, how) -> frames with their places in messages
Reader = Callable[[Path, int, int | None, Reading], Iterator[tuple[Frame, str]]]


def system_name(identifier: Any) -> str:
    """Return OC20's name of a system: its numbers stand for random<number>."""
    return f"random{int(identifier)}" if not isinstance(identifier, str) else identifier


def read_tags(path: Path) -> dict[str, NDArray[np.int8]]:
    """Return file name -> tags [N] from a JSON of natoms, adsorbate_indices and fixed_indices per file."""
    try:
        tags = {}
        for name, entry in json.loads(path.read_text()).items():
            tags[name] = np.ones(entry["natoms"], np.int8)
            tags[name][entry["fixed_indices"]] = 0
            tags[name][entry["adsorbate_indices"]] = 2
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{path} does not hold natoms, adsorbate_indices and fixed_indices per file: {error}"
        ) from error
    return tags

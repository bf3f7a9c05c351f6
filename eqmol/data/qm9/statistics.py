"""What a property head must know about its training set: what atoms contribute at least, a mean and a scale."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.table import Table

from eqmol.data.qm9.raw import Molecules
from eqmol.graph.contacts import fill_gaps
from eqmol.graph.properties import ATOM_REFERENCES, PROPERTIES
from eqmol.units import BOHR, HARTREE

_COLUMN = {name: column for column, name in enumerate(PROPERTIES)}
#: Hartree in kcal/mol, and the largest relative distance at which a factor between labels and expectation is recognised.
_HARTREE_IN_KCAL = 627.5094740631
_NEAR = 0.05
#: Molecules whose distances are computed together.
_TOGETHER = 1000
#: Typical differences of orbital energies and zero-point energies per atom of organic molecules, eV.
_TYPICAL = {"gap": 6.9, "homo": -6.5, "zpve": 0.23}


def composition(molecules: Molecules, elements: Sequence[int]) -> NDArray[np.float64]:
    """How many atoms of each element every molecule has, [M, elements]."""
    owner = np.repeat(np.arange(len(molecules)), np.diff(molecules.offsets))
    counts = np.zeros((len(molecules), len(elements)))
    np.add.at(counts, (owner, np.searchsorted(elements, molecules.numbers)), 1)
    return counts


def measure(molecules: Molecules, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per target: "e0" per element, "mean" and "scale", in its unit.

    An extensive property is Σ e0 plus a remainder with the root mean square ``scale`` for each √atom: e0 are published atom
    references, corrected by linear least squares per element. The extent is the same after the second moment of the nuclear
    charges. Others are ``mean`` plus a remainder of the size ``scale``.
    """
    elements = np.unique(molecules.numbers).tolist()
    counts = composition(molecules, elements)
    measured = {}
    for name in targets:
        values = molecules.values[:, _COLUMN[name]]
        if PROPERTIES[name].kind == "extent":
            values = values - nuclear_extent(molecules)
        measured[name] = _measure(name, values, counts, elements)
    return measured


def nuclear_extent(molecules: Molecules) -> NDArray[np.float64]:
    """Second moment Σ Z |r - R|² (a0²) of the nuclear charges about their centre R, [M]."""
    first, charge = molecules.offsets[:-1], molecules.numbers.astype(np.float64)
    total = np.add.reduceat(charge, first)
    centre = np.add.reduceat(charge[:, None] * molecules.positions, first) / total[:, None]
    arms = molecules.positions - np.repeat(centre, np.diff(molecules.offsets), axis=0)
    return np.add.reduceat(charge * np.square(arms).sum(axis=1), first) / BOHR**2


def _measure(
    name: str, values: NDArray[np.float64], counts: NDArray[np.float64], elements: list[int]
) -> dict[str, Any]:
    kind = PROPERTIES[name].kind
    if kind in ("extensive", "extent"):
        references = ATOM_REFERENCES.get(name, {})
        e0 = np.array([references.get(z, 0.0) for z in elements])
        correction, *_ = np.linalg.lstsq(counts, values - counts @ e0, rcond=None)
        e0 = e0 + correction
        remainder, mean = (values - counts @ e0) / np.sqrt(counts.sum(axis=1)), 0.0
    else:
        e0, mean = np.zeros(len(elements)), float(values.mean()) if kind == "intensive" else 0.0
        remainder = values - mean
    scale = float(np.sqrt(np.mean(remainder**2)))
    return {"e0": [float(energy) for energy in e0], "mean": mean, "scale": scale if scale > 1e-12 else 1.0}


def shortest_distances(molecules: Molecules, elements: Sequence[int], cutoff: float) -> torch.Tensor:
    """The shortest distance of each pair of elements within the cutoff (Å), see :mod:`eqmol.graph.contacts`.

    Molecules of one size are compared together, without graphs.
    """
    sizes, number = np.diff(molecules.offsets), len(elements)
    shortest = torch.full((number * number,), torch.inf, dtype=torch.float64)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        for part in np.array_split(rows, -(-len(rows) // _TOGETHER)):
            atoms = torch.from_numpy(molecules.offsets[part][:, None] + np.arange(size))
            positions = torch.from_numpy(molecules.positions)[atoms]
            kinds = torch.from_numpy(np.searchsorted(elements, molecules.numbers))[atoms]
            distances = torch.linalg.vector_norm(positions[:, :, None] - positions[:, None], dim=-1)
            near = (distances < cutoff) & ~torch.eye(int(size), dtype=torch.bool)
            pairs = kinds[:, :, None] * number + kinds[:, None]
            shortest.scatter_reduce_(0, pairs[near], distances[near], "amin")
    return fill_gaps(shortest.reshape(number, number))


def table(molecules: Molecules, targets: Sequence[str]) -> Table:
    """What a person should see of the targets before training."""
    shown = Table(
        "target", "unit", "mean", "standard deviation", "least", "largest", title="targets of the training set"
    )
    for column in shown.columns[2:]:
        column.justify = "right"
    for name in targets:
        values = molecules.values[:, _COLUMN[name]]
        row = (values.mean(), values.std(), values.min(), values.max())
        shown.add_row(name, PROPERTIES[name].unit, *(f"{value:.4f}" for value in row))
    return shown


def references_table(statistics: dict[str, dict[str, Any]], elements: Sequence[int]) -> Table | None:
    """Contributions of the elements to the extensive targets; None if there is none."""
    names = [name for name in statistics if PROPERTIES[name].kind == "extensive"]
    if not names:
        return None
    shown = Table("element", *(f"{name} / {PROPERTIES[name].unit}" for name in names), title="atom references")
    for column in shown.columns[1:]:
        column.justify = "right"
    for row, number in enumerate(elements):
        shown.add_row(chemical_symbols[number], *(f"{statistics[name]['e0'][row]:.4f}" for name in names))
    return shown


def open_shell_warnings(molecules: Molecules) -> list[str]:
    """A sentence about molecules with an odd number of electrons, with the first of them; QM9 has none."""
    odd = np.flatnonzero(np.add.reduceat(molecules.numbers, molecules.offsets[:-1]) % 2)
    if len(odd) == 0:
        return []
    return [
        f"{len(odd)} of {len(molecules)} molecules, gdb_{molecules.ids[odd[0]]} first, have an odd number of electrons if they "
        "are neutral: radicals or ions, which models here do not tell from closed shells; leave them out"
    ]


def unit_warnings(molecules: Molecules) -> list[str]:
    """Sentences about labels that are off by the factor between Hartree and eV or kcal/mol, with the evidence."""
    factors = {"eV": HARTREE, "kcal/mol": _HARTREE_IN_KCAL}
    sizes = np.diff(molecules.offsets)
    found = []
    for name in ("U0", "U", "H", "G", *_TYPICAL):
        values = molecules.values[:, _COLUMN[name]]
        if name in ATOM_REFERENCES:
            known = np.array([ATOM_REFERENCES[name].get(int(z), np.nan) for z in molecules.numbers])
            expected, near = np.add.reduceat(known, molecules.offsets[:-1]), _NEAR
        else:
            expected, near = np.full(len(values), _TYPICAL[name]) * (sizes if name == "zpve" else 1), 1.0
        ratio = float(np.nanmedian(values / expected))
        for unit, factor in factors.items():
            if ratio > 0 and abs(np.log(ratio / factor)) < near:
                found.append(
                    f"{name}: the median label is {ratio:.1f} times what such molecules have, so it seems to be in {unit} "
                    f"and not in Hartree, as QM9's raw files are; divide it by {factor:.6g}"
                )
    return found

"""Statistics of QM9's targets, and doubts about its labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eqmol.data.qm9.reader import Molecules
from eqmol.data.qm9.targets import ATOM_REFERENCES, COLUMNS, TARGETS
from eqmol.data.targets import composition, measure_target, nuclear_extent
from eqmol.graph.contacts import fill_gaps
from eqmol.units import HARTREE

#: Hartree in kcal/mol, and the largest relative distance at which a factor between labels and expectation is recognised.
_HARTREE_IN_KCAL = 627.5094740631
_NEAR = 0.05
#: Molecules whose distances are computed together.
_TOGETHER = 1000
#: Typical differences of orbital energies and zero-point energies per atom of organic molecules, eV.
_TYPICAL = {"gap": 6.9, "homo": -6.5, "zpve": 0.23}


def values_of(molecules: Molecules, targets: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Labels [M] by the name of the target."""
    return {name: molecules.values[:, COLUMNS[name]] for name in targets}


def measure(molecules: Molecules, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Statistics by target, see :mod:`eqmol.data.targets`; published atom references are where the contributions start from."""
    elements = np.unique(molecules.numbers).tolist()
    counts = composition(molecules.numbers, molecules.offsets, elements)
    measured = {}
    for name, values in values_of(molecules, targets).items():
        if TARGETS[name].kind == "extent":
            values = values - nuclear_extent(molecules.numbers, molecules.positions, molecules.offsets)
        measured[name] = measure_target(TARGETS[name], values, counts, elements, ATOM_REFERENCES.get(name))
    return measured


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
        values = molecules.values[:, COLUMNS[name]]
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

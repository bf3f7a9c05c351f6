"""Two atoms of every pair of elements: where the model was never trained, and whether it still repels there."""

from collections.abc import Iterator
from itertools import combinations_with_replacement

import ase
import numpy as np
from ase.data import chemical_symbols, covalent_radii

from eqmol.trust.report import Curve, Line, judge
from eqmol.trust.subject import Subject

#: Pairs that are drawn at most, and points of each curve.
MOST, POINTS = 28, 80
#: Of the sum of covalent radii: where curves begin.
BEGIN = 0.4
#: Of the shortest trained distance: the energy here should be higher than there.
INSIDE = 0.75


def dimers(subject: Subject, curves: list[Curve]) -> Iterator[Line]:
    """Draw the curves; count the pairs whose energy falls below the shortest trained distance."""
    if subject.potential is None:
        return
    elements, shortest = subject.elements, subject.shortest
    lines, holes, trained = {}, [], 0
    for i, j in list(combinations_with_replacement(range(len(elements)), 2))[:MOST]:
        pair = [elements[i], elements[j]]
        name = "-".join(chemical_symbols[z] for z in pair)
        least = 0.0 if shortest is None else float(shortest[i, j])
        begin = min(BEGIN * float(covalent_radii[pair].sum()), 0.8 * subject.potential.cutoff)
        distances = np.linspace(begin, subject.potential.cutoff, POINTS)
        energies = _energies(subject, pair, distances)
        lines[f"{name} (trained from {least:.2f} Å)" if least else name] = (distances.tolist(), energies.tolist())
        if least:
            trained += 1
            inner, outer = _energies(subject, pair, np.array([INSIDE * least, least]))
            if inner <= outer:
                holes.append(name)

    curves.append(Curve("Two atoms", "distance / Å", "energy without that of free atoms / eV", lines))
    if trained:
        words = (
            f"attraction inside of the shortest trained distance: {', '.join(holes)}"
            if holes
            else f"{trained} pairs repel"
        )
        yield judge("repulsion", float(len(holes)), subject.kinds, words)


def _energies(subject: Subject, pair: list[int], distances: np.ndarray) -> np.ndarray:
    """Energies of two atoms (eV) besides those of both alone."""
    alone = sum(subject.energy(ase.Atoms([number])) for number in pair)
    structures = [ase.Atoms(pair, [[0, 0, 0], [0, 0, distance]]) for distance in distances]
    return np.array([result["energy"] for result in subject.exact(structures)]) - alone

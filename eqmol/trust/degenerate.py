"""Environments that differ, and that descriptions of few bodies take for the same one.

Four neighbours of one atom lie on a circle around it, at multiples of 45°. Distances of all of them from the centre are equal, so
that two-body terms tell no such environment from another. The second pair has also equal angles between neighbours, each as often:
its places are homometric (Patterson, Phys. Rev. 65, 195 (1944)), as 1, 1, 2, 3, 3 and 4 eighths of the circle lie between two of
them in both. Such pairs are a limit of descriptors of three bodies (Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020)).
Triples of neighbours, which four-body terms know, tell them apart; so do messages from neighbours that see one another.
"""

from collections.abc import Iterator

import ase
import numpy as np
from ase.data import chemical_symbols, covalent_radii

from eqmol.trust.report import Line, Rows, judge
from eqmol.trust.subject import Subject
from eqmol.units import MEV

#: What is the same in both environments -> places of the neighbours, in eighths of the circle.
PAIRS = {
    "distances (two bodies)": ((0, 2, 4, 6), (0, 1, 2, 3)),
    "distances and angles (three bodies)": ((0, 1, 4, 7), (0, 1, 3, 4)),
}
#: Of the energy of the centre: what differs by less is the same but for rounding.
RESOLVED = 1e-8
#: Of the cutoff, the largest radius of the circle: all see one another.
WITHIN = 0.45


def degenerate(subject: Subject, tables: list[Rows]) -> Iterator[Line]:
    """How many pairs have centres of the same energy.

    Args:
        subject: a potential, which has energies of atoms.
        tables: gets one more.
    """
    if subject.potential is None:
        return
    centre, outer = _elements(subject.elements)
    stated = dict(zip(subject.elements, subject.potential.element_values("energy").tolist(), strict=True))[centre]
    radius = min(float(covalent_radii[centre] + covalent_radii[outer]), WITHIN * subject.potential.cutoff)
    rows: list[tuple[str, ...]] = []
    same: list[str] = []
    for name, pair in PAIRS.items():
        structures = [ring(places, radius, centre, outer) for places in pair]
        energies = np.array([subject.exact([atoms])[0]["energies"][0] for atoms in structures]) - stated
        difference = abs(float(energies[0] - energies[1]))
        apart = difference > RESOLVED * float(np.abs(energies).max())
        rows.append((name, f"{MEV * difference:.3g}", "yes" if apart else "no"))
        same += [] if apart else [name]
    around = f"{chemical_symbols[outer]}4 around {chemical_symbols[centre]}"
    header = ("what both have in common", "difference of the centre / meV", "told apart")
    tables.append(
        Rows(f"Different environments ({around}, {radius:.2f} Å) that few bodies do not tell apart", header, rows)
    )
    words = (
        f"the same energy for different environments of equal {' and of equal '.join(same)}" if same else "told apart"
    )
    yield judge("degenerate environments", float(len(same)), subject.kinds, words)


def ring(places: tuple[int, ...], radius: float, centre: int = 6, outer: int = 1) -> ase.Atoms:
    """An atom, and neighbours at some eighths of a circle (Å) around it."""
    angles = np.pi / 4 * np.array(places)
    around = radius * np.stack([np.cos(angles), np.sin(angles), np.zeros(len(places))], axis=1)
    return ase.Atoms([centre] + [outer] * len(places), np.concatenate([np.zeros((1, 3)), around]))


def _elements(known: list[int]) -> tuple[int, int]:
    """Carbon and hydrogen, or what comes nearest to them."""
    return min(known, key=lambda z: (z == 1, abs(z - 6))), min(known)

"""Energies of the elements (E0): how users give them, what isolated atoms say, and whether total energies fit them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.units import Hartree, kcal, kJ, mol
from numpy.typing import NDArray

from eqmol.data.options import wrong
from eqmol.errors import InputError
from eqmol.files import read_npz
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY

#: eV; two energies of the same isolated atom that differ by more contradict each other.
SAME_ATOM = 1e-3
#: ``config_type`` of isolated atoms, without its underscores and capitals.
ISOLATED_ATOM = "isolatedatom"
#: eV; energies of elements that are larger are those of no element in eV (uranium with all electrons: 0.8 million).
LARGEST = 1e7
#: eV per atom. The strongest solids bind by 9 eV per atom (W), by 13 relative to VASP's spherical atoms: a median or a standard
#: deviation of (E - Σ E0)/N beyond this comes from E0s of another method, from other units, or from broken frames.
IMPLAUSIBLE = 20.0
#: eV of other units of energy.
UNITS = {
    "Hartree": Hartree,
    "Rydberg": Hartree / 2,
    "kcal/mol": kcal / mol,
    "kJ/mol": kJ / mol,
    "meV": 1e-3,
}
#: Total energies that agree so well with those of all electrons in another unit are in that unit,
SAME_UNIT = 0.02
#: if at least two elements of the second row or below make them up, none with more than this part.
LARGEST_PART = 0.8
#: Energies so many times those of all electrons, the lowest there are, are in no case eV; bonds and relativity add some percent.
TOO_LOW = 3.0

KeywordE0 = Literal["fit", "keep"]
FIT: KeywordE0 = "fit"
KEEP: KeywordE0 = "keep"


@dataclass(frozen=True)
class FreeAtom:
    """Energy (eV) of an element and where it comes from, in words."""

    energy: float
    source: str


E0 = KeywordE0 | dict[int, FreeAtom]


class Doubt(NamedTuple):
    """Why energies are implausible, and what mends it."""

    evidence: str
    remedy: str


def read_e0(value: Any) -> E0:
    """Read ``data.e0``: ``fit``, ``keep``, energies by symbol (``{H: -13.6, O: -2040.0}``) or an .npz with ``coeff``.

    Raises:
        InputError: anything else; an unknown symbol, or an energy that is not a number of ordinary size.
    """
    if value in (FIT, KEEP):
        return value
    if isinstance(value, str) and value.endswith(".npz"):
        return _read_npz(Path(value).expanduser())
    if not isinstance(value, Mapping) or not value:
        raise wrong(
            "e0", value, "fit, keep, FILE.npz, or an energy in eV for each element, as in '{H: -13.6, O: -2040.0}'"
        )
    energies = {}
    for symbol, energy in value.items():
        if not isinstance(symbol, str) or atomic_numbers.get(symbol, 0) == 0:
            raise InputError(f"data.e0 has the unknown element {symbol!r}; give symbols as in {{H: -13.6, O: -2040.0}}")
        if isinstance(energy, bool) or not isinstance(energy, int | float) or not abs(energy) < LARGEST:
            raise InputError(f"data.e0 has {symbol}: {energy!r}, which is no energy in eV")
        energies[atomic_numbers[symbol]] = FreeAtom(float(energy), "data.e0")
    return energies


def _read_npz(path: Path) -> dict[int, FreeAtom]:
    """Return energies from a file with ``coeff``, whose index is the atomic number (eV)."""
    try:
        energies = np.asarray(read_npz(path)["coeff"], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no .npz with per-element energies 'coeff' ({error})") from error
    if energies.ndim != 1 or not np.isfinite(energies).all():
        raise InputError(
            f"{path}: 'coeff' has shape {list(energies.shape)}; it should hold an energy per atomic number"
        )
    last = min(len(energies), len(chemical_symbols))
    return {z: FreeAtom(float(energies[z]), path.name) for z in range(1, last)}


def known_energies(e0: E0, isolated: Mapping[int, FreeAtom], elements: Sequence[int]) -> dict[int, FreeAtom]:
    """Return the energies of elements that need no fit, be they in the training set or not: those given, else those of isolated
    atoms.

    Args:
        e0: see :func:`read_e0`.
        isolated: see :func:`free_atoms`.
        elements: atomic numbers of the training set.

    Raises:
        InputError: energies are given, but not of all elements.
    """
    if not isinstance(e0, dict):
        return dict(isolated)
    missing = [chemical_symbols[z] for z in elements if z not in e0]
    if missing:
        raise InputError(f"data.e0 lacks {', '.join(missing)}, which the training data have; give an energy for each")
    return dict(e0)


def is_isolated(graph: AtomGraph) -> bool:
    """Return whether a frame is an isolated atom: one atom without neighbours, or named so by its ``config_type``.

    Raises:
        InputError: a frame named so that has several atoms.
    """
    named = graph.config_type.lower().replace("_", "") == ISOLATED_ATOM
    if named and graph.num_nodes != 1:
        raise InputError(f"{graph.source}: config_type {graph.config_type} is for one atom, not {graph.num_nodes}")
    return named or (graph.num_nodes == 1 and graph.edge_index.shape[1] == 0)


def free_atoms(graphs: Sequence[AtomGraph]) -> dict[int, FreeAtom]:
    """Return the energies of isolated atoms by atomic number.

    Args:
        graphs: isolated atoms; frames without an energy are skipped.

    Raises:
        InputError: two frames of one element disagree.
    """
    atoms: dict[int, FreeAtom] = {}
    for graph in graphs:
        if ENERGY not in graph or not bool(graph.energy.isfinite()):
            continue
        number, atom = int(graph.atomic_numbers[0]), FreeAtom(float(graph.energy), graph.source)
        known = atoms.setdefault(number, atom)
        if abs(known.energy - atom.energy) > SAME_ATOM:
            raise InputError(
                f"{atom.source}: the isolated atom {chemical_symbols[number]} has the energy {atom.energy} eV, but "
                f"{known.energy} eV in {known.source}; keep one of them"
            )
    return atoms


def doubt(
    elements: Sequence[int],
    counts: NDArray[np.float64],
    energies: NDArray[np.float64],
    e0: NDArray[np.float64],
    e0_source: Sequence[str],
    deviation: float,
    sources: Sequence[str],
) -> Doubt | None:
    """Return why total energies cannot be eV or do not belong to the energies of the elements, if so.

    Args:
        elements: atomic numbers.
        counts: [S, elements] atoms of each structure.
        energies: [S] eV; NaN where there is none, not everywhere.
        e0: [elements] eV.
        e0_source: where each comes from.
        deviation: standard deviation of (E - Σ E0)/N, eV per atom.
        sources: names of the structures, or one for all.
    """
    sizes = counts.sum(axis=1)
    binding = (energies - counts @ e0) / sizes
    median = float(np.nanmedian(binding))
    unit = _unit(elements, counts, energies)
    far = np.abs(median) > IMPLAUSIBLE
    if unit is None and not far and deviation <= IMPLAUSIBLE:
        return None
    # the typical frame where all are off, the worst where some are
    worst = np.nanargmin(np.abs(binding - median)) if far or unit else np.nanargmax(np.abs(binding - median))
    i = int(worst)
    place = sources[i] if len(sources) == len(energies) else sources[0]
    formula = "".join(f"{chemical_symbols[z]}{int(n)}" for z, n in zip(elements, counts[i], strict=True) if n)
    frame = f"{place} ({formula}) has the energy {energies[i]:.6g}"
    if unit is not None:
        return Doubt(f"{frame}, {unit}", "correct the energies")
    given = "; ".join(
        f"{chemical_symbols[z]} {energy:.2f} eV from {source}"
        for z, energy, source, n in zip(elements, e0, e0_source, counts[i], strict=True)
        if n
    )
    evidence = f"{frame} eV, {binding[i]:.1f} eV per atom away from the sum of the energies of its elements ({given})"
    if far:
        why = (
            f"the median of all frames is {median:.1f} eV per atom, while no bond is that strong: one of them counts all "
            "electrons and the other the valence electrons, or they have other units or another method"
        )
        remedy = (
            "correct the energies, or use E0s that belong to them: data.e0=fit without isolated atoms of another method, or "
            "numbers as in data.e0='{H: -13.6}'"
        )
        return Doubt(f"{evidence}, and {why}", remedy)
    why = (
        f"the standard deviation of all frames is {deviation:.1f} eV per atom, while no chemistry varies so much: some frames "
        "have other units, another method or broken energies"
    )
    return Doubt(f"{evidence}, and {why}", "correct or remove them")


def _unit(elements: Sequence[int], counts: NDArray[np.float64], energies: NDArray[np.float64]) -> str | None:
    """Return in what other unit total energies must be, or that they are not in eV, with the evidence."""
    electrons = np.array([_all_electrons(z) for z in elements])
    lowest = counts @ electrons
    ratio = float(np.nanmedian(energies / lowest))
    heavy = np.array([z > 2 for z in elements])
    parts = np.abs(counts.sum(axis=0) * electrons)
    sure = heavy.any() and parts[heavy].max() < LARGEST_PART * parts.sum()
    for name, size in UNITS.items():
        # only energies of molecules with several elements single out a unit larger than eV's; others could be chance
        if abs(ratio * size - 1) < SAME_UNIT and (sure or size < 1):
            return f"which in {name} is that of all its electrons: multiply the energies by {size:.8g} to have eV"
    if ratio > TOO_LOW:
        return f"{ratio:.3g} times that of all its electrons in eV, which is the lowest possible: it has another unit"
    return None


def _all_electrons(number: int) -> float:
    """Return the energy (eV) of a neutral atom with all its electrons, within 2 % from carbon on.

    Source: Englert and Schwinger, Phys. Rev. A 32, 26 (1985): -0.768745 Z^(7/3) + Z²/2 - 0.269900 Z^(5/3) Hartree.
    """
    return Hartree * (-0.768745 * number ** (7 / 3) + number**2 / 2 - 0.269900 * number ** (5 / 3))

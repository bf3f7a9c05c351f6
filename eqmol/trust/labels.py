"""Errors against labels: by element, by group of frames, by size of the force; and the worst structures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqmol.graph.keys import ENERGY, FORCES
from eqmol.trust.report import PASS, WARN, Line, Parity, Report, Rows, judge
from eqmol.trust.subject import Subject
from eqmol.units import MEV, number, quantity

#: Structures that are shown.
WORST = 3
#: Energies whose errors vary by less than this part of their mean are off by a constant; frames that tell.
CONSTANT, ENOUGH = 0.25, 3
#: Points of a figure, of each element.
SHOWN = 20_000
#: eV/Å; bounds of the groups of forces.
SIZES = (0.0, 0.5, 1.0, 2.0, 5.0, np.inf)


class Frame(NamedTuple):
    """A structure with its labels: "energy" (eV), "forces" [N, 3] (eV/Å), those there are."""

    atoms: ase.Atoms
    labels: dict[str, Any]
    source: str


def errors(subject: Subject, frames: Sequence[Frame], report: Report) -> None:
    """Add to a report what labels say."""
    labelled = [frame for frame in frames if FORCES in frame.labels or ENERGY in frame.labels]
    if not labelled:
        return
    results = [subject.used([frame.atoms])[0] for frame in labelled]
    offsets = [
        MEV * (result["energy"] - frame.labels[ENERGY]) / len(frame.atoms)
        for frame, result in zip(labelled, results, strict=True)
        if ENERGY in frame.labels
    ]
    if offsets:
        report.facts["energy RMSE"] = f"{quantity(_rms(np.array(offsets)), 'meV/atom')} ({len(offsets)} structures)"
        report.lines.append(_constant(np.array(offsets)))
        report.parities.append(_energies(subject, labelled, results))
    pairs = [(frame, result) for frame, result in zip(labelled, results, strict=True) if FORCES in frame.labels]
    if not pairs:
        return
    wrong = [result["forces"] - frame.labels[FORCES] for frame, result in pairs]
    everything = np.concatenate(wrong)
    reference = np.concatenate([frame.labels[FORCES] for frame, _ in pairs])
    report.facts["force RMSE"] = quantity(MEV * _rms(everything), "meV/Å")
    share = _rms(everything) / max(_rms(reference), 1e-12)
    report.lines.append(
        judge("forces against none", share, subject.kinds, f"force RMSE is {100 * share:.1f} % of the labels' RMS")
    )
    symbols = np.concatenate([frame.atoms.numbers for frame, _ in pairs])
    groups = {chemical_symbols[z]: everything[symbols == z] for z in np.unique(symbols)}
    report.tables.append(_rows("Errors of forces by element", "element", groups))
    predicted = np.concatenate([result["forces"] for _, result in pairs])
    points = {chemical_symbols[z]: _drawn(reference[symbols == z], predicted[symbols == z]) for z in np.unique(symbols)}
    report.parities.append(Parity("Components of forces against their labels", "eV/Å", points))
    size = np.linalg.norm(reference, axis=1)
    bins = {
        f"{low:g} to {high:g} eV/Å" if np.isfinite(high) else f"beyond {low:g} eV/Å": everything[
            (size >= low) & (size < high)
        ]
        for low, high in pairwise(SIZES)
    }
    report.tables.append(_rows("Errors of forces by their size", "force", bins))
    kinds: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for (frame, _), difference in zip(pairs, wrong, strict=True):
        kinds[str(frame.atoms.info.get("config_type", "")) or "(none)"].append(difference)
    if len(kinds) > 1:
        joined = {name: np.concatenate(parts) for name, parts in kinds.items()}
        report.tables.append(_rows("Errors of forces by config_type", "config_type", joined))
    order = sorted(range(len(pairs)), key=lambda i: -_rms(wrong[i]))[:WORST]
    for i in order:
        atoms = pairs[i][0].atoms.copy()
        atoms.calc = None
        atoms.arrays["error"] = np.linalg.norm(wrong[i], axis=1)
        report.worst.append((f"{pairs[i][0].source}: force RMSE {quantity(MEV * _rms(wrong[i]), 'meV/Å')}", atoms))


def _energies(subject: Subject, frames: Sequence[Frame], results: Sequence[Mapping[str, Any]]) -> Parity:
    """Energies per atom, beside those of free atoms where the model knows them."""
    potential, points = subject.potential, []
    free: dict[int, float] = {}
    if potential is not None:
        free = dict(zip(potential.elements, potential.element_values("energy").tolist(), strict=True))
    for frame, result in zip(frames, results, strict=True):
        if ENERGY in frame.labels:
            alone = sum(free.get(int(z), 0.0) for z in frame.atoms.numbers)
            points.append([(energy - alone) / len(frame.atoms) for energy in (frame.labels[ENERGY], result["energy"])])
    labels, predictions = np.array(points, float).T
    title = "Energies" + (" without those of free atoms" if free else "") + " against their labels"
    return Parity(title, "eV/atom", {"energies": _drawn(labels, predictions)})


def _drawn(
    labels: NDArray[np.float64], predictions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers that are shown, evenly spread over all."""
    step = -(-labels.size // SHOWN)
    return labels.ravel()[::step], predictions.ravel()[::step]


def _rows(title: str, header: str, groups: Mapping[str, NDArray[np.float64]]) -> Rows:
    rows: list[tuple[str, ...]] = [
        (name, str(part.size), number(MEV * float(np.abs(part).mean())), number(MEV * _rms(part)))
        for name, part in groups.items()
        if part.size
    ]
    return Rows(title, (header, "components", "MAE / (meV/Å)", "RMSE / (meV/Å)"), rows)


def _constant(offsets: NDArray[np.float64]) -> Line:
    mean, spread = float(offsets.mean()), float(offsets.std())
    off = len(offsets) >= ENOUGH and spread < CONSTANT * abs(mean)
    words = f"errors are {mean:+.3g} ± {spread:.2g} meV per atom"
    reason = "errors that are one constant come from another zero or level of theory"
    return Line("constant in the energies", WARN if off else PASS, abs(mean), np.inf, "meV/atom", reason, words)


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(values).mean()))

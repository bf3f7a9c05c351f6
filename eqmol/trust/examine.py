"""All checks of one potential."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator as ASECalculator
from ase.data import chemical_symbols

from eqmol.convert.convert import example_structures
from eqmol.errors import InputError
from eqmol.models import Potential
from eqmol.trust.confidence import confidence
from eqmol.trust.cost import backends
from eqmol.trust.degenerate import degenerate
from eqmol.trust.dimers import dimers
from eqmol.trust.dynamics import conservation
from eqmol.trust.labels import Frame, errors
from eqmol.trust.laws import laws
from eqmol.trust.report import FAIL, Line, Report, Rows
from eqmol.trust.subject import Subject, seconds

#: Structures on which laws are checked, and atoms that these may have.
SAMPLE, SAMPLE_ATOMS = 3, 100


def examine(
    model: "str | os.PathLike[str] | Potential | ASECalculator",
    structures: Iterable[ase.Atoms] | None = None,
    *,
    picoseconds: float = 10.0,
) -> Report:
    """Find out whether a potential can be trusted.

    Args:
        model: a model file, a potential, or any calculator of ASE.
        structures: what it is for, with energies and forces where they are known (in an attached calculator); None: disordered
            clusters and crystals of the model's elements.
        picoseconds: of dynamics at constant energy; 0 for none. They take 2000 evaluations in float64 each.

    Returns:
        What was found: ``report.passed``, ``report.lines``, ``report.write(FOLDER)``.

    Raises:
        InputError: no model, no structures of a calculator, or structures that the model cannot evaluate.
    """
    if isinstance(picoseconds, bool) or not isinstance(picoseconds, int | float) or not 0 <= picoseconds < 1e6:
        raise InputError(f"picoseconds={picoseconds!r} must be a time of at least 0")
    frames = None
    if structures is not None:
        given = [structures] if isinstance(structures, ase.Atoms) else list(structures)
        frames = [Frame(atoms, _labels(atoms), f"structure {number}") for number, atoms in enumerate(given)]
    return examination(model, frames, picoseconds)


def examination(
    model: "str | os.PathLike[str] | Potential | ASECalculator", frames: Sequence[Frame] | None, picoseconds: float
) -> Report:
    """The same for structures whose labels are apart; see :func:`examine`."""
    subject, given = Subject(model), frames is not None
    if frames is None:
        if subject.potential is None:
            raise InputError("give structures: a calculator does not say which elements it knows")
        frames = [Frame(atoms, {}, "generated") for atoms in _generated(subject)]
    if not frames:
        raise InputError("there are no structures to examine the model with")
    report = Report(subject.title, _facts(subject))
    chosen = _sample([frame.atoms for frame in frames])
    report.lines += _guarded("laws", laws(subject, chosen))
    report.lines += _guarded("dimers", dimers(subject, report.curves))
    seen: list[Rows] = []
    report.lines += _guarded("degenerate environments", degenerate(subject, seen))
    if picoseconds > 0:
        start = min(chosen, key=len)
        report.lines += _guarded("dynamics", conservation(subject, start, picoseconds, report.curves))
    errors(subject, frames, report)
    if given:
        report.lines += _guarded("confidence", confidence(subject, frames))
    report.tables += seen
    largest = max(chosen, key=len)
    report.facts["time"] = _time(subject, largest)
    report.lines += _guarded("backends", backends(subject, largest, report.tables))
    return report


def _guarded(name: str, lines: Iterator[Line]) -> Iterator[Line]:
    """The lines, and one more where a model gives no finite result."""
    try:
        yield from lines
    except InputError as error:
        yield Line(name, FAIL, np.nan, np.nan, "", "a potential gives finite energies and forces", str(error))


def _labels(atoms: ase.Atoms) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results
    return {name: results[name] for name in ("energy", "forces") if results.get(name) is not None}


def _generated(subject: Subject) -> list[ase.Atoms]:
    """Clusters, and of conservative models a crystal and a slab of it."""
    assert subject.potential is not None
    potential = subject.potential
    found = [*example_structures(potential.elements, potential.cutoff)]
    slab = found[-1].copy()
    slab.pbc = (True, True, False)
    return [found[0], found[-1], slab]


def _sample(structures: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    """A few structures, evenly spread, of few atoms if there are such; bare of labels."""
    small = [atoms for atoms in structures if len(atoms) <= SAMPLE_ATOMS] or [min(structures, key=len)]
    places = np.unique(np.linspace(0, len(small) - 1, SAMPLE).round().astype(int))
    return [ase.Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc) for s in (small[place] for place in places)]


def _facts(subject: Subject) -> dict[str, str]:
    if subject.potential is None:
        return {"calculator": subject.title}
    model = subject.native
    backbone = model.recipe.get("backbone", {})
    kind = backbone.get("_target_", "").split(".")[-1]
    sections = model.sections.get("domain", {})
    facts = {
        "model": f"{kind}, {sum(p.numel() for p in model.parameters())} parameters, {str(model.dtype).removeprefix('torch.')}",
        "products": f"family {backbone.get('family')}, parity {backbone.get('parity')}, backend {backbone.get('backend')}",
        "elements": " ".join(chemical_symbols[z] for z in model.elements),
        "cutoff": f"{model.cutoff:g} Å",
        "forces": "minus the gradient of the energy" if model.conservative else "direct, no gradient of an energy",
    }
    return facts | ({"training structures": str(sections["structures"])} if "structures" in sections else {})


def _time(subject: Subject, atoms: ase.Atoms) -> str:
    """Median time of an evaluation as predictions do it."""
    (time,) = seconds([subject.used], atoms)
    return (
        f"{1e3 * time:.3g} ms for energy and forces of {len(atoms)} atoms ({1e6 * time / len(atoms):.3g} µs per atom)"
    )

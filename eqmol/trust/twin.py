"""A fast student of a slow teacher: labels by the teacher, and how near the student comes at what speed.

Energies of atoms are labels beside those of structures where the teacher has them, after Matin et al. 2025 (arXiv:2502.05379).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from eqmol.checkpoint import for_prediction
from eqmol.data.xyz.reader import read_frames
from eqmol.errors import InputError, at, printable, reason_of
from eqmol.files import append, replacing
from eqmol.graph.electronic import StateGuard
from eqmol.graph.targets import RESULTS
from eqmol.inference.extxyz import write_frame
from eqmol.inference.structures import Frame, evaluated
from eqmol.models import Potential
from eqmol.trust.examine import examination
from eqmol.trust.labels import Frame as Labelled
from eqmol.trust.report import Report, Rows
from eqmol.trust.subject import Subject, seconds
from eqmol.units import MEV, quantity

TRAIN, HELD_OUT, JOB = "train.xyz", "held_out.xyz", "labels.json"  #: of the folder of a twin
HELD_OUT_FRACTION = 0.1  #: of the structures
#: Structures that a model evaluates together.
BATCH = 16
#: eV; energies of atoms whose sum is farther from the total energy are something else.
SAME_SUM = 1e-3


class Teacher:
    """What gives the labels.

    Args:
        given: a potential, or any calculator of ASE.
        identity: what tells it from others, to continue with the same alone.

    Raises:
        InputError: something else.
    """

    def __init__(self, given: Potential | ASECalculator, identity: str) -> None:
        self.subject, self.identity = Subject(given), identity
        self.cutoff = None if self.subject.potential is None else self.subject.potential.cutoff
        self._calculator = None if isinstance(given, Potential) else given

    @classmethod
    def of(cls, calculator: ASECalculator) -> "Teacher":
        """A calculator, known by its class and parameters."""
        if not isinstance(calculator, ASECalculator):
            raise InputError(f"a teacher is a model file or a calculator of ASE, not a {type(calculator).__name__}")
        parameters = json.dumps(calculator.parameters, default=lambda value: type(value).__name__, sort_keys=True)
        return cls(calculator, f"{type(calculator).__name__} {parameters}")

    def answers(
        self, frames: Iterable[Frame], close_contacts: str, state: str
    ) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Each structure with energy (eV), forces [N, 3] and, where there are such, energies [N] and stress [3, 3].

        Args:
            frames: structures.
            close_contacts, state: what happens where a model would guess, see :class:`eqmol.Calculator`.

        Raises:
            InputError: a structure that the teacher cannot evaluate.
        """
        if self.subject.potential is not None:
            model = self.subject.native
            yield from evaluated(model, frames, BATCH, close_contacts, StateGuard(model.electronic_state, state))
            return
        for frame in frames:
            yield frame, self._ask(frame[0], frame[2])

    def isolated_atoms(self, elements: Iterable[int]) -> tuple[list[ase.Atoms], list[int]]:
        """Free atoms with their energies, and the elements for which the teacher fails."""
        found, failed = [], []
        for z in elements:
            atoms = ase.Atoms(numbers=[z], info={"config_type": "IsolatedAtom"})
            try:
                ((_, result),) = self.answers([(atoms, {}, "")], "stop", "stop")
            except InputError:
                failed.append(z)
                continue
            found.append(_labelled(atoms, result))
        return found, failed

    def _ask(self, atoms: ase.Atoms, source: str) -> dict[str, Any]:
        try:
            result = self.subject.exact([atoms])[0]
        except Exception as error:  # of any program
            raise InputError(f"{at(source)}the teacher fails: {printable(reason_of(error))}") from error
        assert self._calculator is not None
        energies = np.asarray(self._calculator.results.get("energies", np.nan))
        if energies.shape == (len(atoms),) and abs(energies.sum() - result["energy"]) < SAME_SUM:
            result["energies"] = energies
        if not all(np.isfinite(value).all() for value in result.values()):
            raise InputError(f"{at(source)}what the teacher says is not finite")
        return result


def split(frames: Sequence[Frame], held_out: Sequence[Frame] | None, seed: int) -> tuple[list[Frame], list[Frame]]:
    """Structures to learn from and to be judged by.

    Args:
        frames: all; free atoms are left out, as a twin has them anyway.
        held_out: to be judged by; None: a tenth of ``frames``, drawn.
        seed: of the draw.

    Raises:
        InputError: too few.
    """
    found = [frame for frame in frames if len(frame[0]) > 1 or frame[0].pbc.any()]
    if held_out is None:
        number = max(1, round(HELD_OUT_FRACTION * len(found)))
        chosen = set(np.random.default_rng(seed).permutation(len(found))[:number].tolist())
        held_out = [frame for i, frame in enumerate(found) if i in chosen]
        found = [frame for i, frame in enumerate(found) if i not in chosen]
    if len(found) < 2 or not held_out:
        raise InputError(
            f"{len(found) + len(held_out)} structures are too few: two to learn from and one to be judged by are the least"
        )
    return found, list(held_out)


def label(
    teacher: Teacher,
    sets: Mapping[str, Sequence[Frame]],
    folder: Path,
    close_contacts: str = "stop",
    state: str = "stop",
    tell: Callable[[int], None] = lambda done: None,
) -> list[int]:
    """Let the teacher label structures; continue where an earlier call with the same arguments was.

    Args:
        teacher: gives the labels.
        sets: name of a file -> its structures; the one called :data:`TRAIN` begins with free atoms.
        folder: where they are written, extended XYZ with ``energy``, ``forces``, ``stress`` and ``energies`` of the atoms.
        close_contacts, state: see :meth:`Teacher.answers`.
        tell: is told how many structures have labels.

    Returns:
        Elements whose free atoms the teacher cannot evaluate.

    Raises:
        InputError: the folder holds labels of another teacher or of other structures, or what the teacher refuses.
    """
    elements = sorted({int(z) for frames in sets.values() for atoms, _, _ in frames for z in atoms.numbers})
    folder.mkdir(parents=True, exist_ok=True)
    job = {"teacher": teacher.identity, "structures": _digest(sets)}
    if (folder / JOB).exists():
        before = _read_job(folder / JOB)
        for name, value in job.items():
            if before.get(name) != value:
                raise InputError(f"{folder} holds labels of another {name.rstrip('s')}; give another folder")
    else:
        with replacing(folder / JOB) as file:
            json.dump(job, file, indent=2)
    isolated, failed = teacher.isolated_atoms(elements)
    before_all = 0
    for name, frames in sets.items():
        path, free = folder / name, isolated if name == TRAIN else []
        done = _whole_frames(path)
        for atoms in free[done:]:
            append(path, _text(atoms))
        done = max(done - len(free), 0)
        for number, ((atoms, _, _), result) in enumerate(
            teacher.answers(frames[done:], close_contacts, state), done + 1
        ):
            append(path, _text(_labelled(atoms, result)))
            tell(before_all + number)
        before_all += len(frames)
    return failed


def has_energies_of_atoms(path: Path) -> bool:
    """Whether all structures of a file have them."""
    return all(atoms.calc is not None and "energies" in atoms.calc.results for atoms, _, _ in read_frames(path))


def certify(teacher: Teacher, student: Path, folder: Path) -> tuple[Report, dict[str, float]]:
    """Compare a student with its teacher on the structures that were held out, examine it, and measure both.

    Args:
        teacher: that gave the labels.
        student: model file.
        folder: of :func:`label`.

    Returns:
        The examination with a table of both, and the numbers: ``force_rmse_mev_per_a``, ``force_rms_mev_per_a``,
        ``energy_rmse_mev_per_atom``, ``teacher_ms``, ``student_ms`` (CPU time of energy and forces of the largest structure),
        ``atoms`` (of it), ``structures``.
    """
    frames = [Labelled(*frame) for frame in read_frames(folder / HELD_OUT)]
    report = examination(student, frames, picoseconds=0)
    own, rival = Subject(student), teacher.subject
    if rival.potential is not None:  # at the same precision
        same = for_prediction(rival.native, dtype=own.native.dtype)
        assert isinstance(same, Potential)
        rival = Subject(same)
    wrong: list[Any] = []
    energies, largest = [], max((frame.atoms for frame in frames), key=len)
    for frame in frames:
        result = own.used([frame.atoms])[0]
        wrong.append(result["forces"] - frame.labels["forces"])
        energies.append((result["energy"] - frame.labels["energy"]) / len(frame.atoms))
    times = seconds([rival.used, own.used], largest)
    found = {
        "structures": len(frames),
        "force_rmse_mev_per_a": MEV * _rms(np.concatenate(wrong)),
        "force_rms_mev_per_a": MEV * _rms(np.concatenate([frame.labels["forces"] for frame in frames])),
        "energy_rmse_mev_per_atom": MEV * _rms(np.array(energies)),
        "atoms": len(largest),
        "teacher_ms": 1e3 * times[0],
        "student_ms": 1e3 * times[1],
    }
    report.tables.insert(0, _table(found))
    return report, found


def _table(found: Mapping[str, float]) -> Rows:
    part = found["force_rmse_mev_per_a"] / max(found["force_rms_mev_per_a"], 1e-12)
    ratio = found["teacher_ms"] / found["student_ms"]
    rows: list[tuple[str, ...]] = [
        (
            "force RMSE",
            f"(RMS {quantity(found['force_rms_mev_per_a'], 'meV/Å')})",
            f"{quantity(found['force_rmse_mev_per_a'], 'meV/Å')}, {100 * part:.1f} %",
        ),
        ("energy RMSE", "", quantity(found["energy_rmse_mev_per_atom"], "meV/atom")),
        (
            f"CPU time, {found['atoms']} atoms",
            f"{found['teacher_ms']:.3g} ms",
            f"{found['student_ms']:.3g} ms, {ratio:.1f} times as fast",
        ),
    ]
    return Rows(f"Twin on {found['structures']} structures held out", ("", "teacher", "student"), rows)


def _labelled(atoms: ase.Atoms, result: Mapping[str, Any]) -> ase.Atoms:
    """A copy with what the teacher says in the place of all labels, and without constraints."""
    atoms = atoms.copy()
    atoms.set_constraint()
    for place in (atoms.info, atoms.arrays):
        for name in RESULTS:
            place.pop(name, None)
    values = {name: result[name] for name in ("energy", "energies", "forces") if name in result}
    if "stress" in result:
        values["stress"] = full_3x3_to_voigt_6_stress(result["stress"])
    atoms.calc = SinglePointCalculator(atoms, **values)
    return atoms


def _text(atoms: ase.Atoms) -> str:
    text = StringIO()
    write_frame(text, atoms)
    return text.getvalue()


def _whole_frames(path: Path) -> int:
    """Number of whole frames of a file, which is cut off behind the last."""
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    ends, count, place = [0, *accumulate(map(len, lines))], 0, 0
    while place < len(lines) and lines[place].strip().isdigit():
        after = place + int(lines[place]) + 2
        if after > len(lines) or not lines[after - 1].endswith(b"\n"):
            break
        place, count = after, count + 1
    with open(path, "r+b") as file:
        file.truncate(ends[place])
    return count


def _digest(sets: Mapping[str, Sequence[Frame]]) -> str:
    digest = hashlib.sha256()
    for name, frames in sets.items():
        digest.update(f"{name} {len(frames)}".encode())
        for atoms, _, _ in frames:
            for values in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
                digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _read_job(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({reason_of(error)}); give another folder") from None
    return found if isinstance(found, dict) else {}


def _rms(values: Any) -> float:
    return float(np.sqrt(np.square(values).mean()))


def words_of(failed: Sequence[int]) -> str:
    """What is said about free atoms without an energy."""
    symbols = ", ".join(chemical_symbols[z] for z in failed)
    return f"the teacher cannot evaluate free atoms of {symbols}: their energies are fitted"

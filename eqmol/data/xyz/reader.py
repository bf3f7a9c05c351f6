"""Frames and labels from every file that ASE reads."""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.io.formats import UnknownFileTypeError, filetype
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from eqmol.data.xyz.labels import LabelSummary
from eqmol.data.xyz.stress import VIRIAL, Convention
from eqmol.errors import InputError, printable, reason_of
from eqmol.files import COMPRESSED, Text, bounded_memory, check_database, check_expansion, check_file
from eqmol.graph.keys import ENERGY, FORCES, STRESS
from eqmol.graph.targets import Target

#: label -> its value: energy float in eV, forces [N, 3] in eV/Å, stress [3, 3] in eV/Å³
Labels = dict[str, Any]


def read_frames(
    path: str | Path,
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str | Convention = "stress",
    summary: LabelSummary | None = None,
    unusable: Callable[[str, str], None] | None = None,
) -> Iterator[tuple[ase.Atoms, Labels, str]]:
    """Read a file frame by frame.

    A label is looked up by its key in ``atoms.info``, ``atoms.arrays`` and the results of the attached calculator.
    Constraints do not zero forces.

    Args:
        path: any file that ASE reads; extended XYZ, also compressed, is streamed.
        energy_key: name of the total energy, eV.
        forces_key: name of the forces, [N, 3] eV/Å.
        stress_key: name of the stress, as [3, 3], as 9 numbers or as 6 in Voigt order; eV/Å³ in ASE's sign, or what the
            convention says, also by its name, such as "stress [kbar]".
        summary: counts the labels of each frame.
        unusable: is told a label and the reason where it cannot be used, and the frame is given without it.

    Yields:
        The structure, its labels (only those it carries) and "path, frame 17", counted from 0.

    Raises:
        InputError: the file is missing, empty, truncated or not understood; a label has a wrong shape or is not finite.
    """
    convention = Convention.parse(stress_key) if isinstance(stress_key, str) else stress_key
    keys = {ENERGY: energy_key, FORCES: forces_key, STRESS: convention.key}
    number = -1
    for number, atoms in enumerate(_iterate(Path(os.path.expanduser(path)))):
        source = f"{path}, frame {number}"
        labels: Labels = {}
        places: dict[str, str] = {}
        for label, key in keys.items():
            try:
                value, place = _find(atoms, key, source)
                if value is None:
                    continue
                value = _CONVERSIONS[label](value, atoms, f"{source}: '{key}' in {place}")
                places[label] = f"{place}['{key}']"
                if label == STRESS and convention != Convention(key):
                    if convention.unit == VIRIAL and not atoms.pbc.all():
                        continue  # without a volume it means no stress
                    value = convention.stress(value, atoms.cell.volume)
                    places[label] += f", {convention.words}"
                labels[label] = value
            except InputError as error:
                if unusable is None:
                    raise
                unusable(label, str(error))
        if summary is not None:
            summary.add(str(path), places, keys_of(atoms))
        yield atoms, labels, source
    if number < 0:
        raise InputError(f"{path} is empty: it holds no structures")


def read_target(atoms: ase.Atoms, target: Target, key: str, source: str) -> tuple[NDArray[np.float64] | None, str]:
    """Return a property of a frame and where it was found, or (None, "") where the frame has none.

    It is looked up as the labels are, see :func:`read_frames`. A symmetric tensor may be [3, 3], 9 numbers, or 6 in Voigt order
    (xx yy zz yz xz xy).

    Raises:
        InputError: another shape, no numbers, or a tensor that is not symmetric.
    """
    found, place = _find(atoms, key, source)
    if found is None:
        return None, ""
    what = f"{source}: '{key}' in {place}"
    value = _numbers(found, what)
    if target.kind == "tensor" and value.shape == (6,):
        value = voigt_6_to_full_3x3_stress(value)
    shape = ((len(atoms),) if target.is_atomic else ()) + target.components
    if value.size != math.prod(shape):
        wanted = f"{list(shape)}" if shape else "one number"
        raise InputError(
            f"{what} has shape {list(value.shape)}, but the target {target.name} ({target.kind}) is {wanted}"
        )
    value = value.reshape(shape)
    if target.kind == "tensor" and not np.allclose(value, value.T, rtol=1e-3, atol=1e-6, equal_nan=True):
        raise InputError(f"{what} is not symmetric: {value.tolist()}")
    return value, f"{place}['{key}']"


def keys_of(atoms: ase.Atoms) -> list[str]:
    """Return the keys of all that a frame carries besides its structure."""
    return sorted({name for _, values in _places(atoms) for name in values} - {"numbers", "positions"})


def _places(atoms: ase.Atoms) -> list[tuple[str, dict[str, Any]]]:
    """Return the places where a frame can carry labels."""
    results = {} if atoms.calc is None else {k: v for k, v in atoms.calc.results.items() if v is not None}
    return [("info", atoms.info), ("arrays", atoms.arrays), ("calculator", results)]


def _find(atoms: ase.Atoms, key: str, source: str) -> tuple[Any, str]:
    """Return a label's value and place, or (None, "")."""
    found = [(values[key], place) for place, values in _places(atoms) if key in values]
    if not found:
        return None, ""
    for value, place in found[1:]:
        if not _agree(value, found[0][0]):
            raise InputError(
                f"{source}: two different values of '{key}', in {found[0][1]} and in {place}; give one of them a key "
                "of its own"
            )
    return found[0]


def _agree(first: Any, second: Any) -> bool:
    """Return whether two values are the same up to the rounding of their formats."""
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.dtype.kind not in "iuf" or second.dtype.kind not in "iuf":
        return bool(np.array_equal(first, second))
    return bool(np.allclose(first, second, rtol=1e-8, atol=1e-6, equal_nan=True))


def _numbers(value: Any, what: str) -> NDArray[np.float64]:
    """Return a value as finite float64 numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{what} is {value!r}, not numbers")
    return array.astype(np.float64)


def _energy(value: Any, atoms: ase.Atoms, what: str) -> float:
    """Return one finite energy."""
    array = _numbers(value, what)
    if array.size != 1:
        raise InputError(f"{what} has shape {list(array.shape)}, but an energy is one number")
    energy = float(array.reshape(()))
    if not math.isfinite(energy):
        raise InputError(f"{what} is {energy}; remove the frame or correct it")
    return energy


def _forces(value: Any, atoms: ase.Atoms, what: str) -> NDArray[np.float64]:
    """Return finite forces [N, 3]."""
    forces = _numbers(value, what)
    if forces.shape != (len(atoms), 3):
        raise InputError(f"{what} has shape {list(forces.shape)}, but {len(atoms)} atoms need [{len(atoms)}, 3]")
    broken = np.flatnonzero(~np.isfinite(forces).all(axis=1))
    if len(broken) > 0:
        i = broken[0]
        raise InputError(
            f"{what} is not finite at atom {i} ({atoms.symbols[i]}): {forces[i].tolist()}; remove the frame or "
            "correct it"
        )
    return forces


def _stress(value: Any, atoms: ase.Atoms, what: str) -> NDArray[np.float64]:
    """Return a finite, symmetric stress [3, 3]."""
    stress = _numbers(value, what)
    if stress.shape == (6,):
        stress = voigt_6_to_full_3x3_stress(stress)
    if stress.size != 9:
        raise InputError(f"{what} has shape {list(stress.shape)}, but a stress is [3, 3], 9 numbers or 6 (Voigt)")
    stress = stress.reshape(3, 3)
    if not np.isfinite(stress).all():
        raise InputError(f"{what} is not finite: {stress.tolist()}; remove the frame or correct it")
    if not np.allclose(stress, stress.T, rtol=1e-3, atol=1e-6):
        raise InputError(f"{what} is not symmetric: {stress.tolist()}")
    return stress


_CONVERSIONS: dict[str, Callable[..., Any]] = {ENERGY: _energy, FORCES: _forces, STRESS: _stress}


def _iterate(path: Path) -> Iterator[ase.Atoms]:
    """Yield the structures of a file; whatever ASE's many readers raise becomes one sentence."""
    check_file(path)
    number = 0
    try:
        file_format = filetype(str(path))
        frames = _extended_xyz(path) if file_format == "extxyz" else _any_other(path, file_format)
        for atoms in frames:
            yield atoms
            number += 1
    except InputError:
        raise
    except UnknownFileTypeError as error:
        raise InputError(f"{path}: ASE does not know the format of this file ({reason_of(error)})") from error
    except Exception as error:
        raise InputError(
            f"{path}, frame {number} cannot be read: {reason_of(error)}; is the file truncated or of another format?"
        ) from error


def _any_other(path: Path, file_format: str) -> Iterator[ase.Atoms]:
    """Read a file by ASE, whose readers trust the numbers in it."""
    check_expansion(path)
    if file_format in ("db", "sqlite"):
        if path.suffix.lower() in COMPRESSED:
            raise InputError(f"{path} is a compressed database, which cannot be searched; decompress it first")
        check_database(path)
    frames = ase.io.iread(str(path), ":", do_not_split_by_at_sign=True)
    for number in itertools.count():
        with bounded_memory(path.stat().st_size, f"{path}, frame {number}"):
            atoms = next(frames, None)
        if atoms is None:
            return
        yield atoms


def _extended_xyz(path: Path) -> Iterator[ase.Atoms]:
    """Read extended XYZ one frame at a time, where ASE would index the whole file and stop at the first blank line."""
    with Text(path) as file:
        header = _next_line(file)
        for number in itertools.count():
            if not header:
                return
            lines = frame_lines(file, header, f"{path}, frame {number}")
            if re.match(r"gdb\s+\d+\s", lines[1]):
                raise InputError(
                    f"{path} is a raw file of QM9, which is no extended XYZ; train on such files by data=qm9"
                )
            header = _next_line(file)
            while (
                header.lstrip().startswith("VEC") and len(lines) < int(lines[0]) + 5
            ):  # lattice vectors after the atoms
                lines.append(header)
                header = _next_line(file)
            yield from _parse(lines, f"{path}, frame {number}")


def _parse(lines: list[str], source: str) -> Iterator[ase.Atoms]:
    """Yield the structure of a frame, with a stress or virial that are no 9 numbers, at which ASE stops, as they are written.

    Raises:
        InputError: an atom is called what no element is called.
    """
    try:
        yield from list(ase.io.iread(StringIO("".join(lines)), ":", "extxyz"))
        return
    except KeyError as error:  # of ASE, which writes symbols with a capital
        name = str(error.args[0])
        for index, line in enumerate(lines[2:]):
            if name.lower() in line.lower().split():
                raise InputError(
                    f"{source}: atom {index} is called {printable(name)!r}, which is no symbol of an element; write symbols "
                    "such as H and Cl, hydrogen for its isotopes too"
                ) from None
        raise
    except ValueError as error:
        if "special 3x3 matrix" not in str(error):
            raise
    lines = [lines[0], _MATRIX.sub(r"\1_as_written", lines[1]), *lines[2:]]
    for atoms in ase.io.iread(StringIO("".join(lines)), ":", "extxyz"):
        for key in [key for key in atoms.info if key.endswith("_as_written")]:
            atoms.info[key.removesuffix("_as_written")] = atoms.info.pop(key)
        yield atoms


def _next_line(file: Text) -> str:
    """Return the next line that is not blank, "" at the end of the file."""
    line = file.readline()
    while line.isspace():
        line = file.readline()
    return line


def frame_lines(file: Text, header: str, source: str) -> list[str]:
    """Return the lines of the frame of extended XYZ that begins with ``header``.

    Raises:
        InputError: it is truncated, or announces what it does not have.
    """
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", header):
        raise InputError(
            f"{source} should begin with its number of atoms, but begins with {printable(header.strip(), 60)!r}"
        )
    num_atoms = int(header)
    file.announced(num_atoms, source)
    lines = [header, file.readline()]
    columns = sum(min(int(width), MAX_COLUMNS) for width in _WIDTHS.findall(lines[1]))
    if columns >= MAX_COLUMNS:  # ASE makes room for them before it looks
        raise InputError(f"{source} announces {MAX_COLUMNS} columns or more in Properties=; is the file damaged?")
    while len(lines) < num_atoms + 2 and lines[-1]:
        lines.append(file.readline())
    if not lines[-1]:
        present = max(len(lines) - 3, 0)
        raise InputError(f"{source} is truncated: the file ends after {present} of its {num_atoms} atoms")
    widths = {len(line.rstrip()) for line in lines[2:-1]}
    if not lines[-1].endswith("\n") and len(widths) == 1 and len(lines[-1]) < min(widths):
        raise InputError(f"{source} is truncated: the file ends inside its last line, {printable(lines[-1])!r}")
    return lines


MAX_COLUMNS = 10_000
_MATRIX = re.compile(r"(?<!\S)(stress|virial)(?==)")
_WIDTHS = re.compile(r":[RISL]:([0-9]{1,18})")

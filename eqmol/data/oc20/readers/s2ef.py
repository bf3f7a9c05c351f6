"""S2EF as it is published: ``k.extxyz.xz`` with ``k.txt`` beside it."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from eqmol.data.oc20.frame import Frame, Reading, check
from eqmol.errors import InputError, printable, reason_of
from eqmol.files import Text, read_lines


def labels_of(path: Path) -> Path | None:
    """Return the .txt (or .txt.xz) that belongs to an extended XYZ file, or None."""
    stem = path.name.removesuffix(".xz").removesuffix(".extxyz")
    return next(
        (path.with_name(stem + end) for end in (".txt", ".txt.xz") if path.with_name(stem + end).is_file()), None
    )


def read_s2ef(path: Path, start: int, stop: int | None, how: Reading) -> Iterator[tuple[Frame, str]]:
    """Read an extended XYZ file together with its list of "system,frame,reference energy"."""
    labels = labels_of(path)
    if labels is None:
        raise InputError(
            f"{path}: there is no {path.name.split('.')[0]}.txt beside it, which holds the reference energies"
        )
    place = "before its first frame"
    try:
        for number, found in enumerate(_read(path, labels)):
            yield found
            place = f"after frame {number}"
    except InputError:
        raise
    except Exception as error:  # compressed bytes of any content
        raise InputError(f"{path} cannot be read {place}: {reason_of(error)}; is it truncated?") from error


def _read(path: Path, labels: Path) -> Iterator[tuple[Frame, str]]:
    lines = [line.strip() for line in read_lines(labels) if line.strip()]
    with Text(path) as file:
        number = 0
        while header := file.readline():
            if header.isspace():
                continue
            source = f"{path}, frame {number}"
            if number >= len(lines):
                raise InputError(
                    f"{path} has more frames than the {len(lines)} lines of {labels}; they do not belong together"
                )
            frame = _s2ef_frame(header, file, *_ids(lines[number], f"{labels}, line {number + 1}"), source)
            yield check(frame, source), source
            number += 1
    if number < len(lines):
        raise InputError(
            f"{path} has {number} frames for the {len(lines)} lines of {labels}; they do not belong together, or the "
            "first is truncated"
        )


def _ids(line: str, place: str) -> tuple[str, int, float]:
    """Return system, frame number and reference energy of a line."""
    parts = line.split(",")
    try:
        number, reference = int(parts[1].removeprefix("frame")), float(parts[2])
    except (IndexError, ValueError):
        reference, number = math.nan, 0
    if not math.isfinite(reference):
        raise InputError(
            f"{place}: {printable(line)!r} should be system,frame,reference energy in eV, as random123,frame45,-301.2"
        )
    return parts[0], number, reference


def _s2ef_frame(header: str, file: Text, system: str, number: int, reference: float, source: str) -> Frame:
    """Parse one frame, several times faster than ASE does."""
    comment = file.readline()
    values: dict[str, str] = {key: quoted or bare for key, quoted, bare in _PAIRS.findall(comment)}
    properties = values.get("Properties", "").split(":")
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", header) or len(properties) % 3 != 0:
        raise InputError(f"{source} does not begin with a number of atoms and a line with Properties=")
    count = int(header)
    file.announced(count, source)
    lines = [file.readline() for _ in range(count)]
    if count > 0 and not lines[-1].endswith("\n"):
        raise InputError(f"{source} is truncated: the file ends within its {count} atoms")
    if not all(re.fullmatch("[1-9][0-9]?", width) for width in properties[2::3]):
        raise InputError(f"{source}: Properties={printable(values['Properties'])} is not understood")
    widths = list(map(int, properties[2::3]))
    table = [line.split() for line in lines]
    if any(len(row) != sum(widths) for row in table):
        raise InputError(
            f"{source}: not every atom has the {sum(widths)} columns of Properties={printable(values['Properties'])}"
        )
    columns, begin = {}, 0
    for name, width in zip(properties[::3], widths, strict=True):
        columns[name] = [row[begin : begin + width] for row in table]
        begin += width
    for name in ("species", "pos", "move_mask", "tags", "forces"):
        if name not in columns:
            raise InputError(f"{source} has no {name}: Properties={values['Properties']}")
    for name in ("energy", "Lattice"):
        if name not in values:
            raise InputError(f"{source} has no {name}")
    try:
        return Frame(
            system=system,
            number=number,
            numbers=np.array([atomic_numbers[symbol] for (symbol,) in columns["species"]], np.uint8),
            positions=np.array(columns["pos"], np.float64),
            cell=np.array(values["Lattice"].split(), np.float64).reshape(3, 3),
            pbc=np.array([flag in ("T", "1") for flag in values.get("pbc", "T T T").split()]),
            tags=np.array(columns["tags"], np.int8)[:, 0],
            fixed=np.array([mask[0] not in ("T", "1") for mask in columns["move_mask"]], bool),
            energy=float(values["energy"]),
            reference=reference,
            forces=np.array(columns["forces"], np.float64),
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise InputError(f"{source} cannot be read: {reason_of(error)}") from error


_PAIRS = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|(\S+))')

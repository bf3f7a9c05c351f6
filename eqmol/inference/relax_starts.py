"""Where relaxations start, and what they should end in: structures of any file, with relaxed references where there are some.

A reference stands beside its structure as ``pos_relaxed`` [N, 3] (Å) in arrays and ``y_relaxed`` (eV) in info, the names of the
Open Catalyst Project.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import ase
import numpy as np
from ase.constraints import FixAtoms

from eqmol.data.xyz.reader import read_frames
from eqmol.errors import InputError, short
from eqmol.graph.keys import ENERGY
from eqmol.inference.oc20_server import frames_of
from eqmol.inference.relax import Start
from eqmol.inference.structures import Frame

POSITIONS, RELAXED_ENERGY = "pos_relaxed", "y_relaxed"
#: Files of OC20 that ASE does not read, or not with their fixed atoms.
OC20_ONLY = (".lmdb", ".aselmdb", ".pt")


def read_starts(paths: Sequence[Path], first: bool = False, group: str | None = None) -> Iterator[Start]:
    """Yield the structures of files one after the other.

    Args:
        paths: of any format that ASE reads, or of OC20.
        first: each file is a relaxation: yield its first structure alone, with the last one as its reference.
        group: key in info that every structure needs.

    Raises:
        InputError: see :func:`eqmol.data.xyz.reader.read_frames` and :func:`eqmol.inference.oc20_server.frames_of`; with
            ``first``, structures of one file that differ in their atoms; a structure without the key.
    """
    for path in paths:
        starts: Iterator[Frame] = _of_oc20(path) if path.suffix in OC20_ONLY else read_frames(path, unusable=_leave_out)
        for atoms, _, source in [_first_and_last(starts)] if first else starts:
            if group is not None and group not in atoms.info:
                raise InputError(f"{source} has no {group!r} to group by; it has {short(sorted(atoms.info))}")
            yield atoms, source


def _leave_out(label: str, reason: str) -> None:
    """Read structures without labels that cannot be used."""


def _first_and_last(frames: Iterator[Frame]) -> Frame:
    """Return the first frame with the last one as its reference."""
    first = last = next(frames)
    for last in frames:
        if not np.array_equal(first[0].numbers, last[0].numbers):
            raise InputError(
                f"{last[2]} has other atoms than {first[2]}; give files of one relaxation each, or all structures"
            )
    first[0].arrays[POSITIONS] = last[0].positions.copy()
    if ENERGY in last[1]:
        first[0].info[RELAXED_ENERGY] = last[1][ENERGY]
    return first


def _of_oc20(path: Path) -> Iterator[Frame]:
    """Yield the frames of a file of OC20 with fixed atoms and names, and the references of initial structures."""
    for frame, source in frames_of(path):
        atoms = ase.Atoms(
            frame.numbers,
            frame.positions,
            cell=frame.cell,
            pbc=frame.pbc,
            tags=frame.tags,
            constraint=FixAtoms(mask=frame.fixed),
            info={"system": frame.system, "frame": frame.number},
        )
        known = math.isfinite(frame.energy)
        if frame.relaxed is not None:
            atoms.arrays[POSITIONS] = frame.relaxed
            atoms.info |= {RELAXED_ENERGY: frame.energy} if known else {}
        yield atoms, {ENERGY: frame.energy} if known else {}, source

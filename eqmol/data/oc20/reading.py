"""What all readers share: what they are told, and what they give."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqmol.data.oc20.frames import Frame
from eqmol.errors import InputError


@dataclass(frozen=True)
class Reading:
    """How to read what the files leave open.

    Args:
        infer_tags: infer tags that are all 0 or missing, see :func:`eqmol.data.oc20.frames.infer_tags`.
        tags: file name -> [N] tags given apart from the file.
        total: energies of LMDBs of pickles are totals and not, as OC20's scripts write them, adsorption energies.
        labels: refuse frames without energy or forces; otherwise, as in OC20's test sets, the energy of such a frame is NaN
            and its forces are None.
    """

    infer_tags: bool = False
    tags: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    total: bool = False
    labels: bool = True


#: (path, first entry, entry after the last, how) -> frames with their places in messages
Reader = Callable[[Path, int, int | None, Reading], Iterator[tuple[Frame, str]]]


def system_name(identifier: Any) -> str:
    """Return OC20's name of a system: its numbers stand for random<number>."""
    return f"random{int(identifier)}" if not isinstance(identifier, str) else identifier


def read_tags(path: Path) -> dict[str, NDArray[np.int8]]:
    """Return file name -> tags [N] from a JSON of natoms, adsorbate_indices and fixed_indices per file."""
    try:
        tags = {}
        for name, entry in json.loads(path.read_text()).items():
            tags[name] = np.ones(entry["natoms"], np.int8)
            tags[name][entry["fixed_indices"]] = 0
            tags[name][entry["adsorbate_indices"]] = 2
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{path} does not hold natoms, adsorbate_indices and fixed_indices per file: {error}"
        ) from error
    return tags

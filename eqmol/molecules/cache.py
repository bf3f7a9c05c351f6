"""Conformers that were found before, in ``$EQMOL_CACHE/conformers`` or ``~/.cache/eqmol/conformers``.

One small file for each molecule, named by the sha256 of all that its conformer depends on; any may be deleted at any time.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqmol.errors import InputError
from eqmol.files import cache_folder, replacing

FORMAT = 1
#: Positions [N, 3], or None for a molecule for which there is no conformer.
Positions = NDArray[np.float64] | None


def folder() -> Path:
    """Where the files lie."""
    return cache_folder() / "conformers"


class ConformerCache:
    """Positions by all that they depend on, in memory and on disk.

    Args:
        folder: of the files; None for memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known: dict[str, Positions] = {}
        self.made = 0  #: conformers that had to be computed

    def get(self, settings: Sequence[Any], shape: tuple[int, int], make: Callable[[], Positions]) -> Positions:
        """Return what is known for the settings, or make it and remember it.

        Args:
            settings: plain values.
            shape: of the positions; others are of a damaged file and made anew.
            make: called where nothing is known.
        """
        key = hashlib.sha256(json.dumps([FORMAT, *settings]).encode()).hexdigest()
        if key not in self.known:
            found, positions = self._read(key, shape)
            if not found:
                positions = make()
                self.made += 1
                self._write(key, positions)
            self.known[key] = positions
        return self.known[key]

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key[2:]}.json"

    def _read(self, key: str, shape: tuple[int, int]) -> tuple[bool, Positions]:
        """Return whether there is a sound file, and what it says."""
        if self.folder is None:
            return False, None
        try:
            content = json.loads(self._path(key).read_text(encoding="utf-8"))["positions"]
            positions = None if content is None else np.array(content, dtype=np.float64)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return False, None
        if positions is not None and (positions.shape != shape or not np.isfinite(positions).all()):
            return False, None
        return True, positions

    def _write(self, key: str, positions: Positions) -> None:
        """Write a file; where that is impossible, warn once and go on."""
        if self.folder is None:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                json.dump({"positions": None if positions is None else positions.tolist()}, file)
        except (OSError, InputError) as error:
            self.folder = None
            warnings.warn(f"conformers are not remembered: {error}", stacklevel=2)

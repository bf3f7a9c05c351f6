"""What came out of relaxations, read from the file that they were written to."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from eqmol.data.xyz.reader import read_frames


@dataclass
class Outcomes:
    """How relaxations ended.

    Args:
        number: of structures.
        steps: of each that is relaxed.
        unfinished: number of those that ran out of steps.
        problems: of each that could not be computed, with its source.
    """

    number: int = 0
    steps: list[int] = field(default_factory=list)
    unfinished: int = 0
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the output of :func:`eqmol.inference.relax_files.relax_files`."""
        outcomes = cls()
        for atoms, _, _ in read_frames(path):
            outcomes.number += 1
            if "eqmol_problem" in atoms.info:
                outcomes.problems.append(str(atoms.info["eqmol_problem"]))
            elif atoms.info["eqmol_converged"]:
                outcomes.steps.append(int(atoms.info["eqmol_steps"]))
            else:
                outcomes.unfinished += 1
        return outcomes

    def words(self) -> str:
        """Return them as a sentence."""
        words = f"{len(self.steps)} of {self.number} structures are relaxed"
        if self.steps:
            words += f" after {int(np.median(self.steps))} steps (median; {min(self.steps)} to {max(self.steps)})"
        if self.unfinished:
            words += f", {self.unfinished} ran out of steps"
        return words + (f", {len(self.problems)} could not be computed" if self.problems else "")

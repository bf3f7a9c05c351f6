"""Old structures that a model goes on learning while it is trained on others, so that it does not forget them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from eqmol.data.options import wrong
from eqmol.graph import AtomGraph

#: Name of the set of old structures that are kept apart to judge by; part of the old ones, and most.
REPLAY, HELD, MOST = "replay", 0.1, 200


@dataclass(frozen=True)
class Replay:
    """What is trained on again.

    Args:
        file: one or several with old structures and labels of the level of theory that is trained on.
        share: of the structures of each epoch, as far as there are so many; 0: they judge alone.
        growth: by how much more, relative, errors on them may become in the run.

    Raises:
        InputError: options that cannot be.
    """

    file: Any
    share: float = 0.25
    growth: float = 0.25

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 <= self.share < 1:
            raise wrong("replay.share", self.share, "a number from 0 to below 1")
        if isinstance(self.growth, bool) or not isinstance(self.growth, int | float) or not 0 <= self.growth < 1e6:
            raise wrong("replay.growth", self.growth, "a number of at least 0")

    @classmethod
    def read(cls, settings: Any) -> Self | None:
        """Return what an option says: null, or ``{file: OLD.xyz, share: 0.25, growth: 0.25}``."""
        if settings is None:
            return None
        known = {"file", "share", "growth"}
        if not isinstance(settings, Mapping) or not settings.keys() <= known or not settings.get("file"):
            raise wrong("replay", settings, "like {file: OLD.xyz, share: 0.25, growth: 0.25}")
        return cls(**settings)

    def divide(self, old: list[AtomGraph], new: int, seed: int) -> tuple[list[AtomGraph], list[AtomGraph], int]:
        """Return the old structures that judge, those to train on, and how many of these an epoch has beside ``new`` others."""
        order = np.random.default_rng(seed).permutation(len(old))
        held = set(order[: min(MOST, max(1, round(HELD * len(old))))].tolist())
        if self.share == 0:
            return [old[i] for i in sorted(held)], [], 0
        kept = [graph for i, graph in enumerate(old) if i not in held]
        return [old[i] for i in sorted(held)], kept, share_number(self.share, new, len(kept))


def share_number(share: Any, new: int, old: int) -> int:
    """Return how many of ``old`` structures have a share of an epoch with ``new`` others, as far as there are so many.

    Raises:
        InputError: no share between 0 and 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise wrong("share", share, "a number between 0 and 1")
    return min(max(1, round(new * share / (1 - share))), old)

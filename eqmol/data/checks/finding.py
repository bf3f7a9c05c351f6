"""What a check of data says."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eqmol.graph import AtomGraph

#: Structures of each set by its name; the training set, if there is one, is called :data:`TRAIN`.
Sets = Mapping[str, Sequence[AtomGraph]]
TRAIN = "train"
#: Frames that are named.
NAMED = 5


class Finding(NamedTuple):
    """One thing that a person should know about data.

    Attributes:
        check: which check found it: "leakage", "forces".
        words: one sentence: what was found, where, and what to do.
        culprit: whether a model should not be trained on, or judged by, such data; otherwise it is worth knowing.
        frames: how many frames it is about; 0 where it is about none in particular.
        sources: some of them.
    """

    check: str
    words: str
    culprit: bool
    frames: int = 0
    sources: tuple[str, ...] = ()


def about(check: str, words: str, graphs: Sequence[AtomGraph], culprit: bool = True) -> Finding:
    """Return a finding about some frames."""
    return Finding(check, words, culprit, len(graphs), tuple(graph.source for graph in graphs[:NAMED]))


def share(number: int, total: int, set_name: str) -> str:
    """Return "3 of the 50 frames of 'train'"."""
    frames = f"{total} frames" if total != 1 else "only frame"
    return f"{number} of the {frames} of '{set_name}'"

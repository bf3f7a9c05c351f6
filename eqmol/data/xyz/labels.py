"""Which labels the frames of files have, and what is said about those that they lack."""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ase
import torch
from rich.table import Table

from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.dispersion import Dispersion
from eqmol.graph.keys import ENERGY, FORCES, LABELS, STRESS

#: Files that have rows of their own in the table of labels.
FEW = 8
#: What the names of labels have in common.
WORDS = {ENERGY: ("energy",), FORCES: ("force",), STRESS: ("stress", "virial")}


class LabelSummary:
    """Counts where the labels of the frames read so far were found."""

    def __init__(self) -> None:
        self.total: dict[str, int] = defaultdict(int)
        self.found: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
        self.keys: dict[str, Sequence[str]] = {}
        self.similar: dict[tuple[str, str], str] = {}

    def add(self, path: str, places: Mapping[str, str], keys: Sequence[str]) -> None:
        """Count one frame.

        Args:
            path: of the file.
            places: label -> where it was found.
            keys: of all that the frame carries.
        """
        self.total[path] += 1
        self.keys.setdefault(path, keys)
        for label, place in places.items():
            self.found[path][label, place] += 1
        for label in LABELS:
            if label not in places and (path, label) not in self.similar and (key := _similar(label, keys)):
                self.similar[path, label] = key

    def table(self) -> Table:
        """Return the counts as a table: file, label, where found, frames with it of all frames.

        Of more than ``FEW`` files those that have the same labels, in all of their frames or not, share their rows.
        """
        table = Table("file", "label", "found in", "frames", title="labels")
        table.columns[0].overflow = "fold"
        groups: dict[Any, list[str]] = defaultdict(list)
        for path, total in self.total.items():
            alike = frozenset((place, number == total) for place, number in self.found[path].items())
            groups[alike if len(self.total) > FEW else path].append(path)
        for paths in groups.values():
            name = f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"
            counts: dict[tuple[str, str], int] = defaultdict(int)
            for path in paths:
                for place, number in self.found[path].items():
                    counts[place] += number
            for (label, where), number in (counts or {("none", ""): 0}).items():
                table.add_row(name, label, where, f"{number}/{sum(self.total[path] for path in paths)}")
        return table

    def notes(self, keys: Mapping[str, str]) -> list[str]:
        """Return a sentence for each file without a label of whose name it has something, given label -> key."""
        return [sentence for _, sentence in self.unread(keys)]

    def unread(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the labels of :meth:`notes` and its sentences."""
        found = []
        for (path, label), key in self.similar.items():
            if not any(name == label for name, _ in self.found[path]):
                option = "virial_key" if "virial" in key.lower() else f"{label}_key"
                sentence = (
                    f"{path}: no frame has the {label} under the key '{keys[label]}', though there is '{key}'; rename it, or set "
                    f"data.{option}={key}, if it is meant"
                )
                found.append((label, sentence))
        return found


def missing_label(label: str, key: str, available: Sequence[str], source: str, option: str = "") -> InputError:
    """Return the error for frames without a label that is needed.

    Args:
        label: what is needed.
        key: where it was looked for.
        option: of the data, which gives the key; "" for that of the label.
        available: keys that one of the frames has.
        source: which frame or file.
    """
    if label == STRESS and key in available:
        return InputError(
            f"{source}: a stress is defined for structures that are periodic in three directions, as none is here; set "
            "pbc, or task.targets.stress.weight=0"
        )
    similar = difflib.get_close_matches(key, available, n=1)
    hint = f"; did you mean '{similar[0]}'?" if similar else ""
    virials = [name for name in available if "virial" in name.lower()]
    if label == STRESS and virials and not option:
        hint = f"; a virial in eV is converted by data.virial_key={virials[0]}"
    return InputError(
        f"{source}: no {label} under the key '{key}', which training with a non-zero weight for {label} needs: "
        f"set data.{option or f'{label}_key'} to one of the keys there ({', '.join(available) or 'none'}), or "
        f"task.targets.{label}.weight=0{hint}"
    )


def without(dispersion: Dispersion, atoms: ase.Atoms, labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return energy (eV), forces (eV/Å) and stress (eV/Å³), those there are, less their dispersion."""
    found = dispersion(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    less = {ENERGY: found.energies.sum(), FORCES: found.forces}
    if atoms.pbc.all():
        less[STRESS] = found.strain / atoms.get_volume()
    return {name: value - less[name] if name in less else value for name, value in labels.items()}


def has(graph: AtomGraph, field: str) -> bool:
    """Return whether a graph has a label."""
    return field in graph and bool(graph[field].isfinite().any())


def complete(graphs: Sequence[AtomGraph]) -> None:
    """Give every graph the labels that any of them has, NaN: a batch is made of graphs with the same fields."""
    for label in LABELS:
        if any(label in graph for graph in graphs):
            for graph in graphs:
                if label not in graph:
                    shape = {ENERGY: (1,), FORCES: (graph.num_nodes, 3), STRESS: (1, 3, 3)}[label]
                    graph[label] = torch.full(shape, torch.nan, dtype=torch.float64)


def _similar(label: str, keys: Iterable[str]) -> str:
    """Return a key that sounds like a label, "" where there is none."""
    named = (key for key in keys if not key.startswith("eqmol_") and "init" not in key.lower())  # of initial structures
    return next((key for key in named if any(word in key.lower() for word in WORDS[label])), "")

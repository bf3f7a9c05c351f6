"""Structures and labels of all sets, with everything that could not be read as findings and not as the end."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import torch

from eqmol.data.atomic_energies import is_isolated
from eqmol.data.checks.finding import NAMED, TRAIN, Finding
from eqmol.data.oc20.frame import Reading
from eqmol.data.oc20.readers.find import reader
from eqmol.data.qm9.reader import Molecules, is_raw, read_sdf, read_xyz
from eqmol.data.qm9.targets import TARGETS
from eqmol.data.xyz.labels import LabelSummary, complete, has
from eqmol.data.xyz.reader import Labels, read_frames
from eqmol.data.xyz.stress import Convention, check
from eqmol.errors import InputError
from eqmol.files import check_file, ending
from eqmol.graph import AtomGraph, edge_vectors, from_atoms
from eqmol.graph.electronic import TrainingStates
from eqmol.graph.keys import ENERGY, FORCES, LABELS, STRESS

#: Å, within which neighbours are looked for.
REACH = 5.0
#: Files of OC20 that ASE does not read.
OC20_ONLY = (".pt", ".lmdb", ".aselmdb")


@dataclass
class Set:
    """One set of structures.

    Attributes:
        graphs: without isolated atoms; each atom keeps the edge to its nearest neighbour within :data:`REACH` alone.
        isolated: isolated atoms.
        labels: where labels were found.
        findings: what could not be used.
    """

    graphs: list[AtomGraph] = field(default_factory=list)
    isolated: list[AtomGraph] = field(default_factory=list)
    labels: LabelSummary = field(default_factory=LabelSummary)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Keys:
    """Under which names files have their labels."""

    energy: str = ENERGY
    forces: str = FORCES
    stress: Convention = field(default_factory=lambda: Convention(STRESS))

    def names(self) -> dict[str, str]:
        """Label -> key."""
        return {ENERGY: self.energy, FORCES: self.forces, STRESS: self.stress.key}


def read_sets(files: Mapping[str, Sequence[Path]], keys: Keys) -> dict[str, Set]:
    """Read all sets.

    Args:
        files: of each set by its name.
        keys: of the labels.

    Raises:
        InputError: a file that cannot be read to its end.
    """
    for path in (path for paths in files.values() for path in paths):
        if path.suffix not in OC20_ONLY:
            check_file(path)
    return {name: _read_set(name, paths, keys) for name, paths in files.items()}


def of_graphs(graphs: Sequence[AtomGraph]) -> Set:
    """The set of structures that a data set of another kind has read."""
    thinned = [_thinned(graph) for graph in graphs]
    alone = [is_isolated(graph) for graph in thinned]
    pairs = list(zip(thinned, alone, strict=True))
    return Set([graph for graph, is_alone in pairs if not is_alone], [graph for graph, is_alone in pairs if is_alone])


def _read_set(name: str, paths: Sequence[Path], keys: Keys) -> Set:
    part, states = Set(), TrainingStates("warn")
    unusable: dict[str, list[str]] = defaultdict(list)
    by_file: dict[str, list[AtomGraph]] = defaultdict(list)

    def leave_out(label: str, reason: str) -> None:
        unusable[label].append(reason)

    for path, atoms, labels, source in _frames(paths, keys, part.labels, leave_out):
        if not atoms.pbc.all():
            labels.pop(STRESS, None)  # defined for three periodic directions only
        try:
            graph = _thinned(from_atoms(atoms, REACH, **labels, source=source))
            isolated = is_isolated(graph)
            states.add(atoms, source, isolated)
        except InputError as error:
            unusable["structure"].append(str(error))
            continue
        (part.isolated if isolated else by_file[str(path)]).append(graph)
    part.graphs = [graph for graphs in by_file.values() for graph in graphs]
    complete(part.graphs)
    total = sum(part.labels.total.values())
    for what, reasons in unusable.items():
        words = f"the {what} of {len(reasons)} of the {total} frames of '{name}' cannot be used (first: {reasons[0]})"
        part.findings.append(Finding("unusable", words, True, len(reasons), tuple(reasons[:NAMED])))
    part.findings += _labels(name, part, keys)
    part.findings += [Finding("stress", words, True) for words in check(by_file, keys.stress, "warn")]
    if part.graphs and None in states.state():
        part.findings.append(Finding("charge and spin", f"'{name}': {states.notes()[0]}", True, len(part.graphs)))
    return part


def _labels(name: str, part: Set, keys: Keys) -> list[Finding]:
    """Findings about labels that are under other keys, in some frames only, or nowhere."""
    found = [
        Finding("labels", words.replace("data.", "--").replace("_key", "-key"), label != STRESS)
        for label, words in part.labels.unread(keys.names())
    ]
    if not part.graphs:
        return found
    total = len(part.graphs)
    counts = {label: sum(has(graph, label) for graph in part.graphs) for label in LABELS}
    if not any(counts.values()) and not any(finding.culprit for finding in found):
        there = sorted({key for path in part.labels.keys.values() for key in path})
        words = f"no frame of '{name}' has energy, forces or stress; what there is: {', '.join(there) or 'nothing'}"
        found.append(Finding("labels", words, True, total))
    for label, count in counts.items():
        if 0 < count < total:
            found.append(
                Finding("labels", f"{count} of the {total} frames of '{name}' have {label}", False, total - count)
            )
    return found


def _thinned(graph: AtomGraph) -> AtomGraph:
    """The same structure with the shortest edge of each atom alone, which is all that the checks need."""
    lengths = torch.linalg.vector_norm(edge_vectors(graph), dim=1)
    order = torch.argsort(lengths, stable=True)
    receivers = graph.edge_index[1][order]
    order = order[torch.argsort(receivers, stable=True)]
    receivers = graph.edge_index[1][order]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = receivers[1:] != receivers[:-1]
    graph.edge_index, graph.shifts = graph.edge_index[:, order[first]], graph.shifts[order[first]]
    return graph


def _frames(
    paths: Sequence[Path], keys: Keys, summary: LabelSummary, leave_out: Any
) -> Iterator[tuple[Path, ase.Atoms, Labels, str]]:
    """Yield file, structure, labels and source of all frames, whatever kind of file has them."""
    for path in paths:
        if ending(path) == ".sdf":
            table = Path(f"{path}.csv")
            if not table.is_file():
                raise InputError(
                    f"{path} holds molecules without energies; QM9's .sdf needs its {table.name} beside it, other labels are "
                    "checked by the config.yaml of a run: eqmol doctor RUN/config.yaml"
                )
            frames = _molecules(read_sdf(path, table), path, summary)
        elif is_raw(path):
            frames = _molecules(read_xyz([path]), path, summary)
        elif path.suffix in OC20_ONLY:
            frames = _oc20(path, summary)
        else:
            frames = read_frames(path, keys.energy, keys.forces, keys.stress, summary, leave_out)
        for atoms, labels, source in frames:
            yield path, atoms, labels, source


def _molecules(molecules: Molecules, path: Path, summary: LabelSummary) -> Iterator[tuple[ase.Atoms, Labels, str]]:
    """Structures of QM9, whose total energy is U0."""
    energies = molecules.values[:, list(TARGETS).index("U0")]
    for index, (number, energy) in enumerate(zip(molecules.ids, energies, strict=True)):
        summary.add(str(path), {ENERGY: "U0"}, ["U0"])
        yield molecules.atoms(index), {ENERGY: float(energy)}, f"{path}, gdb_{number}"


def _oc20(path: Path, summary: LabelSummary) -> Iterator[tuple[ase.Atoms, Labels, str]]:
    """Frames of OC20's own files."""
    for frame, source in reader(path.name)(path, 0, None, Reading(infer_tags=True, labels=False)):
        found = {ENERGY: frame.energy, FORCES: frame.forces}
        labels = {label: value for label, value in found.items() if value is not None and value == value}
        summary.add(str(path), dict.fromkeys(labels, "OC20"), list(labels))
        yield ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc), labels, source


def training(sets: Mapping[str, Set]) -> list[str]:
    """Names of the sets that may train: the training set, or all where none is called so."""
    return [TRAIN] if TRAIN in sets else list(sets)

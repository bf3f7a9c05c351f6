"""All checks on all sets, and what a person and a program are told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from eqmol.data import checks
from eqmol.data.atomic_energies import FreeAtom, free_atoms
from eqmol.data.checks.finding import Finding
from eqmol.data.statistics import Statistics, elements_of, measure
from eqmol.data.xyz.labels import LabelSummary, has
from eqmol.doctor.sets import Set, training
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.keys import ENERGY


@dataclass(frozen=True)
class Diagnosis:
    """What was found in some sets.

    Attributes:
        sets: structures by the name of their set.
        statistics: of the sets that may train and have energies.
        findings: culprits first.
    """

    sets: Mapping[str, Set]
    statistics: Mapping[str, Statistics]
    findings: Sequence[Finding]

    @property
    def sound(self) -> bool:
        """Whether there is no culprit."""
        return not any(finding.culprit for finding in self.findings)

    def named(self) -> dict[str, Any]:
        """For a program: everything, as JSON takes it."""
        sets = {}
        for name, part in self.sets.items():
            labels = [
                {"file": path, "label": label, "found_in": place, "frames": number}
                for path, places in part.labels.found.items()
                for (label, place), number in places.items()
            ]
            sets[name] = {
                "frames": len(part.graphs),
                "isolated_atoms": len(part.isolated),
                "atoms": sum(graph.num_nodes for graph in part.graphs),
                "elements": [chemical_symbols[z] for z in elements_of(part.graphs)],
                "labels": labels,
            }
        energies = {
            name: {chemical_symbols[z]: energy for z, energy in zip(found.elements, found.e0, strict=True)}
            for name, found in self.statistics.items()
        }
        findings = [finding._asdict() for finding in self.findings]
        return {"sound": self.sound, "sets": sets, "e0": energies, "findings": findings}

    def show(self, console: Console) -> None:
        """For a person."""
        table = Table("set", "frames", "atoms", "elements", title="data")
        table.columns[0].overflow = "fold"
        for name, part in self.sets.items():
            symbols = " ".join(chemical_symbols[z] for z in elements_of(part.graphs))
            table.add_row(name, str(len(part.graphs)), str(sum(graph.num_nodes for graph in part.graphs)), symbols)
        console.print(table, markup=False)
        labels = LabelSummary()
        for part in self.sets.values():
            labels.total |= part.labels.total
            labels.found |= part.labels.found
        if labels.total:
            console.print(labels.table(), markup=False)
        tables = {tuple(statistics.e0): statistics.table() for statistics in self.statistics.values()}
        for table in tables.values():
            console.print(table, markup=False)
        for finding in self.findings:
            kind = "CULPRIT" if finding.culprit else "note"
            console.print(f"{kind:8} {finding.check}: {finding.words}", soft_wrap=True, highlight=False, markup=False)
        culprits = sum(finding.culprit for finding in self.findings)
        verdict = f"{culprits} culprit{'s' * (culprits > 1)}" if culprits else "sound: no culprit found"
        console.print(verdict, soft_wrap=True, highlight=False)


def diagnose(sets: Mapping[str, Set]) -> Diagnosis:
    """Run all checks."""
    findings = [finding for part in sets.values() for finding in part.findings]
    filled = {name: part for name, part in sets.items() if part.graphs}
    if not filled:
        findings.append(Finding("labels", f"{', '.join(sets)}: no structures beside isolated atoms", True))
    isolated = [atom for part in sets.values() for atom in part.isolated]
    known: dict[int, FreeAtom] = {}
    try:
        known = free_atoms(isolated)
    except InputError as error:
        findings.append(Finding("isolated atoms", str(error), True))
    statistics = {}
    for name in training(filled):
        labelled = [graph for graph in filled[name].graphs if has(graph, ENERGY)]
        if labelled:
            statistics[name] = measure(labelled, known, "warn")
            findings += _atomic_energies(name, statistics[name], labelled)
    findings += checks.check({name: part.graphs for name, part in filled.items()})
    return Diagnosis(sets, statistics, sorted(findings, key=lambda finding: not finding.culprit))


def _atomic_energies(name: str, statistics: Statistics, graphs: Sequence[AtomGraph]) -> list[Finding]:
    found = []
    if statistics.doubt is not None:
        found.append(Finding("E0", f"'{name}': {statistics.doubt}", True, len(graphs)))
    if statistics.rank_deficiency and len({graph.num_nodes for graph in graphs}) > 1:
        words = (
            f"'{name}': the compositions leave {statistics.rank_deficiency} combination(s) of atomic energies undetermined; give "
            "isolated atoms if other compositions or dissociation matter"
        )
        found.append(Finding("E0", words, False))
    return found

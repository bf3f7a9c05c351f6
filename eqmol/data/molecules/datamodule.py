"""Molecules of one's own with properties (``data=molecules``)."""

import csv
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from eqmol.data.datamodule import GraphSets
from eqmol.data.molecules.reader import Record, read_records
from eqmol.data.molecules.splits import KINDS, divide, leaks
from eqmol.data.options import (
    check_choices,
    check_fractions,
    check_integers,
    check_lists,
    check_names,
    optional_path,
)
from eqmol.data.split_files import SPLITS, read_split, write_split
from eqmol.data.targets import measure_targets, own_targets, target_tables, target_values
from eqmol.errors import InputError, printable
from eqmol.files import expand_paths, named_files, replacing
from eqmol.graph import AtomGraph, from_atoms
from eqmol.graph.keys import FEATURES
from eqmol.graph.targets import Target
from eqmol.molecules import cache
from eqmol.molecules.features import atom_features, expand, measure_features
from eqmol.molecules.molecule import UFF, Failure, Molecule

#: Kinds with one number for a molecule, as a cell holds it.
CELLS = ("intensive", "extensive", "dipole_norm", "extent")
#: Part of the rows that may fail without a warning; reasons on the screen.
UNUSUAL, SHOWN = 0.1, 8
#: Rows that are read for each structure to be kept, where only few are.
READ = 4


class MoleculeSets(GraphSets):
    """Molecules with one conformer each, split so that the same molecule is never in two sets.

    Args:
        file: tables with SMILES (.csv, .tsv) or .sdf, one or several, see :func:`eqmol.files.expand_paths`; molecules of an .sdf
            keep the coordinates in space that they have. Each file has all targets, whose cells may be empty.
        required: the targets.
        smiles_column: of a table, see :func:`eqmol.molecules.table.read_table`.
        targets: ``{logS: {kind: intensive, unit: log(mol/L), key: COLUMN}}``; intensive, without a unit, in the column of its
            name where it is not declared otherwise.
        split: "random" or "scaffold", see :func:`eqmol.data.molecules.splits.divide`.
        val_fraction, test_fraction: of the molecules.
        split_file: JSON with the rows of "train", "val" and "test", from 1, those of further files after those of the first;
            written where it is absent.
        failures_file: table of rows that are left out, with the reason.
        max_failures: part of the rows that may be.
        conformers, conformer_seed: see :func:`eqmol.molecules.molecule.from_smiles`.
        features: further inputs of the model, see :func:`eqmol.molecules.features.expand`.
        options: see :class:`eqmol.data.datamodule.GraphSets`.

    Raises:
        InputError: an option of a wrong kind, or a target that no cell can hold.
    """

    def __init__(
        self,
        *,
        file: str | Path | Sequence[str | Path] | None = None,
        required: Sequence[str] = (),
        smiles_column: str = "smiles",
        targets: Mapping[str, Any] | None = None,
        split: str = "random",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_file: str | None = None,
        failures_file: str | None = None,
        max_failures: float = 0.5,
        conformers: int = 10,
        conformer_seed: int = 0,
        features: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(required=required, **options)
        if file is None:
            raise InputError("data.file=null names no file; give a table with SMILES (.csv, .tsv) or an .sdf")
        named_files(file, "data.file")
        check_names(smiles_column=smiles_column)
        check_choices(KINDS, split=split)
        check_integers(1, conformers=conformers)
        check_integers(0, conformer_seed=conformer_seed)
        check_fractions(closed=True, val_fraction=val_fraction, test_fraction=test_fraction, max_failures=max_failures)
        if val_fraction == 0 or val_fraction + test_fraction >= 1:
            raise InputError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must leave molecules to train on, and "
                "the first must not be 0"
            )
        self.targets, self.keys = _targets({} if targets is None else targets, self.required)
        self.file, self.smiles_column = file, smiles_column
        self.split, self.val_fraction, self.test_fraction = split, float(val_fraction), float(test_fraction)
        self.split_file = optional_path("split_file", split_file)
        self.failures_file = optional_path("failures_file", failures_file)
        self.max_failures = max_failures
        self.conformers, self.conformer_seed = conformers, conformer_seed
        check_lists(features=features)
        self.features = expand(features)
        self.failures: list[tuple[int, Failure]] = []
        self._name = ""
        self._total = self._repeated = self._uff = 0
        self._elements: list[int] = []
        self._properties: dict[str, dict[str, Any]] = {}
        self._inputs: dict[str, dict[str, float]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the file, once; make what conformers are not known.

        Raises:
            InputError: see :func:`eqmol.data.molecules.reader.read_records`; also too many failures, or a split that does not
                fit or leaves nothing to train on.
        """
        if self._properties:
            return
        keys = [self.keys[target.name] for target in self.targets]
        conformers = cache.ConformerCache(cache.folder())
        paths = expand_paths(self.file, "data.file")
        self._name = f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"
        records: list[Record] = []
        for path in paths:
            settings = (self.smiles_column, self.conformers, self.conformer_seed, conformers)
            found = read_records(path, keys, *settings, limit=None if self.few is None else READ * self.few)
            records += [record._replace(number=len(records) + record.number) for record in found]
        self._total = len(records)
        molecules, graphs = self._graphs(records)
        parts = self._parts(molecules)
        graphs = self._known_elements(graphs, parts, molecules)
        self._report_failures()
        sets = {name: [graphs[number] for number in parts[name] if number in graphs] for name in SPLITS}
        if not sets["train"] or not sets["val"]:
            raise InputError(
                f"{self._name}: the split leaves no molecules to train or validate on; change data.split_file"
            )
        self.train_graphs, self.val_graphs = sets["train"], sets["val"]
        self.test_graphs = {"test": sets["test"]} if sets["test"] else {}
        kept = [molecules[number] for number in graphs]
        self._repeated = len(kept) - len({molecule.skeleton for molecule in kept})
        self._uff = sum(molecule.structure == UFF for molecule in kept)
        self._elements = torch.cat([graph.atomic_numbers for graph in self.train_graphs]).unique().tolist()
        self._properties = measure_targets(self.targets, self.train_graphs, self._elements)
        if self.features:
            inputs = [graph[FEATURES].numpy() for graph in self.train_graphs]
            self._inputs = measure_features(inputs, self.features)

    def statistics(self) -> dict[str, Any]:
        """Return "elements", "avg_num_neighbors", "properties" (see :mod:`eqmol.data.targets`) and, if there are any,
        "features" (see :func:`eqmol.molecules.features.measure_features`).
        """
        atoms, edges = self.sizes(self.train_graphs)
        assert edges is not None
        return {
            "elements": self._elements,
            "avg_num_neighbors": float(edges.sum() / atoms.sum()),
            "properties": self._properties,
            **({"features": self._inputs} if self.features else {}),
        }

    def label_keys(self) -> dict[str, str]:
        """Return target -> its column, or its name among the data of an .sdf."""
        return dict(self.keys)

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training: sets, failures, targets, atom references."""
        sets = Table("set", "molecules", *(f"with {target.name}" for target in self.targets), title="data")
        for name, graphs in self._sets().items():
            labelled = (str(int(np.isfinite(target_values(target, graphs)).sum())) for target in self.targets)
            sets.add_row(name, str(len(graphs)), *labelled)
        shown: list[RenderableType] = [sets]
        if self.failures:
            shown.append(self._failures_table())
        if self._repeated:
            shown.append(
                f"{self._repeated} rows repeat a molecule, up to stereochemistry and isotopes; they are in its split"
            )
        if self._uff:
            shown.append(f"{self._uff} conformers are minimised by UFF, as MMFF94s lacks parameters")
        values = {target.name: target_values(target, self.train_graphs) for target in self.targets}
        return [*shown, *target_tables(self.targets, values, self._properties, self._elements)]

    def _graphs(self, records: Sequence[Record]) -> tuple[dict[int, Molecule], dict[int, AtomGraph]]:
        """Return molecules and graphs by their number; note what fails."""
        molecules, graphs = {}, {}
        for number, entry, labels in records:
            if isinstance(entry, Failure):
                self.failures.append((number, entry))
                continue
            try:
                graphs[number] = self._graph(entry, labels)
                molecules[number] = entry
            except InputError as error:
                self.failures.append((number, Failure(entry.name, entry.source, str(error))))
        if len(self.failures) == len(records):
            _, first = self.failures[0]
            raise InputError(
                f"{self._name}: none of {len(records)} molecules can be used; {first.source}: {first.reason}"
            )
        return molecules, graphs

    def _graph(self, molecule: Molecule, labels: NDArray[np.float64]) -> AtomGraph:
        if not np.isfinite(labels).any():
            raise InputError(
                f"no value of {' or '.join(self.keys[target.name] for target in self.targets)} is known for it"
            )
        graph = from_atoms(molecule.atoms(), self.cutoff, source=molecule.source)
        for target, value in zip(self.targets, labels.tolist(), strict=True):
            graph[target.field] = torch.tensor([value], dtype=torch.float64)
        if self.features:
            graph[FEATURES] = torch.from_numpy(atom_features(molecule.mol, self.features))
        return graph

    def _parts(self, molecules: Mapping[int, Molecule]) -> dict[str, list[int]]:
        """Return the numbers of each split, as its file has them or drawn; the file is about all molecules."""
        if self.few is not None or self.split_file is None or not self.split_file.is_file():
            parts = divide(molecules, self.split, self.val_fraction, self.test_fraction, self.seed)
            if self.few is None and self.split_file is not None:
                write_split(self.split_file, parts)
            return parts
        given = read_split(self.split_file, range(1, self._total + 1))
        parts = {name: [number for number in part if number in molecules] for name, part in given.items()}
        if sentence := leaks(molecules, parts, self.split_file):
            warnings.warn(sentence, stacklevel=3)
        return parts

    def _known_elements(
        self,
        graphs: Mapping[int, AtomGraph],
        parts: Mapping[str, Sequence[int]],
        molecules: Mapping[int, Molecule],
    ) -> dict[int, AtomGraph]:
        """Return the graphs of all splits, without those with elements that the training set lacks."""
        train = [graphs[number].atomic_numbers for number in parts["train"]]
        known = torch.cat(train).unique() if train else torch.empty(0, dtype=torch.int64)
        kept = {}
        for number in sorted(number for part in parts.values() for number in part):
            unseen = graphs[number].atomic_numbers
            unseen = unseen[~torch.isin(unseen, known)].unique().tolist()
            if unseen:
                symbols = " and ".join(chemical_symbols[z] for z in unseen)
                reason = f"it has {symbols}, which no molecule of the training set has"
                self.failures.append((number, Failure(molecules[number].name, molecules[number].source, reason)))
            else:
                kept[number] = graphs[number]
        self.failures.sort(key=lambda pair: pair[0])
        return kept

    def _report_failures(self) -> None:
        """Write the table of failures; warn about many of them and stop at too many."""
        if self.failures_file is not None and self.failures:
            self.failures_file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.failures_file) as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(["row", "molecule", "reason", "source"])
                rows.writerows((number, f.name, f.reason, f.source) for number, f in self.failures)
        elif self.failures_file is not None:
            self.failures_file.unlink(missing_ok=True)  # of an earlier run
        part = len(self.failures) / self._total
        reason, count = Counter(failure.reason for _, failure in self.failures).most_common(1)[0] if part else ("", 0)
        words = f"{len(self.failures)} of {self._total} molecules of {self._name} cannot be used, {count} of them since {reason}"
        if part > self.max_failures:
            where = "" if self.failures_file is None else f" (all reasons: {self.failures_file})"
            raise InputError(f"{words}{where}; correct them, or raise data.max_failures={self.max_failures}")
        if part > UNUSUAL:
            warnings.warn(words, stacklevel=3)

    def _failures_table(self) -> Table:
        counts = Counter(failure.reason for _, failure in self.failures)
        where = "" if self.failures_file is None else f", all in {self.failures_file}"
        title = f"{len(self.failures)} of {self._total} molecules are left out{where}"
        shown = Table("molecules", "reason", "first of them", title=escape(title))
        for reason, count in counts.most_common(SHOWN):
            number, first = next(pair for pair in self.failures if pair[1].reason == reason)
            shown.add_row(str(count), printable(reason), printable(f"{number}: {first.name}", 60))
        if len(counts) > SHOWN:
            shown.add_row(str(sum(counts.values()) - sum(n for _, n in counts.most_common(SHOWN))), "others", "")
        return shown


def _targets(settings: Mapping[str, Any], required: Sequence[str]) -> tuple[tuple[Target, ...], dict[str, str]]:
    """Return the targets and their columns; what is not declared is intensive.

    Raises:
        InputError: a declaration that cannot be.
    """
    if isinstance(settings, Mapping):
        plain = {name: {"kind": "intensive"} for name in required}
        settings = plain | {
            name: {"kind": "intensive"} | dict(node) if isinstance(node, Mapping) else node
            for name, node in settings.items()
        }
    targets, keys = own_targets(settings, required)
    for target in targets:
        if target.kind not in CELLS:
            raise InputError(
                f"the target {target.name} is {target.kind}, but a cell holds one number for a molecule; choose from "
                f"{', '.join(CELLS)}, or data=xyz"
            )
    return targets, keys

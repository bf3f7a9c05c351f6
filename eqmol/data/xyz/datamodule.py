"""Your own files (``data=xyz``), of any kind that ASE reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.data import chemical_symbols
from rich.console import RenderableType
from rich.table import Table

from eqmol.data import duplicates
from eqmol.data.atomic_energies import free_atoms, is_isolated, known_energies
from eqmol.data.datamodule import SPLITS, GraphSets
from eqmol.data.statistics import elements_of, measure
from eqmol.data.targets import measure_targets, own_targets, references_table, target_values, targets_table
from eqmol.data.xyz.reader import LabelSummary, missing_label, read_frames, read_target
from eqmol.errors import InputError
from eqmol.graph import AtomGraph, from_atoms
from eqmol.graph.electronic import ElectronicState, TrainingStates
from eqmol.graph.keys import ENERGY, FORCES, LABELS, STRESS


class FileSets(GraphSets):
    """All sets of one run from files, with neighbour lists computed once and kept in memory.

    Args:
        train_file: any file that ASE reads. Isolated atoms in it give atomic energies and are not trained on.
        val_file: validation frames; or
        val_fraction: this part of the training frames, drawn by ``seed``. Exactly one of the two.
        test_files: name -> file.
        isolated_atoms_file: isolated atoms, if not in the training file.
        energy_key: name of the total energy in the files, eV.
        forces_key: name of the forces, eV/Å.
        stress_key: name of the stress, eV/Å³.
        targets: properties of one's own, by name: ``{kind: tensor, unit: a0³, key: alpha}``, see
            :mod:`eqmol.graph.targets`; ``key``, the name in the files, is the target's own if not given.
        electronic_state: ``stop`` refuses structures of different charge or spin, see :mod:`eqmol.graph.electronic`; ``warn``
            counts them.
        options: see :class:`GraphSets`. Of ``required``, energy and forces must be in every frame, stress in some frame
            that is periodic in three directions.

    Raises:
        InputError: options that contradict one another.
    """

    train_graphs: list[AtomGraph]
    val_graphs: list[AtomGraph]
    test_graphs: dict[str, list[AtomGraph]]

    def __init__(
        self,
        *,
        train_file: str | Path,
        val_file: str | Path | None = None,
        val_fraction: float | None = None,
        test_files: Mapping[str, str | Path] | None = None,
        isolated_atoms_file: str | Path | None = None,
        energy_key: str = "energy",
        forces_key: str = "forces",
        stress_key: str = "stress",
        targets: Mapping[str, Any] | None = None,
        electronic_state: str = "stop",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.targets, self.target_keys = own_targets(targets or {}, self.required)
        self.folder = Path()
        self.train_file = train_file
        self.val_file = val_file
        self.val_fraction = val_fraction
        self.test_files = test_files or {}
        self.isolated_atoms_file = isolated_atoms_file
        self.keys = {ENERGY: energy_key, FORCES: forces_key, STRESS: stress_key}
        self._check_options()
        self._labels = LabelSummary()
        self._states = TrainingStates(electronic_state)

    def setup(self, stage: str | None = None) -> None:
        """Read every file, once.

        Raises:
            InputError: see :mod:`eqmol.data.xyz.reader`; also a required label that is missing, an element that only
                validation or test frames have, or atomic energies that do not fit.
        """
        if self._statistics is not None:
            return
        frames = self.read(self.train_file)
        train = [graph for graph in frames if not is_isolated(graph)]
        isolated = [graph for graph in frames if is_isolated(graph)] + self._read_isolated_atoms()
        self.train_graphs, self.val_graphs = self._split(train)
        self.test_graphs = self.read_tests()
        self._check_elements()
        known = known_energies(self.e0, free_atoms(isolated), elements_of(self.train_graphs))
        trained = ENERGY in self.required and not self.targets
        self._statistics = measure(self.train_graphs, known, self.implausible if trained else "warn")
        self._properties = measure_targets(self.targets, self.train_graphs, self._statistics.elements)

    def statistics(self) -> dict[str, Any]:
        """Return those of all sets and, with targets of one's own, "properties", see :mod:`eqmol.data.targets`."""
        return super().statistics() | ({"properties": self._properties} if self.targets else {})

    def electronic_state(self) -> ElectronicState:
        """Return charge and spin of all structures, as the files state them."""
        return self._states.state()

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training: sets, labels and where they were found, atomic energies."""
        sets = Table("set", "frames", "atoms", "neighbours per atom", title="data")
        for name, graphs in self._sets().items():
            atoms = sum(graph.num_nodes for graph in graphs)
            edges = sum(graph.edge_index.shape[1] for graph in graphs)
            sets.add_row(name, str(len(graphs)), str(atoms), f"{edges / atoms:.2f}")
        statistics = self._measured()
        if not self.targets:
            return [
                sets,
                *([self._labels.table()] if self._labels.total else []),  # a reader of one's own counts none
                statistics.table(),
                statistics.notes(),
                *self._states.notes(),
                *duplicates.notes(self._sets()),
            ]
        values = {target.name: target_values(target, self.train_graphs) for target in self.targets}
        references = references_table(self._properties, statistics.elements)
        shown: list[RenderableType] = [sets, targets_table(self.targets, values)]
        return [
            *shown,
            *([] if references is None else [references]),
            *self._states.notes(),
            *duplicates.notes(self._sets()),
        ]

    def read(self, file: str | Path, required: Sequence[str] | None = None) -> list[AtomGraph]:
        """Read the frames of one file; all get the same labels, NaN where a frame has none.

        Args:
            file: relative to the folder of the data set.
            required: labels that must be there, instead of the data module's own.
        """
        required = self.required if required is None else required
        graphs: list[AtomGraph] = []
        path, keys = self.folder / file, self.keys
        for atoms, labels, source in read_frames(path, keys[ENERGY], keys[FORCES], keys[STRESS], self._labels):
            if not atoms.pbc.all():
                labels.pop(STRESS, None)  # defined for three periodic directions only
            graph = from_atoms(atoms, self.cutoff, **labels, source=source)
            self._add_targets(graph, atoms, source)
            self._states.add(atoms, source, is_isolated(graph))
            if FORCES not in graph and is_isolated(graph):
                graph.forces = torch.zeros(1, 3, dtype=torch.float64)  # by symmetry
            for label in (ENERGY, FORCES):
                if label in required and label not in graph:
                    raise missing_label(label, keys[label], atoms, source)
            graphs.append(graph)
        if STRESS in required and not any(STRESS in graph for graph in graphs):
            raise missing_label(STRESS, keys[STRESS], atoms, f"{path}, all frames")
        return _complete(graphs)

    def _add_targets(self, graph: AtomGraph, atoms: ase.Atoms, source: str) -> None:
        """Add the properties of a frame to its graph, NaN where it has none."""
        for target in self.targets:
            value, _ = read_target(atoms, target, self.target_keys[target.name], source)
            shape = ((len(atoms),) if target.is_atomic else (1,)) + target.components
            if value is None:
                graph[target.field] = torch.full(shape, torch.nan, dtype=torch.float64)
            else:
                graph[target.field] = torch.from_numpy(value.reshape(shape))

    def read_tests(self) -> dict[str, list[AtomGraph]]:
        """Return the test sets."""
        return {name: self.read(file) for name, file in self.test_files.items()}

    def _read_isolated_atoms(self) -> list[AtomGraph]:
        """Read the file of isolated atoms."""
        if self.isolated_atoms_file is None:
            return []
        graphs = self.read(self.isolated_atoms_file, required=(ENERGY,))
        for graph in graphs:
            if not is_isolated(graph):
                raise InputError(f"{graph.source}: {graph.num_nodes} atoms where an isolated atom should be")
        return graphs

    def _check_options(self) -> None:
        """Refuse options of a wrong kind and options that contradict one another."""
        if not self.train_file:
            raise InputError("data.train_file is missing; give a file with training structures")
        if (self.val_file is None) == (self.val_fraction is None):
            raise InputError("give either data.val_file or data.val_fraction, and not both")
        if self.val_fraction is not None and not (isinstance(self.val_fraction, float) and 0 < self.val_fraction < 1):
            raise InputError(f"data.val_fraction={self.val_fraction!r} must be a number between 0 and 1")
        if not isinstance(self.test_files, Mapping):
            raise InputError(f"data.test_files={self.test_files!r} must name its files, as in {{300K: test.xyz}}")
        for name in set(SPLITS) & set(self.test_files):
            raise InputError(f"data.test_files: '{name}' is the name of another split; give the test set another name")

    def _split(self, train: list[AtomGraph]) -> tuple[list[AtomGraph], list[AtomGraph]]:
        """Return training and validation frames, each in the order of its file."""
        if self.val_file is not None:
            train, val = train, self.read(self.val_file)
        else:
            assert self.val_fraction is not None
            num_val = max(1, round(self.val_fraction * len(train)))
            order = np.random.default_rng(self.seed).permutation(len(train))
            chosen = set(order[:num_val].tolist())
            val = [graph for i, graph in enumerate(train) if i in chosen]
            train = [graph for i, graph in enumerate(train) if i not in chosen]
        if not train:
            raise InputError(
                f"{self.folder / self.train_file} leaves nothing to train on: besides isolated atoms and validation "
                "frames it has no structures"
            )
        return train, val

    def _check_elements(self) -> None:
        """Refuse validation and test frames with elements that the training set lacks."""
        known = torch.cat([graph.atomic_numbers for graph in self.train_graphs]).unique()
        for name, graphs in self._sets().items():
            for graph in graphs:
                unseen = ~torch.isin(graph.atomic_numbers, known)
                if bool(unseen.any()):
                    atom = int(unseen.nonzero()[0])
                    symbol = chemical_symbols[int(graph.atomic_numbers[atom])]
                    raise InputError(
                        f"{graph.source}: atom {atom} is {symbol}, an element that the training set lacks (it has "
                        f"{', '.join(chemical_symbols[z] for z in known.tolist())}); add such structures to the "
                        f"training set or remove the frame from the set '{name}'"
                    )


def _complete(graphs: list[AtomGraph]) -> list[AtomGraph]:
    """Give every graph the labels that any of them has: a batch is made of graphs with the same fields."""
    for label in LABELS:
        if any(label in graph for graph in graphs):
            for graph in graphs:
                if label not in graph:
                    shape = {ENERGY: (1,), FORCES: (graph.num_nodes, 3), STRESS: (1, 3, 3)}[label]
                    graph[label] = torch.full(shape, torch.nan, dtype=torch.float64)
    return graphs

"""Training, validation and test sets from files of any kind that ASE reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import lightning.pytorch as pl
import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table
from torch.utils.data import DataLoader

from eqmol.data import duplicates
from eqmol.data.loader import CompleteLoader, Limits, ResumableLoader, fill
from eqmol.data.reader import LabelSummary, missing_label, read_frames, read_target
from eqmol.data.statistics import Statistics, free_atoms, is_isolated, measure
from eqmol.data.targets import measure_targets, own_targets, references_table, target_values, targets_table
from eqmol.errors import InputError
from eqmol.graph import AtomGraph, collate, from_atoms
from eqmol.graph.contacts import shortest_distances
from eqmol.graph.electronic import DEFAULT, ElectronicState, TrainingStates
from eqmol.graph.keys import ENERGY, FORCES, LABELS, STRESS

#: Training structures that an untrained model is measured on, and atoms that are enough from a fourth of them on.
SAMPLE, SAMPLE_ATOMS = 32, 500
#: Names of splits, which no test set may take.
SPLITS = ("train", "val")


class GraphSets(pl.LightningDataModule):
    """Training, validation and test sets, their batches and their statistics; subclasses fill them in :meth:`setup`.

    Args:
        cutoff: of the neighbour lists, Å.
        batch_size: most structures per batch.
        batch_atoms: most atoms per batch, or None.
        batch_edges: most edges per batch, or None.
        num_workers: processes that make batches; 0 for none.
        seed: of the split and of the order of the batches.
        required: labels ("energy", "forces", "stress") that the loss needs.

    Raises:
        InputError: an option of a wrong kind.
    """

    train_graphs: Sequence[AtomGraph]
    val_graphs: Sequence[AtomGraph]
    test_graphs: dict[str, Any]

    def __init__(
        self,
        *,
        cutoff: float,
        batch_size: int = 5,
        batch_atoms: int | None = None,
        batch_edges: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        required: Sequence[str] = (ENERGY, FORCES),
    ) -> None:
        super().__init__()
        if not isinstance(cutoff, int | float) or not cutoff > 0:
            raise InputError(f"the cutoff {cutoff!r} must be a positive number of Å")
        check_integers(1, batch_size=batch_size)
        check_integers(0, num_workers=num_workers, seed=seed)
        for name, limit in (("batch_atoms", batch_atoms), ("batch_edges", batch_edges)):
            if limit is not None:
                check_integers(1, **{name: limit})
        self.cutoff = cutoff
        self.batch_size = batch_size
        self.batch_atoms = batch_atoms
        self.batch_edges = batch_edges
        self.num_workers = num_workers
        self.seed = seed
        self.required = tuple(required)
        self.train_graphs = []
        self.val_graphs = []
        self.test_graphs = {}
        self._statistics: Statistics | None = None

    def statistics(self) -> dict[str, Any]:
        """Return "elements", "e0" (eV, in their order), "scale" (eV/Å) and "avg_num_neighbors" of the training set."""
        return self._measured().plain()

    def shortest_distances(self, elements: Sequence[int]) -> torch.Tensor:
        """Return the shortest distance of each pair of elements in the training set, see :mod:`eqmol.graph.contacts`."""
        return shortest_distances(self.train_graphs, elements)

    def electronic_state(self) -> ElectronicState:
        """Return charge and spin of all structures."""
        return DEFAULT

    def sample(self) -> list[AtomGraph]:
        """Return some training structures, the same for a seed."""
        order = np.random.default_rng(self.seed).permutation(len(self.train_graphs))
        chosen: list[AtomGraph] = []
        for index in order[:SAMPLE].tolist():
            if len(chosen) >= SAMPLE // 4 and sum(graph.num_nodes for graph in chosen) >= SAMPLE_ATOMS:
                break
            chosen.append(self.train_graphs[index])
        return chosen

    def comparisons(self) -> dict[str, dict[str, float]]:
        """Return errors of others on the same test set: name -> target -> mean absolute error in the unit of tables."""
        return {}

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches of the training set, resumable within an epoch; those of this process, if several train."""
        rank, num_ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        graphs = self.train_graphs
        return ResumableLoader(
            graphs, self.batch_size, self.seed, self.num_workers, self._limits(graphs), rank, num_ranks
        )

    def val_dataloader(self) -> DataLoader:
        """Return the validation set in its order."""
        return self._ordered(self.val_graphs)

    def evaluation_dataloaders(self) -> dict[str, DataLoader]:
        """Return every set in its order: "train", "val", and each test set by name."""
        return {name: self._ordered(graphs) for name, graphs in self._sets().items()}

    def sizes(self, graphs: Sequence[AtomGraph]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Return the numbers of atoms and of edges of graphs; the latter may be None where :attr:`batch_edges` is."""
        atoms = np.array([graph.num_nodes for graph in graphs], np.int64)
        return atoms, np.array([graph.edge_index.shape[1] for graph in graphs], np.int64)

    def _limits(self, graphs: Sequence[AtomGraph]) -> Limits | None:
        """Return what bounds the batches of a set, if anything but their number does."""
        if self.batch_atoms is None and self.batch_edges is None:
            return None
        atoms, edges = self.sizes(graphs)
        for what, sizes, limit in (("atoms", atoms, self.batch_atoms), ("edges", edges, self.batch_edges)):
            if limit is not None and sizes is not None and len(sizes) > 0 and sizes.max() > limit:
                raise InputError(
                    f"data.batch_{what}={limit} is less than the {sizes.max()} {what} of "
                    f"{graphs[int(sizes.argmax())].source}, the largest structure; raise it"
                )
        return Limits(atoms, edges, self.batch_atoms, self.batch_edges)

    def _sets(self) -> dict[str, Sequence[AtomGraph]]:
        """Return all sets by name."""
        return {"train": self.train_graphs, "val": self.val_graphs, **self.test_graphs}

    def _ordered(self, graphs: Sequence[AtomGraph], num_workers: int = 0) -> DataLoader:
        """Return the graphs in batches, without shuffling."""
        generator = torch.Generator()  # of its own: opening a loader draws a number
        batches = fill(range(len(graphs)), self.batch_size, self._limits(graphs))
        return CompleteLoader(
            graphs,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            generator=generator,
            num_workers=num_workers,
        )

    def _measured(self) -> Statistics:
        """Return the statistics; :meth:`setup` must have run."""
        assert self._statistics is not None
        return self._statistics


def check_integers(lowest: int, **options: Any) -> None:
    """Refuse options of the data that are no integers or too low."""
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise InputError(f"data.{name}={value!r} must be an integer of at least {lowest}")


class DataModule(GraphSets):
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
            InputError: see :mod:`eqmol.data.reader`; also a required label that is missing, an element that only
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
        self._statistics = measure(self.train_graphs, free_atoms(isolated))
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
                self._labels.table(),
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

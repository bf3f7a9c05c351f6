"""Training, validation and test sets from files of any kind that ASE reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from ase.data import chemical_symbols
from rich.console import RenderableType
from rich.table import Table
from torch.utils.data import DataLoader

from eqmol.data.loader import ResumableLoader
from eqmol.data.reader import LabelSummary, missing_label, read_frames
from eqmol.data.statistics import Statistics, free_atoms, is_isolated, measure
from eqmol.errors import InputError
from eqmol.graph import AtomGraph, collate, from_atoms
from eqmol.graph.keys import ENERGY, FORCES, LABELS, STRESS

#: Names of splits, which no test set may take.
SPLITS = ("train", "val")


class DataModule(pl.LightningDataModule):
    """All sets of one run, with neighbour lists computed once and kept in memory.

    Args:
        cutoff: of the neighbour lists, Å.
        train_file: any file that ASE reads. Isolated atoms in it give atomic energies and are not trained on.
        val_file: validation frames; or
        val_fraction: this part of the training frames, drawn by ``seed``. Exactly one of the two.
        test_files: name -> file.
        isolated_atoms_file: isolated atoms, if not in the training file.
        energy_key: name of the total energy in the files, eV.
        forces_key: name of the forces, eV/Å.
        stress_key: name of the stress, eV/Å³.
        batch_size: structures per batch.
        num_workers: processes that collate training batches; 0 for none.
        seed: of the split and of the order of the batches.
        required: labels ("energy", "forces", "stress") that the loss needs. Energy and forces must be in every frame,
            stress in some frame that is periodic in three directions.

    Raises:
        InputError: options that contradict one another.
    """

    def __init__(
        self,
        *,
        cutoff: float,
        train_file: str | Path,
        val_file: str | Path | None = None,
        val_fraction: float | None = None,
        test_files: Mapping[str, str | Path] | None = None,
        isolated_atoms_file: str | Path | None = None,
        energy_key: str = "energy",
        forces_key: str = "forces",
        stress_key: str = "stress",
        batch_size: int = 5,
        num_workers: int = 0,
        seed: int = 0,
        required: Sequence[str] = (ENERGY, FORCES),
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.folder = Path()
        self.train_file = train_file
        self.val_file = val_file
        self.val_fraction = val_fraction
        self.test_files = test_files or {}
        self.isolated_atoms_file = isolated_atoms_file
        self.keys = {ENERGY: energy_key, FORCES: forces_key, STRESS: stress_key}
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.required = tuple(required)
        self._check_options()
        self.train_graphs: list[AtomGraph] = []
        self.val_graphs: list[AtomGraph] = []
        self.test_graphs: dict[str, list[AtomGraph]] = {}
        self._labels = LabelSummary()
        self._statistics: Statistics | None = None

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

    def statistics(self) -> dict[str, Any]:
        """Return "elements", "e0" (eV, in their order), "scale" (eV/Å) and "avg_num_neighbors" of the training set."""
        return self._measured().plain()

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training: sets, labels and where they were found, atomic energies."""
        sets = Table("set", "frames", "atoms", "neighbours per atom", title="data")
        for name, graphs in self._sets().items():
            atoms = sum(graph.num_nodes for graph in graphs)
            edges = sum(graph.edge_index.shape[1] for graph in graphs)
            sets.add_row(name, str(len(graphs)), str(atoms), f"{edges / atoms:.2f}")
        statistics = self._measured()
        return [sets, self._labels.table(), statistics.table(), statistics.notes()]

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches of the training set, resumable within an epoch."""
        return ResumableLoader(self.train_graphs, self.batch_size, self.seed, self.num_workers)

    def val_dataloader(self) -> DataLoader:
        """Return the validation set in its order."""
        return self._ordered(self.val_graphs)

    def evaluation_dataloaders(self) -> dict[str, DataLoader]:
        """Return every set in its order: "train", "val", and each test set by name."""
        return {name: self._ordered(graphs) for name, graphs in self._sets().items()}

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
            if FORCES not in graph and is_isolated(graph):
                graph.forces = torch.zeros(1, 3, dtype=torch.float64)  # by symmetry
            for label in (ENERGY, FORCES):
                if label in required and label not in graph:
                    raise missing_label(label, keys[label], atoms, source)
            graphs.append(graph)
        if STRESS in required and not any(STRESS in graph for graph in graphs):
            raise missing_label(STRESS, keys[STRESS], atoms, f"{path}, all frames")
        return _complete(graphs)

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
        if not isinstance(self.cutoff, int | float) or not self.cutoff > 0:
            raise InputError(f"the cutoff {self.cutoff!r} must be a positive number of Å")
        if not self.train_file:
            raise InputError("data.train_file is missing; give a file with training structures")
        if (self.val_file is None) == (self.val_fraction is None):
            raise InputError("give either data.val_file or data.val_fraction, and not both")
        if self.val_fraction is not None and not (isinstance(self.val_fraction, float) and 0 < self.val_fraction < 1):
            raise InputError(f"data.val_fraction={self.val_fraction!r} must be a number between 0 and 1")
        for name, value, lowest in (
            ("batch_size", self.batch_size, 1),
            ("num_workers", self.num_workers, 0),
            ("seed", self.seed, 0),
        ):
            if not isinstance(value, int) or value < lowest:
                raise InputError(f"data.{name}={value!r} must be an integer of at least {lowest}")
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

    def _sets(self) -> dict[str, list[AtomGraph]]:
        """Return all sets by name."""
        return {"train": self.train_graphs, "val": self.val_graphs, **self.test_graphs}

    def _ordered(self, graphs: list[AtomGraph]) -> DataLoader:
        """Return the graphs in batches, without shuffling, collated in this process."""
        generator = torch.Generator()  # of its own: opening a loader draws a number
        return DataLoader(graphs, self.batch_size, collate_fn=collate, generator=generator)  # type: ignore[arg-type]

    def _measured(self) -> Statistics:
        """Return the statistics; :meth:`setup` must have run."""
        assert self._statistics is not None
        return self._statistics


def _complete(graphs: list[AtomGraph]) -> list[AtomGraph]:
    """Give every graph the labels that any of them has: a batch is made of graphs with the same fields."""
    for label in LABELS:
        if any(label in graph for graph in graphs):
            for graph in graphs:
                if label not in graph:
                    shape = {ENERGY: (1,), FORCES: (graph.num_nodes, 3), STRESS: (1, 3, 3)}[label]
                    graph[label] = torch.full(shape, torch.nan, dtype=torch.float64)
    return graphs

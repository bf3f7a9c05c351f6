"""What all data sets share: training, validation and test sets, their batches and their statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import RenderableType
from torch.utils.data import DataLoader

from eqmol.data.atomic_energies import FreeAtom, read_e0
from eqmol.data.comparison import Baseline, Metrics
from eqmol.data.loader import CompleteLoader, Limits, ResumableLoader, fill, share_of
from eqmol.data.options import check_choices, check_integers, check_lengths
from eqmol.data.replay import Replay
from eqmol.data.statistics import Statistics, elements_of
from eqmol.errors import MODES, InputError
from eqmol.graph import AtomGraph, collate
from eqmol.graph.contacts import shortest_distances
from eqmol.graph.dispersion import Dispersion
from eqmol.graph.electronic import DEFAULT, ElectronicState
from eqmol.graph.keys import ENERGY, FORCES, LABELS
from eqmol.graph.targets import Target

#: Training structures that an untrained model is measured on, and atoms that are enough from a fourth of them on.
SAMPLE, SAMPLE_ATOMS = 32, 500
#: Structures of the training set whose errors are evaluated after a run.
EVALUATED = 1000
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
        e0: energies of the elements, see :func:`eqmol.data.atomic_energies.read_e0`: ``fit`` takes isolated atoms of the data,
            else least squares; ``keep`` those of the model that a run starts from.
        implausible: ``stop`` refuses energies that cannot be, see :func:`eqmol.data.atomic_energies.doubt`; ``warn`` says so.

    Attributes:
        few: how many structures of each set will be kept, for debugging, or None for all; set before :meth:`setup`, which
            may then read less.

    Raises:
        InputError: an option of a wrong kind.
    """

    #: Properties whose labels the graphs carry, besides energy, forces and stress.
    targets: tuple[Target, ...] = ()
    #: Further errors that models are judged by.
    metrics: Metrics | None = None
    #: What labels were lessened by.
    dispersion: Dispersion | None = None
    #: Whether graphs are made when they are asked for, which processes do.
    makes_graphs = False
    #: Old structures that are trained on again, which stand at the end of the training set: how many there are, and in an epoch.
    replay: Replay | None = None
    drawn = (0, 0)

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
        e0: Any = "fit",
        implausible: str = "stop",
    ) -> None:
        super().__init__()
        self.e0 = read_e0(e0)
        if isinstance(self.e0, dict) and not set(required) <= set(LABELS):
            raise InputError(
                f"data.e0 gives energies of elements, which belong to a potential, but {', '.join(required)} are trained on; use "
                "data.e0=fit or keep"
            )
        check_choices(MODES, implausible=implausible)
        self.implausible = implausible
        check_lengths(cutoff=cutoff)
        check_integers(1, batch_size=batch_size)
        check_integers(0, num_workers=num_workers, seed=seed)
        check_integers(1, null=True, batch_atoms=batch_atoms, batch_edges=batch_edges)
        self.cutoff = cutoff
        self.batch_size = batch_size
        self.batch_atoms = batch_atoms
        self.batch_edges = batch_edges
        self.num_workers = num_workers
        self.seed = seed
        self.required = tuple(required)
        self.few: int | None = None
        self.train_graphs = []
        self.val_graphs = []
        self.test_graphs = {}
        self._statistics: Statistics | None = None

    def statistics(self) -> dict[str, Any]:
        """Return "elements", "e0" (eV, in their order), "scale" (eV/Å) and "avg_num_neighbors" of the training set."""
        return self._measured().plain()

    def known_energies(self) -> Mapping[int, FreeAtom]:
        """Return the energies of elements that are given or that isolated atoms of the data have."""
        return self._measured().known

    def take_energies(self, energies: Mapping[int, FreeAtom], before: Mapping[int, float]) -> None:
        """Take other energies of all elements.

        Args:
            energies: by atomic number.
            before: what is shown beside them, eV.

        Raises:
            InputError: the total energies are implausible with them.
        """
        self._statistics = replace(self._measured().again(energies), before=before)

    def shortest_distances(self, elements: Sequence[int]) -> torch.Tensor:
        """Return the shortest distance of each pair of elements in the training set, see :mod:`eqmol.graph.contacts`."""
        return shortest_distances(self.train_graphs, elements)

    def electronic_state(self) -> ElectronicState:
        """Return charge and spin of all structures."""
        return DEFAULT

    def label_keys(self) -> dict[str, str]:
        """Return label -> its name in the training files; empty where their format fixes the names."""
        return {}

    def sample(self) -> list[AtomGraph]:
        """Return some training structures, the same for a seed."""
        order = np.random.default_rng(self.seed).permutation(len(self.train_graphs))
        chosen: list[AtomGraph] = []
        for index in order[:SAMPLE].tolist():
            if len(chosen) >= SAMPLE // 4 and sum(graph.num_nodes for graph in chosen) >= SAMPLE_ATOMS:
                break
            chosen.append(self.train_graphs[index])
        return chosen

    def representatives(self, number: int) -> list[AtomGraph]:
        """Return so many training structures, the same for a seed, and further ones with elements that these lack."""
        order = np.random.default_rng(self.seed).permutation(len(self.train_graphs)).tolist()
        chosen = [self.train_graphs[index] for index in order[:number]]
        seen = set(elements_of(chosen))
        for index in order[number:]:
            new = set(elements_of([self.train_graphs[index]])) - seen
            if new:
                chosen.append(self.train_graphs[index])
                seen |= new
        return chosen

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training."""
        return []

    def comparisons(self) -> dict[str, dict[str, float]]:
        """Return errors of others on the same test set: name -> target -> mean absolute error in the unit of tables."""
        return {}

    def published(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return published errors on test sets: name of the set -> model -> errors by their names in metrics.json."""
        return {}

    def baseline(self, recipe: Mapping[str, Any]) -> Baseline | None:
        """Return what a model with a recipe has to beat, if there is something."""
        return None

    def keep_first(self, number: int) -> None:
        """Train and validate on so many training structures alone, and test on as many, for debugging."""
        self.train_graphs = self.val_graphs = self.train_graphs[:number]
        self.drawn = (0, 0)
        self.test_graphs = {name: graphs[:number] for name, graphs in self.test_graphs.items()}

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches of the training set, resumable within an epoch; those of this process, if several train."""
        graphs = self.train_graphs
        return ResumableLoader(
            graphs, self.batch_size, self.seed, self.num_workers, self._limits(graphs), *self._process(), self.drawn
        )

    def val_dataloader(self) -> DataLoader:
        """Return the validation set in its order; the share of this process, if several train."""
        return share_of(self._ordered(self.val_graphs), *self._process())

    def evaluation_dataloaders(self) -> dict[str, DataLoader]:
        """Return every set: "train", in an order that depends on the seed, then "val" and each test set by name, in theirs.

        Of a large training set they are the first :data:`EVALUATED` structures.
        """
        loaders = {name: self._ordered(graphs) for name, graphs in self._sets().items()}
        number = len(self.train_graphs)
        chosen = np.random.default_rng(self.seed).choice(number, min(number, EVALUATED), replace=False)
        return loaders | {"train": self._ordered(self.train_graphs, chosen.tolist())}

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

    def _process(self) -> tuple[int, int]:
        """Return the number of this process and how many train."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _ordered(self, graphs: Sequence[AtomGraph], chosen: Sequence[int] | None = None) -> DataLoader:
        """Return all or the chosen graphs in batches, without shuffling."""
        generator = torch.Generator()  # of its own: opening a loader draws a number
        order = range(len(graphs)) if chosen is None else chosen
        batches = fill(order, self.batch_size, self._limits(graphs))
        return CompleteLoader(
            graphs,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            generator=generator,
            num_workers=self.num_workers if self.makes_graphs else 0,
        )

    def _measured(self) -> Statistics:
        """Return the statistics; :meth:`setup` must have run."""
        assert self._statistics is not None
        return self._statistics

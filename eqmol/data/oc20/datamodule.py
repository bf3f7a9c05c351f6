"""OC20 (``data=oc20``) and the embedded sample in its format (``data=oc20_sample``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Table

from eqmol.data import places
from eqmol.data.atomic_energies import FreeAtom, known_energies
from eqmol.data.comparison import Metrics
from eqmol.data.datamodule import GraphSets
from eqmol.data.oc20.baseline import MeanEnergy
from eqmol.data.oc20.energies import ENERGIES, choose_energies, relaxed
from eqmol.data.oc20.graphs import FrameGraphs, Library, count_edges
from eqmol.data.oc20.metrics import OpenCatalystMetrics
from eqmol.data.oc20.prepare import prepare, report
from eqmol.data.oc20.readers.find import find
from eqmol.data.oc20.shards import INDEX, IS2RE, S2EF, Index
from eqmol.data.oc20.splits import SPLITS, split, without_unknown
from eqmol.data.oc20.statistics import measure, no_references
from eqmol.data.options import (
    by_name,
    check_choices,
    check_flags,
    check_fractions,
    check_integers,
    check_names,
    optional_path,
    path,
)
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.graph.contacts import shortest_distances
from eqmol.graph.keys import FORCES

KINDS = (S2EF, IS2RE)
#: Frames that give the shortest distances.
COMPARED = 2000


class OC20(GraphSets):
    """Adsorbates on slabs: frames from shards, graphs made on the fly.

    Args:
        folder: raw files or shards; None for the first of ``$EQMOL_DATA/<name>``, ``data/<name>`` here and in the checkout.
        name: of the folder.
        files: pattern of the raw files below it.
        prepared: folder for shards made from raw files; None for ``data/<name>/prepared`` here.
        val_folder: validation set apart; None to split.
        test_folders: name -> further test set.
        kind: "s2ef", energies and forces of frames, or "is2re", relaxed energies of initial structures.
        split: "systems" or "blocks", see :mod:`eqmol.data.oc20.splits`.
        val_fraction: part of the systems that validates.
        held_out: number of systems that are tested on and not trained on.
        energy: "adsorption", "total", or "auto" for the first where every frame has a reference.
        infer_tags, total: see :class:`eqmol.data.oc20.frame.Reading`.
        max_neighbors: see :class:`eqmol.data.oc20.graphs.FrameGraphs`.
        verify: compare the sha256 of every shard before use.
        options: see :class:`eqmol.data.datamodule.GraphSets`.
    """

    makes_graphs = True
    metrics: Metrics | None = OpenCatalystMetrics()

    train_graphs: FrameGraphs
    val_graphs: FrameGraphs
    test_graphs: dict[str, FrameGraphs]

    def __init__(
        self,
        *,
        folder: str | Path | None = None,
        name: str = "oc20",
        files: str = "**/*",
        prepared: str | Path | None = None,
        val_folder: str | Path | None = None,
        test_folders: Mapping[str, str | Path] | None = None,
        kind: str = S2EF,
        split: str = "systems",
        val_fraction: float = 0.1,
        held_out: int = 5,
        energy: str = "auto",
        infer_tags: bool = False,
        total: bool = False,
        max_neighbors: int | None = None,
        verify: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_choices(KINDS, kind=kind)
        check_choices(SPLITS, split=split)
        check_choices(ENERGIES, energy=energy)
        check_names(name=name, files=files)
        check_flags(infer_tags=infer_tags, total=total, verify=verify)
        check_fractions(val_fraction=val_fraction)
        check_integers(0, held_out=held_out)
        check_integers(1, null=True, max_neighbors=max_neighbors)
        if kind == IS2RE and FORCES in self.required:
            raise InputError("data.kind=is2re has no forces to train on: set task.targets.forces.weight=0")
        self.folder = optional_path("folder", folder)
        self.folder_name = name
        self.prepared = optional_path("prepared", prepared)
        self.other_folders = {} if val_folder is None else {"val": path("val_folder", val_folder)}
        tests = by_name("test_folders", test_folders, "{val_ood_ads: FOLDER}")
        self.other_folders |= {test: path(f"test_folders.{test}", folder) for test, folder in tests.items()}
        self.reading: dict[str, Any] = {"files": files, "infer_tags": infer_tags, "total": total}
        self.kind = kind
        self.split = split
        self.val_fraction = val_fraction
        self.held_out = held_out
        self.energy = energy
        self.max_neighbors = max_neighbors
        self.verify = verify
        self.refused: dict[str, list[str]] = {}
        self._indices: list[Index] = []
        self._adsorption: bool | None = None

    def prepare_data(self) -> None:
        """Make shards from raw files, unless they are there.

        Raises:
            InputError: the data are nowhere, or see :func:`eqmol.data.oc20.prepare.prepare`.
        """
        for folder in (self._raw(), *self.other_folders.values()):
            self._shards(folder)

    def setup(self, stage: str | None = None) -> None:
        """Open the shards, split, measure.

        Raises:
            InputError: a shard is damaged; no frames of the kind, no reference energies, nothing to validate with.
        """
        if self._statistics is not None:
            return
        frames = self._open(self._raw())
        library = frames.library
        if "val" in self.other_folders:
            train = frames
        else:
            divided = split(library, self.split, self.val_fraction, self.held_out, self.seed)
            self.refused = dict(divided.refused)
            train = frames.within(divided.train)
            self.val_graphs = frames.within(divided.val)
            self.test_graphs = {name: frames.within(indices) for name, indices in divided.tests.items()}
        known = library.composition[np.unique(library.system[train.indices])].sum(axis=0) > 0
        for name, folder in self.other_folders.items():
            other = self._open(folder)
            indices, refused = without_unknown(other.library, known)
            self.refused |= {f"{system} ({name})": elements for system, elements in refused.items()}
            if name == "val":
                self.val_graphs = other.within(indices)
            else:
                self.test_graphs[name] = other.within(indices)
        self.train_graphs = train
        for name, graphs in self._sets().items():
            if len(graphs) == 0:
                raise InputError(
                    f"the set '{name}' is empty; {len(self.refused)} systems have elements of no other system"
                )
        elements = np.flatnonzero(known)
        self._statistics = measure(
            train, elements, self._known_energies(elements.tolist()), str(self._raw()), self.implausible
        )
        for graphs in self._sets().values():
            self._limits(graphs)

    def shortest_distances(self, elements: Sequence[int]) -> torch.Tensor:
        """Return the shortest distance of each pair of elements in frames that are evenly spread over the training set."""
        return shortest_distances(self.train_graphs.spread(COMPARED), elements)

    def representatives(self, number: int) -> list[AtomGraph]:
        """Return so many training frames that are evenly spread."""
        some = self.train_graphs.spread(number)
        return [some[i] for i in range(len(some))]

    def sizes(self, graphs: Sequence[AtomGraph]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Return the numbers of atoms and, where they are limited, of edges of frames."""
        assert isinstance(graphs, FrameGraphs)
        atoms = graphs.library.atoms[graphs.indices]
        return atoms, None if self.batch_edges is None else count_edges(graphs)

    def baseline(self, recipe: Mapping[str, Any]) -> MeanEnergy:
        """Return the mean energy of each system, and no forces."""
        return MeanEnergy(self.train_graphs, recipe["elements"], recipe["e0"])

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training: frames dropped, sets, refused systems, element energies."""
        sets = Table("set", "systems", "frames", "atoms", title=f"data: {self.kind}, split by {self.split}")
        for name, graphs in self._sets().items():
            assert isinstance(graphs, FrameGraphs)
            library = graphs.library
            systems = len(np.unique(library.system[graphs.indices]))
            sets.add_row(name, str(systems), str(len(graphs)), str(library.atoms[graphs.indices].sum()))
        shown: list[RenderableType] = [*map(report, self._indices), sets]
        if self.refused:
            refused = "; ".join(f"{system} ({', '.join(elements)})" for system, elements in self.refused.items())
            shown.append(f"not held out, as no training system would be left with some of their elements: {refused}")
        held_out = self.test_graphs.get("held_out")
        number = 0 if held_out is None else len(np.unique(held_out.library.system[held_out.indices]))
        if number < self.held_out and "val" not in self.other_folders:
            shown.append(f"only {number} of data.held_out={self.held_out} systems can be held out")
        return [*shown, self._measured().table(), self._measured().notes()]

    def _known_energies(self, elements: Sequence[int]) -> dict[int, FreeAtom]:
        """Return the energies of elements that need no fit: for adsorption energies zeros, for totals what is given."""
        if not self._adsorption:
            return known_energies(self.e0, {}, elements)
        if isinstance(self.e0, dict):
            raise InputError(
                "data.e0 gives energies of elements, but the data have adsorption energies, for which each is 0; leave it out, "
                "or learn total energies with data.energy=total"
            )
        return no_references()

    def _raw(self) -> Path:
        """Return the folder of the data set.

        Raises:
            InputError: it is nowhere.
        """
        if self.folder is not None:
            if not self.folder.is_dir():
                raise InputError(f"data.folder={self.folder} is not a folder")
            return self.folder
        found = next((folder for folder in places.folders(self.folder_name) if folder.is_dir()), None)
        if found is None:
            raise places.not_found(
                self.folder_name,
                "put OC20's files there as data/README.md says, or set EQMOL_DATA or data.folder; data=oc20_sample needs no "
                "download",
            )
        return found

    def _shards(self, folder: Path) -> tuple[Path, Index]:
        """Return the shards of a folder and their index: those in it, or new ones from its raw files."""
        if (folder / INDEX).is_file():
            return folder, Index.read(folder)
        out = folder / "prepared"
        if not (out / INDEX).is_file():
            out = self.prepared or Path("data", self.folder_name, "prepared")
            if folder in self.other_folders.values():
                out = out / "sets" / folder.name
        elif not find(folder, self.reading["files"]):  # made from files that lie elsewhere
            return out, Index.read(out)
        return out, prepare(folder, out, console=Console(), **self.reading)

    def _open(self, folder: Path) -> FrameGraphs:
        """Return all frames of a folder."""
        out, index = self._shards(folder)
        index.verify(out, self.verify)
        self._indices.append(index)
        derived = self.kind == IS2RE and not any(entry.kind == IS2RE and entry.frames for entry in index.shards)
        library = Library.open(out, index, S2EF if derived else self.kind)
        energies, adsorption = choose_energies(library, self.energy)
        if self._adsorption not in (None, adsorption):
            raise InputError(f"{folder} has {'' if adsorption else 'no '}adsorption energies, unlike the training set")
        self._adsorption = adsorption
        chosen, last = np.arange(len(library.system)), None
        if derived:
            chosen, last = relaxed(library)
            energies = energies[last]
        frames = FrameGraphs(library, chosen, energies, self.cutoff, self.max_neighbors, not derived, last)
        if self.batch_edges is not None:
            count_edges(frames, Console())
        return frames

"""QM9 (``data=qm9``) and the embedded sample in its format (``data=qm9_sample``)."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table

from eqmol.data.datamodule import GraphSets
from eqmol.data.options import check_integers, check_lists, optional_path, path
from eqmol.data.places import find, folders, not_found
from eqmol.data.qm9 import download, statistics
from eqmol.data.qm9.download import FILES
from eqmol.data.qm9.features import with_features
from eqmol.data.qm9.graphs import MoleculeGraphs
from eqmol.data.qm9.published import PUBLISHED
from eqmol.data.qm9.reader import Molecules, read_sdf, read_xyz
from eqmol.data.qm9.targets import TARGETS
from eqmol.data.split_files import SPLITS, read_split, write_split
from eqmol.data.targets import target_tables
from eqmol.errors import InputError
from eqmol.graph import AtomGraph
from eqmol.molecules.features import expand, measure_features

#: Molecules of the whole set without the uncharacterized ones, and the split that published errors refer to.
CHARACTERIZED = 130_831
STANDARD = (110_000, 10_000)
#: Molecules whose neighbours are counted for their mean number.
COUNTED = 500


class QM9(GraphSets):
    """QM9 from its raw files, split by a seed or by a file.

    Args:
        required: the targets.
        folder: name of the data set's folder; its raw files may lie there or in its folder ``raw``.
        num_train, num_val: sizes of the splits, the rest tests; None for 110,000 and 10,000 of the whole set, and for
            76 % and 4 % of a part of it.
        split_file: JSON with the numbers of the molecules of "train", "val" and "test"; written where it is absent.
        features: further inputs of the model, see :func:`eqmol.molecules.features.expand`.
        options: see :class:`eqmol.data.datamodule.GraphSets`.

    Raises:
        InputError: an unknown target or feature, or options of a wrong kind.
    """

    def __init__(
        self,
        *,
        required: Sequence[str] = ("U0",),
        folder: str = "qm9",
        num_train: int | None = None,
        num_val: int | None = None,
        split_file: str | None = None,
        features: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(required=required, **options)
        for name in required:
            if name not in TARGETS:
                raise InputError(f"QM9 has no target {name!r}; choose among {', '.join(TARGETS)}")
        self.targets = tuple(TARGETS[name] for name in required)
        self.folder = str(path("folder", folder))
        check_integers(1, null=True, num_train=num_train, num_val=num_val)
        self.split_sizes = (num_train, num_val)
        self.split_file = optional_path("split_file", split_file)
        check_lists(features=features)
        self.features = expand(features)
        self.is_standard = False
        self._train: Molecules | None = None
        self._inputs: dict[str, dict[str, float]] = {}

    def prepare_data(self) -> None:
        """Download what is absent.

        Raises:
            InputError: the files are neither here nor reachable, or not what they should be.
        """
        if self.folder == "qm9" and self._raw() is None and not self._xyz():
            download.download(Path("data", "qm9", "raw"))

    def setup(self, stage: str | None = None) -> None:
        """Read the files, once.

        Raises:
            InputError: files that are absent or damaged, or a split that does not fit them.
        """
        if self._train is not None:
            return
        molecules, source = self._read()
        for sentence in [*statistics.unit_warnings(molecules), *statistics.open_shell_warnings(molecules)]:
            warnings.warn(f"{source}: {sentence}", stacklevel=2)
        inputs: list[NDArray[np.float64]] = []
        if self.features:
            molecules, inputs = with_features(molecules, Path(source), self.features)
        rows = self._split(molecules)
        train, val, test = (
            MoleculeGraphs(molecules, rows[name], self.cutoff, self.required, source, inputs) for name in SPLITS
        )
        if self.features:
            self._inputs = measure_features([inputs[row] for row in rows["train"]], self.features)
        self.train_graphs, self.val_graphs, self.test_graphs = train, val, {"test": test}
        self._train = molecules.select(rows["train"])
        self.is_standard = len(molecules) == CHARACTERIZED and len(train) == STANDARD[0]

    def statistics(self) -> dict[str, Any]:
        """Return "elements", "avg_num_neighbors", "properties" (see :mod:`eqmol.data.targets`) and, if there are any,
        "features" (see :func:`eqmol.molecules.features.measure_features`).
        """
        train = self._training()
        order = np.random.default_rng(self.seed).permutation(len(self.train_graphs))[:COUNTED]
        graphs = [self.train_graphs[int(i)] for i in order]
        edges, atoms = sum(g.edge_index.shape[1] for g in graphs), sum(g.num_nodes for g in graphs)
        return {
            "elements": np.unique(train.numbers).tolist(),
            "avg_num_neighbors": edges / atoms,
            "properties": statistics.measure(train, self.required),
            **({"features": self._inputs} if self.features else {}),
        }

    def comparisons(self) -> dict[str, dict[str, float]]:
        """Return published errors (arXiv:2306.12059, table of its poster) where the split is that of the publications."""
        return {f"{model} (published)": dict(errors) for model, errors in PUBLISHED.items()} if self.is_standard else {}

    def tables(self) -> list[RenderableType]:
        """Return what a person should see before training: sets, targets, atom references."""
        sets = Table("set", "molecules", title="data")
        for name, graphs in self._sets().items():
            sets.add_row(name, str(len(graphs)))
        train = self._training()
        values, measured = statistics.values_of(train, self.required), statistics.measure(train, self.required)
        return [sets, *target_tables(self.targets, values, measured, np.unique(train.numbers).tolist())]

    def shortest_distances(self, elements: Sequence[int]) -> torch.Tensor:
        """Return the shortest distance of each pair of elements in the training set, see :mod:`eqmol.graph.contacts`."""
        graphs = self.train_graphs
        assert isinstance(graphs, MoleculeGraphs)
        return statistics.shortest_distances(graphs.molecules.select(graphs.rows), elements, self.cutoff)

    def sizes(self, graphs: Sequence[AtomGraph]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Return the numbers of atoms and, where they bound batches, of edges."""
        assert isinstance(graphs, MoleculeGraphs)
        atoms = np.diff(graphs.molecules.offsets)[graphs.rows]
        if self.batch_edges is None:
            return atoms, None
        return atoms, np.array([graph.edge_index.shape[1] for graph in graphs], np.int64)

    def _read(self) -> tuple[Molecules, str]:
        """Return all molecules and the name of their file or folder."""
        place = self._raw()
        if place is not None:
            sdf, csv, uncharacterized = (place / file for file in FILES)
            return read_sdf(sdf, csv, uncharacterized), str(sdf)
        if paths := self._xyz():
            return read_xyz(paths), str(paths[0].parent)
        raise not_found(self.folder, download.ADVICE)

    def _raw(self) -> Path | None:
        """Return the folder with the SDF, its table and the list of uncharacterized molecules, if there is one."""
        return find(f"{self.folder}/raw", FILES) or find(self.folder, FILES)

    def _xyz(self) -> list[Path]:
        """Return the original files of the first folder that has any."""
        found = (sorted(place.glob("**/dsgdb9nsd_*.xyz")) for place in folders(self.folder))
        return next(filter(None, found), [])

    def _split(self, molecules: Molecules) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each split."""
        if self.split_file is not None and self.split_file.is_file():
            split = read_split(self.split_file, molecules.ids.tolist())
            row_of = {int(number): row for row, number in enumerate(molecules.ids)}
            return {name: np.array([row_of[number] for number in part], np.int64) for name, part in split.items()}
        total = len(molecules)
        default = STANDARD if total == CHARACTERIZED else (round(0.76 * total), round(0.04 * total))
        num_train, num_val = (
            given if given is not None else size for given, size in zip(self.split_sizes, default, strict=True)
        )
        if num_train < 1 or num_val < 1 or num_train + num_val >= total:
            raise InputError(
                f"data.num_train={num_train} and data.num_val={num_val} leave no test set of the {total} molecules, or nothing "
                "to train or validate on; choose smaller numbers, of at least 1"
            )
        order = np.random.default_rng(self.seed).permutation(total)
        parts = np.split(order, [num_train, num_train + num_val])
        rows = {name: np.sort(part) for name, part in zip(SPLITS, parts, strict=True)}
        if self.split_file is not None:
            write_split(self.split_file, {name: molecules.ids[part].tolist() for name, part in rows.items()})
        return rows

    def _training(self) -> Molecules:
        """Return the training molecules; :meth:`setup` must have run."""
        assert self._train is not None
        return self._train

"""Graphs of molecules, made when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from eqmol.data.qm9.reader import Molecules
from eqmol.data.qm9.targets import COLUMNS, TARGETS
from eqmol.graph import AtomGraph, from_atoms
from eqmol.graph.keys import FEATURES

#: Sets up to this size keep their graphs once they are made.
KEPT = 20_000


@dataclass(frozen=True)
class MoleculeGraphs(Sequence[AtomGraph]):
    """Graphs of molecules, made when first asked for.

    Attributes:
        molecules: of all splits.
        rows: which of them.
        cutoff: Å.
        targets: names of the targets that graphs carry, each [1].
        source: where the molecules come from.
        features: further inputs [atoms, features] of every molecule; empty if there are none.
        kept: graphs that were made, by row.
    """

    molecules: Molecules
    rows: NDArray[np.int64]
    cutoff: float
    targets: tuple[str, ...]
    source: str
    features: Sequence[NDArray[np.float64]] = ()
    kept: dict[int, AtomGraph] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> AtomGraph: ...

    @overload
    def __getitem__(self, index: slice) -> "MoleculeGraphs": ...

    def __getitem__(self, index: int | slice) -> "AtomGraph | MoleculeGraphs":
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index], kept={})
        row = int(self.rows[index])
        if row in self.kept:
            return self.kept[row]
        source = f"{self.source}, gdb_{self.molecules.ids[row]}"
        graph = from_atoms(self.molecules.atoms(row), self.cutoff, source=source)
        for name in self.targets:
            value = self.molecules.values[row, COLUMNS[name]]
            graph[TARGETS[name].field] = torch.tensor([value], dtype=torch.float64)
        if self.features:
            graph[FEATURES] = torch.tensor(self.features[row])
        if len(self.rows) <= KEPT:
            self.kept[row] = graph
        return graph

"""Graphs made from shards when they are asked for."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import ase
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from eqmol.data.oc20.frame import Frame, adsorbate
from eqmol.data.oc20.shards import Index, Shard
from eqmol.data.parallel import run_parallel
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.graph import AtomGraph, NeighborList, edge_vectors, from_atoms
from eqmol.graph.neighbors import complete_cell

#: Å; neighbours whose distances differ by less are equally near.
TIE = 1e-3


@dataclass(frozen=True)
class Library:
    """All frames of one kind below a folder of shards: F frames of S systems, sorted by system and number.

    Args:
        shards: the files.
        sources: what each of them was made from.
        systems: [S] names.
        adsorbates: [S] compositions, "" where there is none.
        composition: [S, 119] atoms by atomic number.
        shard, row: [F] where each frame is.
        system: [F] index of its system.
        number: [F] its place in the trajectory.
        energy, reference: [F] eV, see :class:`eqmol.data.oc20.frame.Frame`.
    """

    shards: list[Shard]
    sources: list[str]
    systems: list[str]
    adsorbates: list[str]
    composition: NDArray[np.int64]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]
    system: NDArray[np.int64]
    number: NDArray[np.int64]
    energy: NDArray[np.float64]
    reference: NDArray[np.float64]

    @classmethod
    def open(cls, folder: Path, index: Index, kind: str) -> "Library":
        """Read what is needed of every frame before it is used.

        Raises:
            InputError: no frames of this kind, or a system whose frames have different atoms.
        """
        entries = [entry for entry in index.shards if entry.kind == kind and entry.frames > 0]
        if not entries:
            held = sorted({entry.kind for entry in index.shards if entry.frames > 0})
            raise InputError(f"{folder} holds no frames for data.kind={kind}, but for {' and '.join(held) or 'none'}")
        shards = [Shard(folder / entry.file) for entry in entries]
        names = sorted({name for shard in shards for name in shard.header["systems"]})
        place = {name: i for i, name in enumerate(names)}
        own = [np.array([place[name] for name in shard.header["systems"]]) for shard in shards]
        columns = {
            "shard": np.concatenate([np.full(entry.frames, i) for i, entry in enumerate(entries)]),
            "row": np.concatenate([np.arange(entry.frames) for entry in entries]),
            "system": np.concatenate([to[shard.array("system")] for to, shard in zip(own, shards, strict=True)]),
            **{
                name: np.concatenate([shard.array(name) for shard in shards])
                for name in ("number", "energy", "reference")
            },
        }
        atoms = np.concatenate([np.diff(shard.array("ptr")) for shard in shards])
        order = np.lexsort((columns["number"], columns["system"]))
        columns, atoms = {name: column[order] for name, column in columns.items()}, atoms[order]
        first = np.searchsorted(columns["system"], np.arange(len(names)))
        frames = [shards[columns["shard"][i]].frame(columns["row"][i]) for i in first]
        composition = np.array([np.bincount(frame.numbers, minlength=119) for frame in frames])
        different = np.flatnonzero(atoms != composition.sum(axis=1)[columns["system"]])
        if len(different) > 0:
            name = names[columns["system"][different[0]]]
            raise InputError(f"{folder}: the frames of the system {name} have different numbers of atoms")
        return cls(
            shards=shards,
            sources=[entry.source for entry in entries],
            systems=names,
            adsorbates=[adsorbate(frame.numbers, frame.tags) for frame in frames],
            composition=composition,
            **columns,
        )

    @property
    def atoms(self) -> NDArray[np.int64]:
        """Number of atoms of each frame [F]."""
        return self.composition.sum(axis=1)[self.system]

    def frame(self, index: int) -> Frame:
        """Return one frame."""
        return self.shards[self.shard[index]].frame(self.row[index])


@dataclass(frozen=True)
class FrameGraphs(Sequence[AtomGraph]):
    """Some frames of a library, as graphs.

    Args:
        library: where they are.
        indices: which [n].
        energy: [F] the energies to be learnt, eV.
        cutoff: Å.
        max_neighbors: keep only so many nearest neighbours of each atom, and those as near as the last of them; None
            for all. With it the energy jumps where one neighbour displaces another.
        forces: give the graphs the forces that the frames have.
        last: [F], the frame in which the relaxation of each one ends, for initial structures of trajectories. These and those of
            IS2RE's own files get the way to the relaxed positions.
    """

    library: Library
    indices: NDArray[np.int64]
    energy: NDArray[np.float64]
    cutoff: float
    max_neighbors: int | None = None
    forces: bool = True
    last: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> AtomGraph: ...
    @overload
    def __getitem__(self, index: slice) -> "FrameGraphs": ...
    def __getitem__(self, index: int | slice) -> "AtomGraph | FrameGraphs":
        """Return a graph, or a part of the frames."""
        if isinstance(index, slice):
            return replace(self, indices=self.indices[index])
        library, i = self.library, self.indices[index]
        frame = library.frame(i)
        name = library.adsorbates[library.system[i]] or frame.system
        atoms = ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info={"config_type": name})
        graph = from_atoms(
            atoms,
            self.cutoff,
            energy=float(self.energy[i]),
            forces=frame.forces if self.forces else None,
            tags=frame.tags,
            fixed=frame.fixed,
            source=f"{library.sources[library.shard[i]]}, {frame.system} frame {frame.number}",
        )
        if self.last is not None or frame.forces is None:
            relaxed = frame.relaxed if self.last is None else library.frame(self.last[i]).positions
            graph.displacement = torch.from_numpy(_way(frame, relaxed))
        return graph if self.max_neighbors is None else keep_nearest(graph, self.max_neighbors)

    def within(self, indices: NDArray[np.int64]) -> "FrameGraphs":
        """Return those of the frames that have these indices in the library."""
        return replace(self, indices=self.indices[np.isin(self.indices, indices)])

    def spread(self, number: int) -> "FrameGraphs":
        """Return at most so many of the frames, at even distances."""
        if len(self) <= number:
            return self
        return replace(self, indices=self.indices[np.linspace(0, len(self) - 1, number).astype(int)])

    def free_forces(self) -> NDArray[np.float64]:
        """Return the forces [free atoms of all frames, 3] (eV/Å) that the graphs get."""
        frames = [self.library.frame(i) for i in self.indices]
        known = [frame.forces[~frame.fixed] for frame in frames if self.forces and frame.forces is not None]
        return np.concatenate([np.zeros((0, 3)), *known])


def _way(frame: Frame, relaxed: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the shortest way from each atom to its relaxed position [N, 3], Å; NaN where that is not known."""
    if relaxed is None:
        return np.full(frame.positions.shape, np.nan)
    cell = complete_cell(frame.cell, frame.pbc)
    way = np.linalg.solve(cell.T, (relaxed - frame.positions).T).T
    shortest: NDArray[np.float64] = (way - np.where(frame.pbc, np.round(way), 0.0)) @ cell
    return shortest


def keep_nearest(graph: AtomGraph, number: int) -> AtomGraph:
    """Drop all edges of an atom but those of its nearest neighbours; ties stay, so that symmetry does."""
    lengths, receivers = edge_vectors(graph).norm(dim=1), graph.edge_index[1]
    order = torch.from_numpy(np.lexsort((lengths.numpy(), receivers.numpy())))
    first = torch.searchsorted(receivers, torch.arange(graph.num_nodes))
    degree = torch.bincount(receivers, minlength=graph.num_nodes)
    last = order[first[degree > 0] + degree[degree > 0].clamp(max=number) - 1]
    farthest = torch.zeros(graph.num_nodes, dtype=lengths.dtype)
    farthest[degree > 0] = lengths[last] + TIE
    kept = lengths <= farthest[receivers]
    graph.edge_index, graph.shifts = graph.edge_index[:, kept], graph.shifts[kept]
    return graph


def count_edges(frames: FrameGraphs, console: Console | None = None) -> NDArray[np.int64]:
    """Return the number of edges of each frame [n], counted once per cutoff and kept beside the shards.

    Args:
        frames: whose graphs.
        console: where to show progress.
    """
    library = frames.library
    used = np.unique(library.shard[frames.indices]).tolist()
    tasks = [(library.shards[i], frames.cutoff, frames.max_neighbors) for i in used]
    missing = not all(_counts_file(*task).is_file() for task in tasks)
    counts = run_parallel(_count_shard, tasks, "neighbours", None if missing else 1, console if missing else None)
    of_shard = dict(zip(used, counts, strict=True))
    return np.array([of_shard[library.shard[i]][library.row[i]] for i in frames.indices], np.int64)


def _counts_file(shard: Shard, cutoff: float, most: int | None) -> Path:
    return shard.path.with_name(f"{shard.path.name}.edges-{cutoff:g}{'' if most is None else f'-{most}'}.npy")


def _count_shard(shard: Shard, cutoff: float, most: int | None) -> NDArray[np.int64]:
    """Return the number of edges of every frame of a shard."""
    rows = len(shard.array("energy"))
    path = _counts_file(shard, cutoff, most)
    if path.is_file() and path.stat().st_mtime_ns >= shard.path.stat().st_mtime_ns:
        known: NDArray[np.int64] = np.load(path)
        if len(known) == rows:
            return known
    neighbors = NeighborList(cutoff)
    counts = np.zeros(rows, np.int64)
    for row in range(rows):
        frame = shard.frame(row)
        atoms = ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        graph = from_atoms(atoms, cutoff, neighbors=neighbors, source=f"{shard.path}, frame {row}")
        counts[row] = (graph if most is None else keep_nearest(graph, most)).edge_index.shape[1]
    with suppress(InputError), replacing(path, "wb") as file:  # unless the shards' disk cannot be written to
        np.save(file, counts)
    return counts

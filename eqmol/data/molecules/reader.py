"""Molecules and their labels from a table with SMILES, or from an SDF whose data they are."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from eqmol.data.parallel import num_cores, run_parallel
from eqmol.errors import InputError, printable
from eqmol.files import ending
from eqmol.molecules.cache import ConformerCache, Positions
from eqmol.molecules.molecule import Failure, Molecule, from_smiles, read_molecules
from eqmol.molecules.table import MoleculeTable, is_table, number, read_table

#: SMILES for each process: fewer are not worth starting it.
_SHARE = 32


class Record(NamedTuple):
    """One row of a table or one record of an SDF.

    Attributes:
        number: of the row below the header, or of the record, from 1.
        entry: the molecule, or why there is none.
        labels: [targets], NaN where unknown.
    """

    number: int
    entry: Molecule | Failure
    labels: NDArray[np.float64]


def read_records(
    path: Path,
    keys: Sequence[str],
    smiles_column: str,
    conformers: int,
    seed: int,
    cache: ConformerCache,
    limit: int | None = None,
) -> list[Record]:
    """Read all molecules; conformers that are not known are made by several processes.

    Args:
        path: a .csv, .tsv or .sdf file, compressed or not.
        keys: columns or data of an SDF that hold the labels.
        smiles_column: of a table.
        conformers, seed, cache: see :func:`eqmol.molecules.molecule.read_molecules`.
        limit: rows or records that are read at most, None for all.

    Raises:
        InputError: another file, a label that no molecule has, or one that is no number.
    """
    if is_table(path):
        table = read_table(path, smiles_column)
        table = replace(table, rows=table.rows[:limit], lines=table.lines[:limit])
        columns = [table.numbers(key) for key in keys]
        _make_conformers(table, conformers, seed, cache)
        rows = enumerate(table.molecules(conformers, seed, cache))
        return [Record(row + 1, entry, np.array([column[row] for column in columns])) for row, entry in rows]
    if ending(path) != ".sdf":
        raise InputError(f"data.file={path} is neither a table (.csv, .tsv) nor an .sdf; give one of them")
    records, names = [], dict.fromkeys(keys, 0)
    tags: dict[str, None] = {}
    for index, entry in enumerate(islice(read_molecules(path, conformers, seed, cache), limit)):
        found = entry.tags if isinstance(entry, Molecule) else {}
        tags |= dict.fromkeys(found)
        for key in keys:
            names[key] += key in found
        labels = [number(found.get(key, ""), key, entry.source) for key in keys]
        records.append(Record(index + 1, entry, np.array(labels)))
    for key, count in names.items():
        if not count:
            known = ", ".join(repr(printable(tag, 40)) for tag in list(tags)[:12]) or "none"
            raise InputError(f"{path}: no molecule has the data {key!r} (> <{key}>); its data are {known}")
    return records


def _make_conformers(table: MoleculeTable, conformers: int, seed: int, cache: ConformerCache) -> None:
    """Fill the cache, with a progress bar on a terminal."""
    wanted = dict.fromkeys(
        row[table.smiles].strip() for row in table.rows if len(row) == len(table.header) and row[table.smiles].strip()
    )
    workers = min(num_cores(), len(wanted) // _SHARE)
    if workers < 2:
        return
    console = Console(stderr=True)
    tasks = [(smiles, conformers, seed, cache.folder) for smiles in wanted]
    for made in run_parallel(_conformer, tasks, "conformers", workers, console if console.is_terminal else None):
        cache.known |= made


def _conformer(smiles: str, conformers: int, seed: int, folder: Path | None) -> dict[str, Positions]:
    """What the cache then knows of one molecule."""
    cache = ConformerCache(folder)
    from_smiles(smiles, conformers=conformers, seed=seed, cache=cache)
    return cache.known

"""Tables of molecules: ``.csv`` and ``.tsv`` files with a header and a column of SMILES."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqmol.errors import InputError, printable, reason_of
from eqmol.files import Text, check_file, ending
from eqmol.molecules.cache import ConformerCache
from eqmol.molecules.molecule import Failure, Molecule, from_smiles

ENDINGS = (".csv", ".tsv")
SMILES = "smiles"  #: name of the column, in any case, where none is given
#: What separates cells; the first line tells which.
DELIMITERS = (",", ";", "\t")
#: How tables write that a value is unknown, in small letters.
UNKNOWN = ("", "nan", "na", "n/a", "#n/a", "<na>", "null", "none")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_SHOWN = 12  #: names of columns in a message


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name, compressed or not."""
    return ending(path) in ENDINGS


@dataclass(frozen=True)
class MoleculeTable:
    """A table as its file has it.

    Attributes:
        path: the file.
        delimiter: between cells.
        header: names of the columns.
        rows: cells of each row; blank lines are none.
        lines: where each row ends in the file.
        smiles: the column of SMILES.
    """

    path: Path
    delimiter: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    smiles: int

    def molecules(
        self, conformers: int = 10, seed: int = 0, cache: ConformerCache | None = None
    ) -> Iterator[Molecule | Failure]:
        """Yield the molecule of each row, see :func:`eqmol.molecules.molecule.from_smiles`."""
        for row, line in zip(self.rows, self.lines, strict=True):
            source = f"{self.path}, line {line}"
            if len(row) != len(self.header):
                name = printable(row[self.smiles]) if len(row) > self.smiles else source
                cells = f"the row has {len(row)} cells and the header {len(self.header)}"
                yield Failure(name, source, f"{cells}; put cells with a {self.delimiter!r} in quotation marks")
            elif not row[self.smiles].strip():
                yield Failure(source, source, "it has no SMILES")
            else:
                found = from_smiles(row[self.smiles].strip(), "", source, conformers, seed, cache)
                tags = dict(zip(self.header, row, strict=True))
                yield found._replace(tags=tags) if isinstance(found, Molecule) else found

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column [rows], NaN where a cell is empty or says that its value is unknown.

        Raises:
            InputError: there is no such column, or a cell that is no number.
        """
        column = _column(self.path, self.header, name)
        values = np.full(len(self.rows), np.nan)
        for index, row in enumerate(self.rows):
            if len(row) == len(self.header):
                values[index] = number(row[column], name, f"{self.path}, line {self.lines[index]}")
        return values


def read_table(path: Path, smiles_column: str = SMILES) -> MoleculeTable:
    """Read a table, compressed or not, in any encoding that :class:`eqmol.files.Text` knows.

    Args:
        path: its first line names the columns, separated by a comma, a semicolon or a tab.
        smiles_column: a column, in any case where no other has the same letters.

    Raises:
        InputError: the file cannot be read, is no table, or has no such column.
    """
    check_file(path)
    with Text(path) as file:
        first = next(iter(file), "")
    if not first.strip():
        raise InputError(f"{path} begins with an empty line; its first line must name the columns")
    delimiter = _delimiter(path, first, smiles_column)
    with Text(path) as file:
        rows = [(file.line, row) for row in _cells(path, file, delimiter) if any(map(str.strip, row))]
    header = tuple(cell.strip() for cell in rows[0][1])
    if len(rows) == 1:
        raise InputError(f"{path} has a header and no rows")
    smiles = _column(path, header, smiles_column)
    cells = tuple(tuple(row) for _, row in rows[1:])
    return MoleculeTable(path, delimiter, header, cells, tuple(line for line, _ in rows[1:]), smiles)


def number(text: str, name: str, source: str) -> float:
    """Return the number that a text is, NaN where it says that there is none.

    Raises:
        InputError: it is something else.
    """
    text = text.strip()
    if text.lower() in UNKNOWN:
        return np.nan
    if _NUMBER.fullmatch(text) and np.isfinite(value := float(text)):
        return value
    raise InputError(
        f"{source}: {printable(text, 40)!r} under {name!r} is not a number such as -1.5; correct it, or leave unknown values empty"
    )


def _delimiter(path: Path, first: str, smiles_column: str) -> str:
    """What separates the columns of the first line: that with which one of them has the SMILES."""
    best = max(DELIMITERS, key=first.count)
    fitting = [d for d in DELIMITERS if _places(next(_cells(path, [first], d)), smiles_column)]
    return best if best in fitting or not fitting else fitting[0]


def _cells(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: its cells cannot be told apart ({reason_of(error)}); is a quotation mark open?"
        ) from None


def _places(header: Iterable[str], name: str) -> list[int]:
    """Columns of a name; those that differ by capitals only where none is equal."""
    names = [cell.strip() for cell in header]
    same = [index for index, cell in enumerate(names) if cell == name]
    return same or [index for index, cell in enumerate(names) if cell.lower() == name.lower()]


def _column(path: Path, header: tuple[str, ...], name: str) -> int:
    places = _places(header, name)
    if len(places) == 1:
        return places[0]
    if places:
        raise InputError(f"{path} has {len(places)} columns {name!r}; give each a name of its own")
    shown = ", ".join(repr(printable(cell, 40)) for cell in header[:_SHOWN]) + (", ..." if len(header) > _SHOWN else "")
    raise InputError(
        f"{path} has no column {name!r}: its first line names {shown}; columns are separated by a comma, a semicolon or a tab"
    )

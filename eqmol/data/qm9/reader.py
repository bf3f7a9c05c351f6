"""The raw files of QM9: ``gdb9.sdf`` + ``gdb9.sdf.csv`` + ``uncharacterized.txt``, or ``dsgdb9nsd_*.xyz``.

Ramakrishnan et al., Sci. Data 1, 140022 (2014).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ase
import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from eqmol.data.qm9.targets import RAW_FACTORS, TARGETS
from eqmol.errors import InputError, printable
from eqmol.files import Text, ending, read_lines

#: Columns of the CSV, and of the second line of an .xyz file, which has only the first 15.
COLUMNS = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv"),
    *("U0_atom", "U_atom", "H_atom", "G_atom"),
)
NUM_XYZ = 15
_ORDER = [COLUMNS.index(name) for name in RAW_FACTORS]
_FACTORS = np.array(list(RAW_FACTORS.values()))
_ID = re.compile(r"gdb[_ ]([0-9]{1,9})$")


@dataclass(frozen=True)
class Molecules:
    """M molecules with N atoms in all.

    Attributes:
        ids: int64 [M], the numbers of QM9.
        offsets: int64 [M + 1], first atom of each molecule.
        numbers: int64 [N], atomic numbers.
        positions: float64 [N, 3], Å.
        values: float64 [M, 19] in the order and units of :data:`eqmol.data.qm9.targets.TARGETS`; NaN where unknown.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def atoms(self, index: int) -> ase.Atoms:
        """The structure of one molecule."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return ase.Atoms(numbers=self.numbers[rows], positions=self.positions[rows])

    def select(self, chosen: NDArray[np.bool_ | np.int64]) -> "Molecules":
        """The molecules where ``chosen`` [M] is true, or those of the given rows, in the order that they have here."""
        kept = np.zeros(len(self), dtype=bool)
        kept[chosen] = True
        sizes = np.diff(self.offsets)
        atoms = np.repeat(kept, sizes)
        offsets = np.concatenate(([0], np.cumsum(sizes[kept])))
        return Molecules(self.ids[kept], offsets, self.numbers[atoms], self.positions[atoms], self.values[kept])

    @classmethod
    def join(
        cls, parts: Sequence[tuple[int, list[int], list[list[float]]]], values: NDArray[np.float64]
    ) -> "Molecules":
        """From (id, atomic numbers, positions) of every molecule and their values."""
        sizes = [len(numbers) for _, numbers, _ in parts]
        return cls(
            np.array([number for number, _, _ in parts], dtype=np.int64),
            np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
            np.array([z for _, numbers, _ in parts for z in numbers], dtype=np.int64),
            np.array([row for _, _, rows in parts for row in rows], dtype=np.float64).reshape(-1, 3),
            values,
        )


def read_sdf(sdf: Path, csv: Path, uncharacterized: Path | None = None) -> Molecules:
    """Read the SDF with its table, without the molecules whose geometry does not fit their formula.

    Args:
        sdf: geometries, one record per molecule titled ``gdb_N``.
        csv: labels, one row per molecule, in the same order.
        uncharacterized: the list of molecules to leave out, by their numbers N.

    Raises:
        InputError: a record or a row that cannot be read, or rows of the table that do not match the records.
    """
    records = list(_sdf_records(sdf))
    ids, values = _read_csv(csv)
    for row, ((number, _, _), label) in enumerate(zip(records, ids, strict=False)):
        if number != label:
            raise InputError(
                f"{csv}, row {row + 1} is gdb_{label}, but molecule {row + 1} of {sdf.name} is gdb_{number}"
            )
    if len(records) != len(ids):
        raise InputError(
            f"{csv} has {len(ids)} rows, but {sdf.name} has {len(records)} molecules; give files that match"
        )
    molecules = Molecules.join(records, values)
    if uncharacterized is None:
        return molecules
    return molecules.select(~np.isin(molecules.ids, read_uncharacterized(uncharacterized)))


def read_xyz(paths: Sequence[Path]) -> Molecules:
    """Read ``dsgdb9nsd_*.xyz`` files, which lack the four atomization energies.

    Raises:
        InputError: a file that is not of this form.
    """
    parts, rows = [], []
    for path in paths:
        lines = read_lines(path)
        try:
            size = int(lines[0])
            head, number, *words = lines[1].split()
            if any(map(str.strip, lines[size + 5 :])):
                raise InputError(f"{path} has lines after its molecule; the raw files of QM9 hold one molecule each")
            symbols, *columns = zip(*(line.split() for line in lines[2 : 2 + size]), strict=True)
            positions = np.array([[_number(word) for word in column] for column in columns[:3]]).T
            if head != "gdb" or len(words) != NUM_XYZ or positions.shape != (size, 3):
                raise ValueError
            if not np.isfinite(positions).all() or re.fullmatch("[0-9]{1,9}", number) is None:
                raise ValueError
            parts.append((int(number), _elements(symbols, str(path)), positions.tolist()))
            rows.append([*map(_number, words), *[np.nan] * (len(COLUMNS) - NUM_XYZ)])
        except InputError:
            raise
        except (ValueError, IndexError, KeyError):
            raise InputError(
                f"{path} is not a raw file of QM9, which has the number of atoms, 'gdb N' with {NUM_XYZ} numbers, and atoms"
            ) from None
    return Molecules.join(parts, _convert(np.array(rows).reshape(-1, len(COLUMNS))))


def is_raw(path: Path) -> bool:
    """Whether an .xyz file has QM9's raw form, which is no extended XYZ."""
    if ending(path) != ".xyz":
        return False
    with Text(path) as file:
        file.readline()
        words = file.readline().split()
    return words[:1] == ["gdb"] and len(words) == 2 + NUM_XYZ


def read_raw(path: Path) -> ase.Atoms:
    """Read one raw .xyz file of QM9.

    Returns:
        The molecule, named ``gdb_N``, with its properties in ``info`` by the names and in the units of
        :data:`eqmol.data.qm9.targets.TARGETS`.

    Raises:
        InputError: see :func:`read_xyz`.
    """
    molecules = read_xyz([path])
    atoms = molecules.atoms(0)
    known = {name: float(value) for name, value in zip(TARGETS, molecules.values[0], strict=True) if np.isfinite(value)}
    atoms.info |= {"name": f"gdb_{molecules.ids[0]}", **known}
    return atoms


def read_uncharacterized(path: Path) -> NDArray[np.int64]:
    """The numbers of the molecules in ``uncharacterized.txt``."""
    words = (line.split(maxsplit=1) for line in read_lines(path))
    return np.array([int(row[0]) for row in words if row and row[0].isdigit()], dtype=np.int64)


def _sdf_records(path: Path) -> Iterator[tuple[int, list[int], list[list[float]]]]:
    """Yield number, atomic numbers and positions (Å) of every V2000 record."""
    with Text(path) as file:
        for position, title in enumerate(file):
            where = f"{path}, molecule {position + 1} ({printable(title, 60) or 'no title'})"
            found = _ID.match(title.strip())
            if found is None:
                raise InputError(f"{where}: the title is not gdb_N; give the SDF of QM9")
            try:
                _program, _comment, counts = islice(iter(file), 3)
                lines = list(islice(iter(file), int(counts[:3])))
                numbers = _elements([line[31:34].strip() for line in lines], where)
                positions = [[float(line[i : i + 10]) for i in (0, 10, 20)] for line in lines]
                if len(lines) < int(counts[:3]) or not np.isfinite(positions).all() or 0 in numbers:
                    raise ValueError
            except InputError:
                raise
            except ValueError:
                raise InputError(f"{where}: the block of atoms cannot be read; the file is damaged") from None
            # consumes the bonds and the end of the record
            if not any(line.startswith("$$$$") for line in file):
                raise InputError(f"{where}: the record does not end with $$$$; the file is cut off")
            yield int(found[1]), numbers, positions


def _read_csv(path: Path) -> tuple[list[int], NDArray[np.float64]]:
    """Return numbers of the molecules and their values in the project's order and units."""
    lines = read_lines(path)
    if not lines or lines[0].lower().count(",") != len(COLUMNS):
        raise InputError(f"{path} must have a header and {len(COLUMNS) + 1} columns, as gdb9.sdf.csv has")
    ids, rows = [], []
    for row, line in enumerate(lines[1:], start=1):
        name, *words = line.split(",")
        found = _ID.match(name)
        try:
            if found is None or len(words) != len(COLUMNS):
                raise ValueError
            ids.append(int(found[1]))
            rows.append([float(word) for word in words])
        except ValueError:
            raise InputError(
                f"{path}, row {row} ({printable(name, 60)}) is not gdb_N and {len(COLUMNS)} numbers"
            ) from None
    values = np.array(rows).reshape(-1, len(COLUMNS))
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column = broken[0]
        raise InputError(f"{path}, row {row + 1} (gdb_{ids[row]}): {COLUMNS[column]} is {values[row, column]}")
    return ids, _convert(values)


def _convert(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the columns of the files to those of the targets."""
    return values[:, _ORDER] * _FACTORS


def _elements(symbols: Sequence[str], where: str) -> list[int]:
    """Atomic numbers of symbols; ``X`` is none of an element."""
    for index, symbol in enumerate(symbols):
        if not atomic_numbers.get(symbol):
            raise InputError(
                f"{where}: atom {index} is {symbol!r}, which is no element; correct or remove the molecule"
            )
    return [atomic_numbers[symbol] for symbol in symbols]


def _number(word: str) -> float:
    """A number as Fortran and Mathematica write it: ``1.5*^-6`` is 1.5e-6."""
    return float(word.replace("*^", "e"))

"""Extended XYZ frames written exactly: every float keeps all its digits.

ASE's own writer rounds columns to eight decimals; read back with ASE, a frame written here gives the same numbers.
"""

from typing import IO, Any

import ase
import numpy as np
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import key_val_dict_to_str, per_atom_properties
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from eqmol.errors import InputError

#: Array -> column, where extended XYZ has a name of its own.
_COLUMNS = {"charges": "charge"}
_KINDS = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S", "S": "S", "O": "S"}


def write_frame(file: IO[str], atoms: ase.Atoms) -> None:
    """Append one structure with its info, arrays, fixed atoms and the results of its calculator.

    Args:
        file: open for writing text.
        atoms: results are written under their own names (``energy``, ``forces``, ...), unless info or arrays have them.

    Raises:
        InputError: an array that the format cannot hold.
    """
    info, columns = dict(atoms.info), {"species": np.array(atoms.symbols), "pos": atoms.positions}
    extra = {key: array for key, array in atoms.arrays.items() if key not in ("numbers", "positions")}
    columns |= {_COLUMNS.get(key, key): array for key, array in extra.items()}
    for key, value in _results(atoms).items():
        if key in per_atom_properties:
            columns.setdefault(_COLUMNS.get(key, key), value)
        else:
            info.setdefault(key, value)
    if "stress" in info and np.shape(info["stress"]) == (6,):
        info["stress"] = voigt_6_to_full_3x3_stress(info["stress"])
    movable = move_mask(atoms)
    if not movable.all():
        columns["move_mask"] = movable
    file.write(f"{len(atoms)}\n{_comment(atoms, info, columns)}\n")
    fields = [_format(name, column, len(atoms)) for name, column in columns.items()]
    file.writelines(" ".join(row) + "\n" for row in zip(*fields, strict=True))


def _results(atoms: ase.Atoms) -> dict[str, Any]:
    """What the attached calculator holds already; nothing is computed, no constraint is applied."""
    if atoms.calc is None:
        return {}
    return {key: value for key, value in atoms.calc.results.items() if key in all_properties and value is not None}


def _comment(atoms: ase.Atoms, info: dict[str, Any], columns: dict[str, NDArray[Any]]) -> str:
    kinds = [f"{name}:{_KINDS.get(column.dtype.kind)}:{_width(column)}" for name, column in columns.items()]
    cell = " ".join(repr(float(x)) for x in atoms.cell.array.flat)
    lattice = f'Lattice="{cell}" ' if atoms.cell.any() else ""
    values = {key: _plain(value) if isinstance(value, dict | list | tuple) else value for key, value in info.items()}
    return f"{lattice}Properties={':'.join(kinds)} {key_val_dict_to_str({**values, 'pbc': atoms.pbc})}"


def _plain(value: Any) -> Any:
    """Nested containers with NumPy's arrays and numbers as lists and Python's numbers, which JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _width(column: NDArray[Any]) -> int:
    return int(np.prod(column.shape[1:]))


def _format(name: str, column: NDArray[Any], num_atoms: int) -> list[str]:
    """One piece of text per atom."""
    kind = _KINDS.get(column.dtype.kind)
    rows = column.reshape(num_atoms, -1).tolist()
    if kind == "R":
        return [" ".join(map(repr, row)) for row in rows]
    if kind == "L":
        return [" ".join("T" if value else "F" for value in row) for row in rows]
    text = [" ".join(str(value) for value in row) for row in rows]
    if kind is None or any(len(line.split()) != len(row) for line, row in zip(text, rows, strict=True)):
        raise InputError(f"the array {name!r} ({column.dtype}) cannot be written to extended XYZ")
    return text


def move_mask(atoms: ase.Atoms) -> NDArray[np.bool_]:
    """False where an atom [N] or a coordinate [N, 3] is fixed."""
    movable = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            movable[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            movable[constraint.index] &= ~constraint.mask
    whole = (movable == movable[:, :1]).all()
    return movable[:, 0] if whole else movable

"""Harmonic vibrations from exact second derivatives."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase.vibrations.data import VibrationsData

from eqmol.errors import InputError
from eqmol.inference.calculator import Calculator
from eqmol.models import Potential

#: eV/Å; a structure with a larger force on a free atom is no minimum.
AT_REST = 0.05


def vibrations(
    atoms: ase.Atoms,
    model: str | os.PathLike[str] | Potential | Calculator,
    *,
    indices: Sequence[int] | None = None,
    **options: Any,
) -> VibrationsData:
    """Frequencies and modes of a structure, as :class:`ase.vibrations.Vibrations` has them, from the exact Hessian in float64.

    The Hessian is one backward pass per coordinate, and only rows of atoms that move are computed. ``get_frequencies()`` (cm⁻¹),
    ``get_zero_point_energy()`` (eV), ``tabulate()``, ``write(FILE)`` and more are ASE's; three translations and, of molecules,
    three rotations are among them, with frequencies near zero.

    Args:
        atoms: at a minimum; a larger force than :data:`AT_REST` is warned of.
        model: a model file, a potential, or a calculator.
        indices: atoms that move; None: those that ASE's constraints do not hold.
        options: of :class:`eqmol.Calculator`, where ``model`` is none.

    Raises:
        InputError: as :class:`eqmol.Calculator`, options of a calculator that there is, a model with direct forces, or no atoms
            that move.
    """
    if isinstance(model, Calculator) and options:
        raise InputError(f"a calculator has its own {next(iter(options))}; give a model file with it, or leave it out")
    calculator = model if isinstance(model, Calculator) else Calculator(model, **options)
    structure = atoms.copy()
    structure.calc = calculator
    moving = VibrationsData.indices_from_constraints(atoms) if indices is None else [int(i) for i in indices]
    if not moving or not set(moving) <= set(range(len(atoms))) or len(set(moving)) < len(moving):
        raise InputError(f"indices={moving} must be atoms of the structure, each once, of 0 to {len(atoms) - 1}")
    size = np.linalg.norm(structure.get_forces(apply_constraint=False)[moving], axis=1)
    if size.max() > AT_REST:
        warnings.warn(
            f"the structure is no minimum of the model: the force on atom {moving[int(size.argmax())]} is {size.max():.2g} eV/Å, "
            "so frequencies are not those of vibrations; relax it first (eqmol relax --fmax 0.001 --dtype float64)",
            stacklevel=2,
        )
    rows = calculator.get_hessian(structure, moving)[:, moving].reshape(3 * len(moving), -1)
    return VibrationsData.from_2d(atoms, (rows + rows.T) / 2, moving)

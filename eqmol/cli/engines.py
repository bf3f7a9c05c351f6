"""``eqmol engines [MODEL]``: which simulation programs are installed, and whether they give the model's numbers."""

import argparse
import contextlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from eqmol.cli.options import Parser, exit_code, one_file, set_up_process
from eqmol.engines.installed import ENGINES, missing, version_of

#: eV, eV/Å, eV; a float64 model's answers differ by less.
TOLERANCE = 1e-6


def main(argv: Sequence[str], program: str = "eqmol engines") -> int:
    """Run the command; return the exit code: 0, 1 if an engine gives other numbers, 2 after bad input, 130 after Ctrl-C."""
    set_up_process()
    return exit_code(lambda: _run(_parser(program).parse_args(argv)))


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="List the simulation programs that run a model, which of them are installed, and how to try them. With MODEL, "
        "each installed one evaluates a small crystal of the model's elements in float64 and is compared with the calculator.",
    )
    parser.add_argument("model", nargs="?", type=one_file, metavar="MODEL", help="model.safetensors of a training run")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    found = {} if arguments.model is None else _verdicts(arguments.model)
    table = Table(box=None, pad_edge=False)
    for heading in ("engine", "version", "with this model" if found else "", "to try it"):
        table.add_column(heading, overflow="fold")
    for name, engine in ENGINES.items():
        lacking = missing(name)
        version = version_of(engine.packages[0]) if not lacking else f"no {', '.join(lacking)}"
        command = engine.command if not lacking else f"pip install 'eqmol[{engine.extra}]'"
        if arguments.model is not None:
            command = command.replace("MODEL", str(arguments.model))
        table.add_row(engine.title, version, found.get(name, ""), command)
    Console(width=160, markup=False).print(table)
    print(f"PLUMED: {_plumed()}")
    driver = Path(__file__).parents[1] / "engines" / "ipi_driver.py"
    print(f"pes_path of i-PI: {driver}")
    return 1 if any(verdict.startswith("differs") for verdict in found.values()) else 0


def _plumed() -> str:
    """Whether PLUMED, whose kernel the package index lacks, can be used through ASE."""
    if version_of("plumed") is None:
        return "not installed (pip install plumed, and a kernel from conda-forge or built from source)"
    if not os.environ.get("PLUMED_KERNEL"):
        return f"interface {version_of('plumed')}, without a kernel: set PLUMED_KERNEL to libplumedKernel.so"
    return f"interface {version_of('plumed')}, kernel {os.environ['PLUMED_KERNEL']}, through ase.calculators.plumed"


def _verdicts(path: Path) -> dict[str, str]:
    """What the comparison says of each installed engine."""
    from eqmol.checkpoint import for_prediction
    from eqmol.engines.check import SINGLE_POINTS, by_calculator, difference, trial_structure
    from eqmol.errors import InputError
    from eqmol.models import Potential

    model = for_prediction(path, dtype="float64", radial_table="off", verify=False)
    if not isinstance(model, Potential):
        raise InputError(f"{path} predicts properties of molecules and no forces; engines run potentials")
    atoms = trial_structure(model)
    verdicts = {"ase": "the reference"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the structure, which is no sensible one, and of the engines
        expected = by_calculator(model, atoms)
        for name, single_point in SINGLE_POINTS.items():
            if missing(name):
                continue
            try:
                with contextlib.redirect_stdout(None):
                    result = single_point(model, atoms)
            except Exception as error:  # of programs of any kind
                verdicts[name] = f"fails: {type(error).__name__}: {error}"
                continue
            energy, forces, virial = difference(result, expected)
            agrees = max(energy, forces, virial) < TOLERANCE
            numbers = f"{energy:.0e} eV, {forces:.0e} eV/Å" + (
                "" if result.virial is None else f", virial {virial:.0e} eV"
            )
            verdicts[name] = f"{'agrees' if agrees else 'differs'}: {numbers}"
    return verdicts

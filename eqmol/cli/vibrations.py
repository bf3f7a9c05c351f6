"""``eqmol vibrations MODEL IN``: frequencies and zero-point energy of a structure at its minimum."""

import argparse
from collections.abc import Sequence

from eqmol.cli.evaluation import add_options, how
from eqmol.cli.options import Parser, exit_code, file_path, one_file, set_up_process
from eqmol.errors import InputError
from eqmol.files import replacing


def main(argv: Sequence[str], program: str = "eqmol vibrations") -> int:
    """Run the command; return the exit code: 0, 2 after bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    set_up_process()
    return exit_code(lambda: _run(_parser(program).parse_args(argv)))


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Harmonic vibrations of a structure at a minimum of the model, from exact second derivatives in float64: a "
        "table of frequencies and the zero-point energy. Atoms that ASE's constraints hold do not move.",
        epilog="The same in Python: eqmol.vibrations(atoms, MODEL), which returns ASE's VibrationsData.",
    )
    add = parser.add_argument
    add("model", type=one_file, metavar="MODEL", help="model.safetensors of a training run")
    add("input", type=one_file, metavar="IN", help="structure in any format that ASE reads; of several the last")
    add(
        "-o",
        "--output",
        type=file_path,
        metavar="FILE.json",
        help="Hessian and structure, for ASE's VibrationsData.read",
    )
    add_options(parser)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    output = arguments.output
    if output is not None and output.suffix != ".json":
        raise InputError(f"{output}: the output is JSON; give a name that ends in .json")
    from collections import deque

    from ase.io.jsonio import encode

    from eqmol.data.xyz.reader import read_frames
    from eqmol.inference.vibrations import vibrations

    ((atoms, _, _),) = deque(read_frames(arguments.input), maxlen=1)
    found = vibrations(atoms, arguments.model, close_contacts=arguments.close_contacts, **how(arguments))
    print(found.tabulate())
    if output is not None:
        with replacing(output) as file:
            file.write(encode(found) + "\n")

"""``eqmol COMMAND ...``. A command's module, and torch with it, is imported when it runs."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from eqmol import __version__
from eqmol.cli.options import exit_code, leave

#: Command -> what it does; each is a module of this package with a function ``main(arguments, program)``.
COMMANDS = {
    "train": "train a model: eqmol train model=mace backend=grid data=xyz data.train_file=train.xyz",
    "predict": "energies and forces of structures, properties of molecules: eqmol predict MODEL in.xyz -o out.xyz",
    "md": "molecular dynamics that continues and stops itself: eqmol md MODEL start.xyz --temperature 300",
    "vibrations": "frequencies from exact second derivatives: eqmol vibrations MODEL relaxed.xyz",
    "select": "structures most worth labelling: eqmol select pool.xyz MODEL --number 50",
    "examine": "whether a potential can be trusted: eqmol examine MODEL structures.xyz",
    "doctor": "what is wrong with data: eqmol doctor train=A.xyz val=B.xyz test=C.xyz",
    "relax": "relax structures together: eqmol relax MODEL in.xyz -o out.xyz",
    "lammps": "LAMMPS with a model as its potential: mpiexec -n 4 eqmol lammps MODEL data.lmp in.lmp",
    "engines": "simulation programs that run a model: which are installed, and do they agree: eqmol engines MODEL",
    "convert": "a larger model that computes the same: eqmol convert IN OUT --family coupled",
    "distil": "a fast model that says nearly what a slow one does: eqmol distil TEACHER structures.xyz -o RUN",
    "report": "what tensor products can express and what they cost here: eqmol report --degree 4 --parity so3",
    "prepare": "files of OC20 into shards: eqmol prepare SOURCE TARGET",
}
USAGE = "\n".join(
    [
        "usage: eqmol COMMAND ...        (eqmol COMMAND --help; eqmol --version)",
        "",
        "Fast equivariant machine learning for molecules and materials.",
        "",
        *(f"  {name:10} {text}" for name, text in COMMANDS.items()),
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 2 after bad input, 130 after Ctrl-C, 143 after SIGTERM.

    A script may register algorithms and models of its own, and then call this in the place of ``eqmol``.
    """
    own_script = argv is None and Path(sys.argv[0]).stem != "eqmol"
    program = f"python {sys.argv[0]}" if own_script else "eqmol"
    command, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command == "--version":
        print(f"eqmol {__version__}")
        return 0
    if command not in COMMANDS:
        close = get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}"
        print(f"error: there is no command {command!r}; {hint}", file=sys.stderr)
        return 2
    code = exit_code(lambda: import_module(f"eqmol.cli.{command}").main(arguments, f"{program} {command}"))
    return leave(code) if argv is None else code

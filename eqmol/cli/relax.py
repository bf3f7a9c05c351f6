"""``eqmol relax MODEL IN -o OUT``: relax structures, many in one graph."""

import argparse
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from eqmol.cli.evaluation import add_electronic_state, add_options, check_outputs, load_model
from eqmol.cli.options import Parser, exit_code, file_path, leave, one_file, positive, positive_number, set_up_process
from eqmol.cli.parts import add_part, joined, open_part
from eqmol.errors import InputError
from eqmol.files import check_file, expand_paths, replacing

if TYPE_CHECKING:
    from rich.console import Console

    from eqmol.inference.parts import Part
    from eqmol.inference.relax import Relaxer, Settings
    from eqmol.inference.relax_report import Outcomes

FAILURES = 20  #: structures without a result that are named on the screen


def main(argv: Sequence[str] | None = None, program: str = "eqmol relax") -> int:
    """Run the command; return the exit code: 0, 2 after bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    set_up_process()
    interrupted = "interrupted; the same command continues"
    code = exit_code(lambda: _run(_parser(program).parse_args(argv)), interrupted)
    return leave(code) if argv is None else code


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Relax structures at fixed cells, many in one graph; each stops by itself. Atoms and coordinates that the file "
        "fixes (FixAtoms, FixCartesian, move_mask) stay where they are.",
        epilog="The output is the input at the last positions, with eqmol_energy (eV), eqmol_forces (eV/Å), eqmol_converged, "
        "eqmol_steps, eqmol_fmax (eV/Å) and eqmol_source; structures that cannot be computed have eqmol_problem. While it works, "
        "OUT.progress beside the output holds what is done; after any end of the process the same command continues.",
    )
    add = parser.add_argument
    add("model", type=one_file, metavar="MODEL", help="model.safetensors of a training run, with energies and forces")
    add(
        "input",
        nargs="+",
        metavar="IN",
        help="structures in any format that ASE reads, also .gz, or .lmdb, .aselmdb and .pt of OC20; several files and "
        "patterns like 'runs/*.xyz' are relaxed together; pos_relaxed (Å) and y_relaxed (eV) beside a structure are compared with",
    )
    add("-o", "--output", type=file_path, required=True, metavar="OUT", help="extended XYZ file to write")
    add("--optimizer", choices=("lbfgs", "fire"), default="lbfgs", help="how steps are taken (default: lbfgs)")
    add(
        "--fmax",
        type=positive_number,
        default=0.05,
        metavar="F",
        help="a structure is relaxed when no movable atom feels a larger force, eV/Å (default: 0.05)",
    )
    add("--steps", type=positive, default=500, metavar="N", help="most steps of a structure (default: 500)")
    add(
        "--max-step",
        type=positive_number,
        default=0.2,
        metavar="D",
        help="farthest an atom goes in a step of lbfgs, or all coordinates in one of fire, Å (default: 0.2)",
    )
    add(
        "--trajectory", type=file_path, metavar="ALL.xyz", help="also write every step of one structure after the other"
    )
    add(
        "--first",
        action="store_true",
        help="each IN is a relaxation that was done before: start from its first structure, and compare with its last",
    )
    add(
        "--group",
        metavar="KEY",
        help="structures with the same KEY in info are starting positions of one system: print the lowest energy of each",
    )
    add(
        "--lowest",
        type=file_path,
        metavar="LOW.xyz",
        help="with --group, also write the lowest structure of each group",
    )
    add("--batch-size", type=positive, default=16, metavar="N", help="structures in one graph (default: 16)")
    add_part(parser)
    add_options(parser)
    add_electronic_state(parser)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from eqmol.inference.relax_starts import OC20_ONLY, read_starts

    inputs = expand_paths(arguments.input, "IN")
    for path in inputs:
        if path.suffix not in OC20_ONLY or not path.is_file():  # which are packed, and checked by their readers
            check_file(path)
    check_outputs([arguments.output, arguments.trajectory, arguments.lowest], [arguments.model, *inputs])
    if arguments.lowest is not None and arguments.group is None:
        raise InputError("--lowest writes the lowest structure of each group; name the groups by --group KEY")
    if arguments.part is not None and arguments.trajectory is not None:
        raise InputError("--trajectory is of all structures, and a part has some; leave it or --part out")
    from eqmol.inference.relax import Settings
    from eqmol.inference.relax_report import Outcomes

    settings = Settings(arguments.optimizer, arguments.fmax, arguments.steps, arguments.max_step, arguments.batch_size)
    options = asdict(settings) | {"first": arguments.first}
    del options["batch_size"]
    part = open_part(arguments, inputs, options)
    if part is None or not part.is_done():
        _relax(arguments, inputs, settings, part)
    console = Console()
    if part is not None:
        console.print(f"part {part.index}: {joined(part)}", soft_wrap=True, highlight=False, markup=False)
        if part.missing():
            return
    outcomes = Outcomes.read(arguments.output, read_starts(inputs, arguments.first, arguments.group), arguments.group)
    for table in outcomes.tables():
        console.print(table)
    for problem in outcomes.problems[:FAILURES]:
        console.print(problem, soft_wrap=True, highlight=False, markup=False)
    if len(outcomes.problems) > FAILURES:
        console.print(f"and {len(outcomes.problems) - FAILURES} more, see eqmol_problem in {arguments.output}")
    console.print(f"{outcomes.words()} -> {arguments.output}", soft_wrap=True, highlight=False, markup=False)
    if arguments.lowest is not None:
        _write_lowest(arguments.lowest, outcomes, console)
    if len(outcomes.problems) == outcomes.number:
        raise InputError("no structure could be relaxed; the reasons are above")


def _relax(arguments: argparse.Namespace, inputs: Sequence[Path], settings: "Settings", part: "Part | None") -> None:
    """Relax all structures, or those of a part, one process at a time."""
    from eqmol.inference.relax_files import STATE, progress_folder, relax_files
    from eqmol.inference.relax_starts import read_starts
    from eqmol.models import Potential
    from eqmol.train.lock import FolderLock

    model = load_model(arguments)
    if not isinstance(model, Potential):
        raise InputError(f"{arguments.model} predicts properties of molecules and no forces; give a potential")
    output = arguments.output if part is None else part.path
    starts = read_starts(inputs, arguments.first, arguments.group)
    folder = progress_folder(output)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}; check the folder") from None
    lock = FolderLock(folder, str(folder))
    try:
        relax_files(
            model,
            starts if part is None else part.own(starts),
            output,
            settings,
            trajectory=arguments.trajectory,
            options={
                "model": hashlib.sha256(arguments.model.read_bytes()).hexdigest(),
                "first": arguments.first,
                "head": arguments.head,
                "input": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in inputs],
            },
            close_contacts=arguments.close_contacts,
            electronic_state=arguments.electronic_state,
            tell=_Screen(),
        )
    finally:
        lock.release()
        if not (folder / STATE).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def _write_lowest(path: Path, outcomes: "Outcomes", console: "Console") -> None:
    """Write the structure of the lowest energy of each group."""
    from eqmol.inference.extxyz import write_frame

    lowest = [group.lowest for group in outcomes.groups.values() if group.lowest is not None]
    with replacing(path) as file:
        for atoms in lowest:
            write_frame(file, atoms)
    words = f"the lowest of {len(lowest)} of {len(outcomes.groups)} groups -> {path}"
    console.print(words, soft_wrap=True, highlight=False, markup=False)


class _Screen:
    """Shows how far the work is: on a terminal always, elsewhere with each state that is kept."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status("relaxing")
        if self._console.is_terminal:
            self._status.start()

    def __call__(self, relaxer: "Relaxer", finished: int, saved: bool) -> None:
        largest = max((one.largest for one in relaxer.active), default=0.0)
        steps = max((one.steps for one in relaxer.active), default=0)
        words = f"{finished} relaxed, {len(relaxer.active)} on their way, up to step {steps} and {largest:.3g} eV/Å"
        if self._console.is_terminal:
            self._status.update(words)
            if not relaxer.active:
                self._status.stop()
        elif saved:
            self._console.print(words, soft_wrap=True, highlight=False)

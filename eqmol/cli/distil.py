"""``eqmol distil TEACHER STRUCTURES... -o RUN``: a fast model that says nearly what a slow one does, and how nearly."""

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqmol.cli.evaluation import add_electronic_state, add_options, how
from eqmol.cli.options import Parser, exit_code, file_path, integer, one_file, set_up_process
from eqmol.cli.quoting import quote
from eqmol.errors import InputError
from eqmol.files import expand_paths, replacing

if TYPE_CHECKING:
    import ase
    from ase.calculators.calculator import Calculator as ASECalculator

    from eqmol.inference.structures import Frame
    from eqmol.trust.twin import Teacher

STUDENT, TWIN = "student", "twin.json"  #: of the folder of a twin: the run, and the numbers
#: KEY=VALUE of eqmol train.
_OPTION = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*=.*", re.DOTALL)
#: What follows from the labels.
_OWN = (
    "data",
    "task",
    "output_dir",
    "resume",
    "data.train_file",
    "data.test_files",
    "data.targets",
    "predictor.properties",
)
INTERRUPTED = "interrupted; the same command continues"


def main(argv: Sequence[str], program: str = "eqmol distil") -> int:
    """Run the command; return the exit code: 0, 1 if the training or a check fails, 2 after bad input, 130 after Ctrl-C."""
    set_up_process()
    return exit_code(lambda: _run(_parser(program).parse_intermixed_args(argv)), interrupted=INTERRUPTED)


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Train a fast model of the gaunt family on what a teacher says of structures, and measure on structures held "
        "out how near it comes at what speed. The folder has train.xyz and held_out.xyz with the teacher's labels, the run "
        "student/ with model.safetensors, twin.json, and an examination, report.html. The same command continues.",
        epilog="From Python, eqmol.distil(calculator, structures, folder) takes any calculator of ASE as the teacher. Exit code 0: "
        "no check failed; 1: one did; 2: bad input.",
    )
    add = parser.add_argument
    add(
        "model",
        type=one_file,
        metavar="TEACHER",
        help="a model.safetensors, or a .model of mace-torch, which is read as it is",
    )
    add(
        "structures",
        nargs="+",
        metavar="STRUCTURES",
        help="in any format that ASE reads; their labels are not used. Further KEY=VALUE are options of eqmol train, such as "
        "trainer.max_time=00:01:00:00 or model.channels=64",
    )
    add("-o", "--output", type=file_path, required=True, metavar="RUN", help="folder of the twin")
    add("--held-out", nargs="+", metavar="FILE", help="structures to judge by (default: a tenth of STRUCTURES, drawn)")
    add("--seed", type=integer(0, 2**31), default=0, metavar="N", help="of the draw and of the training (default: 0)")
    add_options(parser)
    add_electronic_state(parser)
    return parser


def distil(
    calculator: "ASECalculator",
    structures: "Iterable[ase.Atoms]",
    output: str | Path,
    options: Sequence[str] = (),
    *,
    held_out: "Iterable[ase.Atoms] | None" = None,
    seed: int = 0,
) -> dict[str, float]:
    """Train a fast model on what a calculator says of structures, and measure how near it comes at what speed.

    Args:
        calculator: of ASE; where it has ``energies`` of the atoms they are learnt too.
        structures: to learn from.
        output: a folder, as of ``eqmol distil``; an interrupted call is continued by the same call.
        options: of ``eqmol train``, such as ``["trainer.max_epochs=20"]``.
        held_out: structures to judge by; None: a tenth of ``structures``, drawn.
        seed: of the draw and of the training.

    Returns:
        What twin.json holds: errors on the structures held out, and CPU times of both; see :func:`eqmol.trust.twin.certify`.

    Raises:
        InputError: no calculator, too few structures, a structure that it cannot evaluate, or options that are wrong.
        RuntimeError: the training failed; what it said is on the screen.
        KeyboardInterrupt: Ctrl-C; the same call continues.
    """
    from eqmol.trust.twin import Teacher

    def frames(given: "Iterable[ase.Atoms]") -> "list[Frame]":
        return [(atoms, {}, f"structure {number}") for number, atoms in enumerate(given)]

    teacher = Teacher.of(calculator)
    judged = None if held_out is None else frames(held_out)
    code, found = _distil(teacher, frames(structures), judged, Path(output), options, seed)
    if code > 128:
        raise KeyboardInterrupt(code - 128)
    if not found:
        raise (
            InputError(f"the options are wrong: {' '.join(options)}")
            if code == 2
            else RuntimeError("the training failed")
        )
    return found


def _run(arguments: argparse.Namespace) -> int:
    words = [*arguments.structures, *(arguments.held_out or ())]
    options = [word for word in words if _OPTION.fullmatch(word) and not Path(word).exists()]
    files = [word for word in arguments.structures if word not in options]
    judged = [word for word in arguments.held_out or () if word not in options]
    if not files:
        raise InputError("give the structures that the teacher labels")
    teacher = _teacher(arguments)
    held_out = _frames(judged, "--held-out") if judged else None
    contacts, state = arguments.close_contacts, arguments.electronic_state
    structures = _frames(files, "STRUCTURES")
    return _distil(teacher, structures, held_out, arguments.output, options, arguments.seed, contacts, state)[0]


def _frames(files: Sequence[str], name: str) -> "list[Frame]":
    from eqmol.data.xyz.reader import read_frames

    return [frame for path in expand_paths(files, name) for frame in read_frames(path)]


def _teacher(arguments: argparse.Namespace) -> "Teacher":
    """The model of a file, known by its bytes."""
    from eqmol.checkpoint import for_prediction, read_header
    from eqmol.convert.mace_torch.model import convert_mace
    from eqmol.convert.mace_torch.parts import is_archive, read_model
    from eqmol.models import Potential
    from eqmol.trust.twin import Teacher

    path = arguments.model
    given: Any = path
    options = how(arguments)
    if is_archive(path):
        options["head"] = None  # one is taken already
        try:
            given = convert_mace(read_model(path), arguments.head).model
        except InputError as error:
            raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    elif arguments.head is not None and not read_header(path).document["recipe"].get("readout_heads"):
        raise InputError(f"--head is for models of mace-torch and others with heads; {path} is none")
    model = for_prediction(given, **options)
    if not isinstance(model, Potential):
        raise InputError(f"{path} holds a {type(model).__name__}; a teacher is a potential")
    return Teacher(model, f"{hashlib.sha256(path.read_bytes()).hexdigest()} {arguments.head or ''}".strip())


def _distil(
    teacher: "Teacher",
    structures: "Sequence[Frame]",
    held_out: "Sequence[Frame] | None",
    output: Path,
    options: Sequence[str],
    seed: int,
    close_contacts: str = "stop",
    state: str = "stop",
) -> tuple[int, dict[str, float]]:
    """Label, train, compare; return the exit code and, unless the training failed, the numbers."""
    from rich.console import Console
    from rich.progress import Progress

    from eqmol.cli import train
    from eqmol.trust.twin import HELD_OUT, TRAIN, certify, has_energies_of_atoms, label, split, words_of

    _check(options)
    with redirect_stdout(StringIO()):  # what is wrong should not wait for the labels
        code = train.main([*_training(teacher, output, options, seed, True), "--cfg", "job"], "eqmol train")
    if code:
        return code, {}
    learnt, judged = split(structures, held_out, seed)
    sets = {TRAIN: learnt, HELD_OUT: judged}
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("labels", total=len(learnt) + len(judged))
        failed = label(teacher, sets, output, close_contacts, state, lambda done: progress.update(bar, completed=done))
    print(f"{len(learnt)} structures to learn from, {len(judged)} held out: {output / TRAIN}, {output / HELD_OUT}")
    if failed:
        print(words_of(failed))
    atomic = has_energies_of_atoms(output / TRAIN)
    code = train.main(_training(teacher, output, options, seed, atomic), "eqmol train")
    if code:
        if code > 128:
            print("the same command continues too, and then compares")
        return code, {}
    report, found = certify(teacher, output / STUDENT / "model.safetensors", output)
    with replacing(output / TWIN) as file:
        json.dump(found, file, indent=2)
    written = report.write(output)
    _show(report, [output / TWIN, *written])
    return (0 if report.passed else 1), found


def _check(options: Sequence[str]) -> None:
    for option in options:
        key = option.lstrip("+~").partition("=")[0]
        if not _OPTION.fullmatch(option):
            raise InputError(f"{option!r} is no option KEY=VALUE of eqmol train")
        if key in _OWN or key.startswith(("data.test_files.", "data.targets.")):
            raise InputError(f"{key} of the student follows from its labels; leave it out")


def _training(teacher: "Teacher", output: Path, options: Sequence[str], seed: int, atomic: bool) -> list[str]:
    """The options of the run; those given come last.

    Args:
        teacher, output, options, seed: of the twin.
        atomic: whether energies of atoms are learnt.
    """
    from eqmol.trust.twin import HELD_OUT, TRAIN

    own = ["model=mace", "backend=grid", "data=xyz", f"seed={seed}", f"data.train_file={quote(str(output / TRAIN))}"]
    own += [
        f"data.test_files={{held_out: {quote(str(output / HELD_OUT))}}}",
        f"output_dir={quote(str(output / STUDENT))}",
        "resume=auto",
    ]
    if teacher.cutoff is not None:
        own.append(f"model.cutoff={teacher.cutoff:g}")
    if atomic:
        own += [
            "task=distil",
            "data.targets={site_energy: {kind: atomic, unit: eV, key: energies}}",
            "predictor.properties=null",
        ]
    given = [option.partition("=")[0] for option in options]
    return [option for option in own if option.partition("=")[0] not in given] + list(options)


def _show(report: Any, written: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    twin = report.tables[0]
    table = Table(*twin.header, title=twin.title)
    for row in twin.rows:
        table.add_row(*row)
    console.print(table, markup=False)
    for line in report.lines:
        if line.status == "fail":
            console.print(f"fail: {line.name}: {line.reason}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"twin: {', '.join(map(str, written))}", soft_wrap=True, highlight=False, markup=False)

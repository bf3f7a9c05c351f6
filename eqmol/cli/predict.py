"""``eqmol predict MODEL IN -o OUT``: structures, molecules, and frames for OC20's evaluation server."""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqmol.cli.evaluation import add_electronic_state, add_options, check_outputs, how, load_model
from eqmol.cli.options import Parser, exit_code, file_path, leave, one_file, positive, set_up_process
from eqmol.cli.parts import add_part, joined, open_part
from eqmol.errors import InputError
from eqmol.files import check_file, ending, expand_paths, replacing, to_disk

if TYPE_CHECKING:
    from rich.console import Console

    from eqmol.graph.electronic import StateGuard
    from eqmol.inference.comparison import Comparison
    from eqmol.inference.parts import Part
    from eqmol.inference.scan import Profile
    from eqmol.models.predictor import Predictor

TABLES = (".csv", ".tsv")
FAILURES = 50  #: molecules without a prediction that are named on the screen
MOLECULES = (".sdf", ".mol", ".mol2", ".smi", *TABLES)
LABELS = ("energy", "forces", "stress")


def main(argv: Sequence[str] | None = None, program: str = "predict.py") -> int:
    """Run the command; return the exit code: 0, 2 after bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    set_up_process()
    code = exit_code(lambda: _run(_parser(program).parse_args(argv)))
    return leave(code) if argv is None else code


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Predict energies (eV), forces (eV/Å) and, for structures that are periodic in three directions, "
        "stress (eV/Å³, Voigt order xx yy zz yz xz xy, positive where the lattice is stretched); or, with a model of "
        "properties, those, also for molecules without a structure.",
        epilog="The output is the input with eqmol_energy and eqmol_stress in info and eqmol_forces in arrays, and of several "
        "files eqmol_source, which says where a frame comes from. "
        "Where the input has labels, a table of errors follows. Molecules give a table with one row each; those that fail are "
        "listed with the reason. A table of molecules comes back with a column for each value.",
    )
    add = parser.add_argument
    add("model", type=one_file, metavar="MODEL", help="model.safetensors of a training run")
    add(
        "input",
        nargs="*",
        metavar="IN",
        help="structures in any format that ASE reads, or molecules as .sdf, .mol, .mol2, .smi (one SMILES and name a line) or a "
        ".csv with SMILES, also .gz; "
        "several files and patterns like 'runs/*.xyz' are read one after the other; with -o OUT.npz SPLIT=DATA names the splits: "
        "id=DATA ood_ads=DATA",
    )
    add("--smiles", metavar="SMILES", help="one molecule, instead of a file")
    add("--smiles-column", metavar="NAME", help="column of a .csv or .tsv that has the SMILES (default: smiles)")
    add(
        "-o",
        "--output",
        type=file_path,
        metavar="OUT",
        help="extended XYZ file to write; of molecules a .csv, beside which an .sdf is written; of files or shards of OC20 an "
        ".npz for its evaluation server",
    )
    add("--conformers", type=positive, default=10, metavar="N", help="structures tried for a SMILES (default: 10)")
    add("--relax", type=one_file, metavar="POTENTIAL", help="relax molecules with this potential before the prediction")
    add_options(parser)
    add_electronic_state(parser)
    add(
        "--uncertainty",
        choices=("auto", "off", "cheap", "exact"),
        default="auto",
        help="std of energies and forces, as eqmol_energy_std and eqmol_forces_std: where the model has it; never; refuse models "
        "without; or of every force component, with one more backward pass for each last weight (default: auto)",
    )
    add("--batch-size", type=positive, default=16, metavar="N", help="structures at a time (default: 16)")
    add(
        "--scan",
        metavar="COORDINATE",
        help="structures are points of scans along a key of their info, or a distance, angle or dihedral angle of the atoms "
        "5,13,14,18 (from 0)",
    )
    add(
        "--profile",
        type=file_path,
        metavar="OUT.png",
        help="with --scan, draw the energy along it, beside that of the labels",
    )
    add_part(parser)
    add("--metrics", type=file_path, metavar="OUT.json", help="also write the errors to this file")
    for label in LABELS:
        add(
            f"--{label}-key",
            metavar="KEY",
            help=f"where the input has the {label} to compare with (default: as the training set, else {label})",
        )
    add("--key", action="append", default=[], metavar="NAME=KEY", help="the same for a property; may be repeated")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    if arguments.smiles is None and not arguments.input:
        raise InputError("give a file of structures and -o OUT.xyz, or --smiles SMILES; --help shows how")
    is_npz = arguments.output is not None and arguments.output.suffix == ".npz" and arguments.smiles is None
    if arguments.part is not None and (
        is_npz or arguments.smiles is not None or any(map(_holds_molecules, map(Path, arguments.input)))
    ):
        raise InputError("--part is for structures that become an extended XYZ file, -o OUT.xyz; leave it out")
    if arguments.uncertainty in ("cheap", "exact") and (
        is_npz or arguments.smiles is not None or any(map(_holds_molecules, map(Path, arguments.input)))
    ):
        raise InputError(
            f"--uncertainty {arguments.uncertainty} is for structures that become an extended XYZ file, -o OUT.xyz; leave it out"
        )
    if is_npz:
        _run_oc20_server(arguments, Console())
        return
    inputs = expand_paths(arguments.input, "IN") if arguments.input else []
    for path in inputs:
        check_file(path)
    if arguments.smiles is not None or any(map(_holds_molecules, inputs)):
        _run_molecules(arguments, inputs, Console())
        return
    if arguments.output is None:
        raise InputError(f"give the file to write for {inputs[0]}: -o OUT.xyz")
    for option in ("relax", "smiles_column"):
        if getattr(arguments, option) is not None:
            name = option.replace("_", "-")
            raise InputError(f"--{name} is for molecules ({', '.join(MOLECULES)} or --smiles), not for {inputs[0]}")
    check_outputs([arguments.output, arguments.metrics, arguments.profile], [arguments.model, *inputs])
    if (arguments.scan is None) != (arguments.profile is None):
        raise InputError("--scan names a coordinate and --profile the figure of energies along it; give both")
    if arguments.part is not None and (arguments.metrics is not None or arguments.scan is not None):
        raise InputError("--metrics and --scan are of all structures, and a part has some; leave them or --part out")
    part = open_part(arguments, inputs, {"uncertainty": arguments.uncertainty})
    if part is not None and part.is_done():
        _say(Console(), f"part {part.index} is there already", joined(part))
        return
    with ExitStack() as files:  # both are opened before the work: a folder that cannot be written is found at once
        output = files.enter_context(replacing(arguments.output if part is None else part.path))
        metrics = None if arguments.metrics is None else files.enter_context(replacing(arguments.metrics))
        from eqmol.graph.electronic import StateGuard
        from eqmol.inference.comparison import Comparison
        from eqmol.inference.scan import Profile
        from eqmol.models import Potential

        profile = None if arguments.scan is None else Profile(arguments.scan)
        model = load_model(arguments)
        if profile is not None and not isinstance(model, Potential):
            raise InputError(f"{arguments.model} predicts no energies, which --profile draws; leave it out")
        comparison = Comparison(model, _keys(arguments))
        comparison.check(inputs, wanted=metrics is not None)
        states = StateGuard(model.electronic_state, arguments.electronic_state)
        number = _predict_files(arguments, model, comparison, inputs, output, states, profile, part)
        if profile is not None:
            profile.draw(arguments.profile)
        if metrics is not None:
            document = {"model": str(arguments.model), "input": _names(inputs), "structures": number}
            metrics.write(json.dumps(document | comparison.named(), indent=2) + "\n")
            to_disk(output, metrics)
    notes = []
    if states.different:
        notes.append(
            f"{states.different} of {number} structures state another charge or spin than the training set "
            f"({states.trained.words()}), which the model does not know"
        )
    console = Console()
    _print_errors(console, comparison)
    _say(console, *notes, f"{number} structures -> {arguments.output if part is None else part.path}")
    if part is not None:
        _say(console, joined(part))


def _say(console: "Console", *sentences: str) -> None:
    """Print sentences as they are."""
    for sentence in sentences:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def _print_errors(console: "Console", comparison: "Comparison") -> None:
    if (errors := comparison.table()) is not None:
        console.print(errors, markup=False)
    _say(console, *comparison.notes())


def _keys(arguments: argparse.Namespace) -> dict[str, str]:
    """The keys of labels that were given."""
    given = {label: getattr(arguments, f"{label}_key") for label in LABELS}
    for item in arguments.key:
        name, separator, key = item.partition("=")
        if not separator or not name:
            raise InputError(f"--key {item} must name a property and its key, like --key alpha=POL")
        given[name] = key
    return {label: key for label, key in given.items() if key is not None}


def _holds_molecules(path: Path) -> bool:
    return ending(path) in MOLECULES


def _names(inputs: Sequence[Path]) -> str | list[str]:
    return str(inputs[0]) if len(inputs) == 1 else [str(path) for path in inputs]


def _run_molecules(arguments: argparse.Namespace, inputs: Sequence[Path], console: "Console") -> None:
    """Predict molecules; the files are written when all are done."""
    from eqmol.inference.calculator import Calculator
    from eqmol.inference.comparison import Comparison
    from eqmol.inference.molecules import screen, structure_note, table, write, write_into
    from eqmol.molecules.molecule import from_smiles, read_molecules
    from eqmol.molecules.table import SMILES, read_table

    if arguments.profile is not None or arguments.scan is not None:
        raise InputError("--scan and --profile are for structures, not for molecules; leave them out")
    if arguments.smiles is not None and inputs:
        raise InputError(f"give either {inputs[0]} or --smiles, not both")
    others = [path for path in inputs if not _holds_molecules(path)]
    if others:
        first = next(path for path in inputs if path not in others)
        raise InputError(f"{others[0]} holds structures and {first} molecules; predict them one after the other")
    if arguments.output is None and inputs:
        raise InputError(f"give the table to write for {inputs[0]}: -o OUT.csv")
    tables = [path for path in inputs if ending(path) in TABLES]
    if arguments.smiles_column is not None and not tables:
        raise InputError("--smiles-column is for a .csv or .tsv; leave it out")
    endings = TABLES if tables == inputs else TABLES[:1]
    if arguments.output is not None and arguments.output.suffix not in endings:
        raise InputError(f"{arguments.output}: molecules give a table; give a name that ends in {' or '.join(endings)}")
    for path in inputs:
        if path.resolve() in (arguments.output.resolve(), arguments.output.with_suffix(".sdf").resolve()):
            raise InputError(
                f"{arguments.output} is written, and its .sdf beside it, one of which is the input {path}; give another name"
            )
    if arguments.metrics is not None and arguments.smiles is not None:
        raise InputError("--metrics compares with labels, which a SMILES does not have; leave it out")
    model = load_model(arguments)
    comparison = Comparison(model, _keys(arguments))
    mode = arguments.close_contacts
    relax = None
    if arguments.relax is not None:
        where = {name: value for name, value in how(arguments).items() if name in ("device", "kernels", "radial_table")}
        relax = Calculator(arguments.relax, close_contacts=mode, **where)
    given = {path: read_table(path, arguments.smiles_column or SMILES) for path in tables}
    kept = len(given) == len(inputs) and len({table.header for table in given.values()}) == 1
    if arguments.smiles is not None:
        entries: Any = [from_smiles(arguments.smiles, conformers=arguments.conformers)]
    else:
        read = (
            given[path].molecules(arguments.conformers) if path in given else read_molecules(path, arguments.conformers)
            for path in inputs
        )
        entries = chain.from_iterable(read)
    predictions = list(screen(model, entries, arguments.batch_size, relax, mode))
    failed = [prediction for prediction in predictions if prediction.problem]
    for prediction in predictions:
        comparison.add_molecule(prediction)
    if arguments.metrics is not None:
        _write_metrics(arguments, comparison, inputs, len(predictions))
    if kept:
        write_into(list(given.values()), predictions, arguments.output)
    elif arguments.output is not None:
        write(predictions, arguments.output)
    if len(failed) < len(predictions):
        console.print(table(predictions))
    _print_errors(console, comparison)
    if tables and not kept:
        _say(console, f"the columns of {', '.join(map(str, tables))} are left out, as the inputs have different ones")
    if note := structure_note(predictions):
        _say(console, note)
    _say(console, *(f"{prediction.name}: {prediction.problem}" for prediction in failed[:FAILURES]))
    if len(failed) > FAILURES:
        _say(console, f"and {len(failed) - FAILURES} more, see the column of problems")
    if arguments.output is not None:
        counts = f"{len(predictions) - len(failed)} of {len(predictions)} molecules"
        _say(console, f"{counts} -> {arguments.output}, {arguments.output.with_suffix('.sdf')}")
    if len(failed) == len(predictions):
        raise InputError("no molecule could be predicted; the reasons are above")


def _write_metrics(
    arguments: argparse.Namespace, comparison: "Comparison", inputs: Sequence[Path], number: int
) -> None:
    """Write the errors of molecules."""
    from eqmol.inference.comparison import NAME_THEM

    if not comparison.errors.entries():
        raise InputError(f"no molecule has a label that --metrics could be about; {NAME_THEM}")
    document = {"model": str(arguments.model), "input": _names(inputs), "structures": number}
    with replacing(arguments.metrics) as file:
        file.write(json.dumps(document | comparison.named(), indent=2) + "\n")


def _run_oc20_server(arguments: argparse.Namespace, console: "Console") -> None:
    """Predict frames of OC20 for its evaluation server."""
    from eqmol.inference.oc20_server import write_predictions

    numbers = write_predictions(
        arguments.model,
        _splits(arguments.input),
        arguments.output,
        batch_size=arguments.batch_size,
        close_contacts=arguments.close_contacts,
        **how(arguments),
    )
    _say(console, *(f"{name}{': ' * bool(name)}{n} frames -> {arguments.output}" for name, n in numbers.items()))


def _splits(data: Sequence[str]) -> dict[str, list[Path]]:
    """Paths by the name of their split, "" where there is one without a name."""
    if all(Path(item).exists() or "=" not in item for item in data):
        return {"": expand_paths(data, "IN", folders=True)}
    splits: dict[str, list[str]] = {}
    for item in data:
        name, separator, path = item.partition("=")
        if not separator or not name or not path:
            raise InputError(
                f"{item!r} must name its split, like id=DATA ood_ads=DATA; or give data of one split alone"
            )
        splits.setdefault(name, []).append(path)
    return {name: expand_paths(paths, name, folders=True) for name, paths in splits.items()}


def _predict_files(
    arguments: argparse.Namespace,
    model: "Predictor",
    comparison: "Comparison",
    inputs: Sequence[Path],
    file: Any,
    states: "StateGuard",
    profile: "Profile | None" = None,
    part: "Part | None" = None,
) -> int:
    """Write every frame with its predictions and, of several files, where it comes from; return the number of frames."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from eqmol.inference.extxyz import write_frame
    from eqmol.inference.structures import attach, evaluated

    number = 0
    columns = (SpinnerColumn(), TextColumn("{task.completed} structures"), TimeElapsedColumn())
    console = Console(stderr=True)
    frames = comparison.frames(inputs) if part is None else part.own(comparison.frames(inputs))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("predict", total=None)
        for frame, result in evaluated(
            model, frames, arguments.batch_size, arguments.close_contacts, states, arguments.uncertainty
        ):
            atoms, _, source = frame
            attach(atoms, result | ({"source": source} if len(inputs) > 1 else {}), model)
            write_frame(file, atoms)
            comparison.add(frame, result)
            if profile is not None:
                profile.add(frame, result)
            number += 1
            progress.update(bar, completed=number)
    return number

"""Predictions for structures in memory, and ``predict.py`` for files.

torch and ASE are imported where they are used, so that ``predict.py --help`` answers at once.
"""

import argparse
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqmol.cli.options import exit_code, limit_threads
from eqmol.errors import InputError
from eqmol.files import replacing

if TYPE_CHECKING:
    import ase
    import torch
    from rich.console import Console
    from rich.table import Table

    from eqmol.graph import AtomGraph
    from eqmol.graph.electronic import StateGuard
    from eqmol.models.predictor import Predictor

    Frame = tuple[ase.Atoms, dict[str, Any], str]  # structure, labels, "path, frame 17"

MAX_EDGES = 200_000  # in a batch; bounds the memory, which grows with the edges
MOLECULES = (".sdf", ".mol2", ".smi")
PREFIX = "eqmol_"
PER_ATOM = ("forces", "charges")
KEYS = {"energy": "energy", "forces": "forces", "stress": "stress"}


def predict(
    atoms: "ase.Atoms | Iterable[ase.Atoms]",
    model: "str | os.PathLike[str] | Predictor",
    *,
    batch_size: int = 16,
    backend: str | Mapping[str, str] | None = None,
    device: "str | torch.device" = "cpu",
    dtype: "str | torch.dtype | None" = None,
    verify: bool = True,
    close_contacts: str = "stop",
    electronic_state: str = "stop",
) -> Any:
    """Predict energies and forces of structures.

    Args:
        atoms: one structure, or several.
        model: a model file or a model.
        batch_size: structures evaluated together; the results do not depend on it.
        backend, device, dtype, verify: see :func:`eqmol.load`; a backend is tuned and verified on the first batch.
        close_contacts, electronic_state: see :class:`eqmol.Calculator`.

    Returns:
        For one structure a dict, for several a list of dicts: ``energy`` (eV), ``energies`` [N] (eV), ``forces`` [N, 3]
        (eV/Å) and, if it is periodic in three directions, ``stress`` [3, 3] (eV/Å³, +dE/dstrain/V); float64 NumPy.

    Raises:
        InputError: see :func:`eqmol.load`; an element that the model has not seen, atoms that are much too close,
            positions or results that are not finite.
    """
    from ase import Atoms

    from eqmol.checkpoint import prepare
    from eqmol.graph.electronic import StateGuard

    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r} must be a positive integer")
    single = isinstance(atoms, Atoms)
    structures: list[Any] = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    for structure in structures:
        if not isinstance(structure, Atoms):
            raise InputError(f"predict takes ase.Atoms or several of them, not {type(structure).__name__}")
    sources = [""] if single else [f"structure {number}" for number in range(len(structures))]
    frames: list[Frame] = [(structure, {}, source) for structure, source in zip(structures, sources, strict=True)]
    potential = prepare(model, backend, device, dtype, verify)
    states = StateGuard(potential.electronic_state, electronic_state)
    results = [result for _, result in _evaluated(potential, frames, batch_size, close_contacts, states)]
    return results[0] if single else results


class Errors:
    """Mean absolute and root mean square errors of what has labels, summed frame by frame.

    Energies are compared per frame and per atom, forces and stress over all their components.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # quantity -> count, Σ|error|, Σ error²

    def add(self, result: Mapping[str, Any], labels: Mapping[str, Any], num_atoms: int) -> None:
        """Add one frame; labels without prediction and predictions without label are left out."""
        import numpy as np

        for label in labels.keys() & result.keys():
            error = np.ravel(result[label] - labels[label])
            self._add(label, error)
            if label == "energy":
                self._add("energy_per_atom", error / num_atoms)

    def _add(self, quantity: str, error: Any) -> None:
        sums = self._sums.setdefault(quantity, [0, 0.0, 0.0])
        sums[0] += error.size
        sums[1] += float(abs(error).sum())
        sums[2] += float((error**2).sum())

    def rows(self) -> Iterator[tuple[str, str, int, float, float]]:
        """Quantity, unit, number of compared values, MAE and RMSE in that unit."""
        units = {"energy": "meV", "energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
        for quantity, unit in units.items():
            if quantity in self._sums:
                count, absolute, square = self._sums[quantity]
                yield quantity, unit, int(count), 1000 * absolute / count, 1000 * math.sqrt(square / count)

    def summary(self) -> dict[str, float]:
        """The errors under the names of a training run's ``metrics.json``."""
        names = {"meV": "mev", "meV/atom": "mev_per_atom", "meV/Å": "mev_per_a", "meV/Å³": "mev_per_a3"}
        summary: dict[str, float] = {}
        for quantity, unit, _, mae, rmse in self.rows():
            quantity = quantity.removesuffix("_per_atom")
            summary |= {f"{quantity}_mae_{names[unit]}": mae, f"{quantity}_rmse_{names[unit]}": rmse}
        return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``predict.py``; return the exit code: 0, 2 after bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    limit_threads()
    return exit_code(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Predict energies (eV), forces (eV/Å) and, for structures that are periodic in three directions, "
        "stress (eV/Å³, Voigt order xx yy zz yz xz xy, positive where the lattice is stretched); or, with a model of "
        "properties, those, also for molecules without a structure.",
        epilog="The output is the input with eqmol_energy and eqmol_stress in info and eqmol_forces in arrays. "
        "Where the input has labels, a table of errors follows. Molecules give a table with one row each; those that fail are "
        "listed with the reason.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model.safetensors of a training run")
    add(
        "input",
        type=Path,
        nargs="?",
        metavar="IN",
        help="structures in any format that ASE reads, or molecules as .sdf, .mol2 or .smi (one SMILES and name a line), also .gz",
    )
    add("--smiles", metavar="SMILES", help="one molecule, instead of a file")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="extended XYZ file to write; of molecules a .csv, beside which an .sdf is written; of files or shards of OC20 an "
        ".npz for its evaluation server",
    )
    add("--conformers", type=_positive, default=10, metavar="N", help="structures tried for a SMILES (default: 10)")
    add("--relax", type=Path, metavar="POTENTIAL", help="relax molecules with this potential before the prediction")
    add(
        "--backend",
        metavar="NAME",
        help="tensor-product algorithm: cg, escn, gaunt, grid, or auto for the fastest on the first batch (default: the model's)",
    )
    add("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    add("--dtype", choices=("float32", "float64"), help="precision of the network (default: the model's)")
    add(
        "--verify",
        choices=("on", "off"),
        default="on",
        help="compare the algorithm with the reference on a part of the first batch (default: on)",
    )
    add(
        "--close-contacts",
        choices=("stop", "warn"),
        default="stop",
        help="what happens to structures with atoms much closer than any that the model was trained on (default: stop)",
    )
    add(
        "--electronic-state",
        choices=("stop", "warn"),
        default="stop",
        help="what happens to structures that state another charge or spin than the model was trained on (default: stop)",
    )
    add("--batch-size", type=_positive, default=16, metavar="N", help="structures at a time (default: 16)")
    add("--metrics", type=Path, metavar="OUT.json", help="also write the errors to this file")
    for label, key in KEYS.items():
        add(f"--{label}-key", metavar="KEY", help=f"where the input has the {label} to compare with (default: {key})")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    if arguments.smiles is not None or (arguments.input is not None and _holds_molecules(arguments.input)):
        _run_molecules(arguments, Console())
        return
    if arguments.input is None or arguments.output is None:
        raise InputError("give a file of structures and -o OUT.xyz, or --smiles SMILES; --help shows how")
    if arguments.output.suffix == ".npz":
        _run_leaderboard(arguments, Console())
        return
    if arguments.relax is not None:
        raise InputError(f"--relax is for molecules ({', '.join(MOLECULES)} or --smiles), not for {arguments.input}")
    given = {label: getattr(arguments, f"{label}_key") for label in KEYS}
    keys = {label: given[label] or default for label, default in KEYS.items()}
    _check_paths(arguments)
    with ExitStack() as files:  # both are opened before the work: a folder that cannot be written is found at once
        output = files.enter_context(replacing(arguments.output))
        metrics = None if arguments.metrics is None else files.enter_context(replacing(arguments.metrics))
        from eqmol.checkpoint import prepare
        from eqmol.graph.electronic import StateGuard

        verify = arguments.verify == "on"
        model = prepare(arguments.model, arguments.backend, arguments.device, arguments.dtype, verify)
        _check_labels(arguments.input, keys, given, metrics is not None)
        frames = _frames(arguments.input, keys)
        states = StateGuard(model.electronic_state, arguments.electronic_state)
        errors, num_frames = _predict_file(
            model, frames, output, arguments.batch_size, arguments.close_contacts, states
        )
        if metrics is not None:
            document = {"model": str(arguments.model), "input": str(arguments.input), "structures": num_frames}
            metrics.write(json.dumps(document | errors.summary(), indent=2) + "\n")
    console = Console()
    if errors.summary():
        console.print(_table(errors, arguments.input.name))
    if states.different:
        console.print(
            f"{states.different} of {num_frames} structures state another charge or spin than the training set "
            f"({states.trained.words()}), which the model does not know",
            soft_wrap=True,
            highlight=False,
        )
    console.print(f"{num_frames} structures -> {arguments.output}", soft_wrap=True, highlight=False)


def _holds_molecules(path: Path) -> bool:
    from eqmol.bounded import COMPRESSED

    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower() in MOLECULES


def _run_molecules(arguments: argparse.Namespace, console: "Console") -> None:
    """Predict molecules; the files are written when all are done."""
    from eqmol.checkpoint import prepare
    from eqmol.inference.calculator import Calculator
    from eqmol.inference.molecules import screen, structure_note, table, write
    from eqmol.molecules.molecule import from_smiles, read_molecules

    if arguments.smiles is not None and arguments.input is not None:
        raise InputError(f"give either {arguments.input} or --smiles, not both")
    if arguments.output is None and arguments.smiles is None:
        raise InputError(f"give the table to write for {arguments.input}: -o OUT.csv")
    if arguments.output is not None and arguments.output.suffix != ".csv":
        raise InputError(f"{arguments.output}: molecules give a table; give a name that ends in .csv")
    if arguments.input is not None and arguments.output.with_suffix(".sdf").resolve() == arguments.input.resolve():
        raise InputError(
            f"{arguments.output} is written together with {arguments.input}, which is the input; rename one"
        )
    if arguments.metrics is not None:
        raise InputError(
            "--metrics compares with labels, which molecules from SMILES and SDF do not have; leave it out"
        )
    settings = (arguments.backend, arguments.device, arguments.dtype, arguments.verify == "on")
    model = prepare(arguments.model, *settings)
    mode = arguments.close_contacts
    relax = (
        None if arguments.relax is None else Calculator(arguments.relax, device=arguments.device, close_contacts=mode)
    )
    if arguments.smiles is not None:
        entries: Any = [from_smiles(arguments.smiles, conformers=arguments.conformers)]
    else:
        entries = read_molecules(arguments.input, arguments.conformers)
    predictions = list(screen(model, entries, arguments.batch_size, relax, mode))
    failed = [prediction for prediction in predictions if prediction.problem]
    if arguments.output is not None:
        write(predictions, arguments.output)
    if len(failed) < len(predictions):
        console.print(table(predictions))
    if note := structure_note(predictions):
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    for prediction in failed:
        console.print(f"{prediction.name}: {prediction.problem}", soft_wrap=True, highlight=False, markup=False)
    if arguments.output is not None:
        sdf = arguments.output.with_suffix(".sdf")
        counts = f"{len(predictions) - len(failed)} of {len(predictions)} molecules"
        console.print(f"{counts} -> {arguments.output}, {sdf}", soft_wrap=True, highlight=False)
    if len(failed) == len(predictions):
        raise InputError("no molecule could be predicted; the reasons are above")


def _run_leaderboard(arguments: argparse.Namespace, console: "Console") -> None:
    """Predict frames of OC20 for its evaluation server."""
    from eqmol.inference.oc20_server import write_predictions

    numbers = write_predictions(
        arguments.model,
        {"": arguments.input},
        arguments.output,
        backend=arguments.backend,
        device=arguments.device,
        batch_size=arguments.batch_size,
        close_contacts=arguments.close_contacts,
    )
    console.print(f"{numbers['']} frames -> {arguments.output}", soft_wrap=True, highlight=False)


def _check_paths(arguments: argparse.Namespace) -> None:
    """Refuse to overwrite what is read, and an output whose format could not hold the results."""
    if arguments.output.suffix not in (".xyz", ".extxyz"):
        raise InputError(f"{arguments.output}: the output is extended XYZ; give a name that ends in .xyz or .extxyz")
    targets = [path for path in (arguments.output, arguments.metrics) if path is not None]
    for target in targets:
        for source in (arguments.model, arguments.input):
            if target.exists() and source.exists() and target.samefile(source):
                raise InputError(f"{target} would overwrite the input {source}; give another name")
    if len(targets) == 2 and targets[0].resolve() == targets[1].resolve():
        raise InputError(f"{targets[0]} cannot hold both the structures and the metrics; give two names")


def _check_labels(path: Path, keys: dict[str, str], given: dict[str, str | None], wanted: bool) -> None:
    """Find out before the work whether labels that were asked for are there at all."""
    missing = {label for label, key in given.items() if key is not None}
    if not missing and not wanted:
        return
    for _, labels, _ in _frames(path, keys):
        missing -= labels.keys()
        wanted = wanted and not labels
        if not missing and not wanted:
            return
    if missing:
        label = min(missing)
        raise InputError(f"{path}: no frame has the {label} under the key {given[label]!r}; correct --{label}-key")
    raise InputError(
        f"{path}: no frame has a label under the keys {', '.join(keys.values())}, so there is nothing to compare for "
        f"--metrics; name the labels by --energy-key and --forces-key"
    )


def _frames(path: Path, keys: dict[str, str]) -> "Iterator[Frame]":
    from eqmol.data.reader import read_frames

    return read_frames(path, keys["energy"], keys["forces"], keys["stress"])


def _predict_file(
    model: "Predictor", frames: "Iterator[Frame]", file: Any, batch_size: int, close_contacts: str, states: "StateGuard"
) -> tuple[Errors, int]:
    """Write every frame with its predictions; return the errors and the number of frames."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from eqmol.inference.extxyz import write_frame

    errors, number = Errors(), 0
    columns = (SpinnerColumn(), TextColumn("{task.completed} structures"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("predict", total=None)
        for (atoms, labels, _), result in _evaluated(model, frames, batch_size, close_contacts, states):
            _attach(atoms, result)
            write_frame(file, atoms)
            errors.add(result, labels, len(atoms))
            number += 1
            progress.update(bar, completed=number)
    return errors, number


def _attach(atoms: "ase.Atoms", result: Mapping[str, Any]) -> None:
    """Write predictions beside what the structure carries, in place of those of an earlier prediction."""
    from ase.stress import full_3x3_to_voigt_6_stress

    for place in (atoms.info, atoms.arrays):
        for key in [key for key in place if key.startswith(PREFIX)]:
            del place[key]
    for name, value in result.items():
        if name in PER_ATOM:
            atoms.arrays[PREFIX + name] = value
        elif name != "energies":
            atoms.info[PREFIX + name] = full_3x3_to_voigt_6_stress(value) if name == "stress" else value


def _evaluated(
    model: "Predictor", frames: "Iterable[Frame]", batch_size: int, close_contacts: str, states: "StateGuard"
) -> "Iterator[tuple[Frame, dict[str, Any]]]":
    """Each frame with its prediction, in order; holds one batch in memory."""
    from eqmol.inference.evaluate import close_contacts as guard_of
    from eqmol.inference.evaluate import evaluate_graphs, graph_of

    contacts = guard_of(model, close_contacts)
    batch: list[Frame] = []
    graphs: list[AtomGraph] = []
    for frame in frames:
        graph = graph_of(model, frame[0], frame[2], contacts=contacts)
        states.check(frame[0], frame[2])
        if len(batch) == batch_size or (batch and sum(g.num_edges for g in [*graphs, graph]) > MAX_EDGES):
            yield from zip(batch, evaluate_graphs(model, graphs), strict=True)
            batch, graphs = [], []
        batch.append(frame)
        graphs.append(graph)
    if batch:
        yield from zip(batch, evaluate_graphs(model, graphs), strict=True)


def _table(errors: Errors, title: str) -> "Table":
    from rich.table import Table

    table = Table(title=f"errors against the labels of {title}")
    for name in ("quantity", "unit", "values", "MAE", "RMSE"):
        table.add_column(name, justify="left" if name in ("quantity", "unit") else "right")
    for quantity, unit, count, mae, rmse in errors.rows():
        table.add_row(quantity.replace("_", " "), unit, str(count), f"{mae:.3f}", f"{rmse:.3f}")
    return table

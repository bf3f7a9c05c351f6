"""``eqmol convert IN OUT``: a model of mace-torch as one of eqmol, or one of eqmol in a larger space of functions."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eqmol.cli.options import Parser, exit_code, file_path, integer, one_file
from eqmol.errors import InputError
from eqmol.files import expand_paths

if TYPE_CHECKING:
    import ase
    from rich.table import Table

    from eqmol.models import Potential
    from eqmol.tuning.verify import Difference

SIZES = {
    "channels": (integer(1, 2048), "number of channels"),
    "degree": (integer(0, 16), "highest degree of the features between layers"),
    "filter_degree": (integer(0, 16), "highest degree of the edges' harmonics"),
    "correlation": (integer(1, 6), "highest order of the powers"),
    "fields": (integer(1, 16), "differently mixed fields that are raised to powers"),
    "widen": (integer(1, 64), "blocks of channels with radial weights of their own"),
}


def main(argv: Sequence[str], program: str = "eqmol convert") -> int:
    """Run the command; return the exit code: 0, 1 if the models differ, 2 after bad input, 130 after Ctrl-C."""
    return exit_code(lambda: _run(_parser(program).parse_args(argv)))


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Write a larger model that computes the same as IN, to be trained further (init_from=OUT). Or read a model "
        "that mace-torch has written, without running anything that it holds. Nothing is written unless energies, forces and "
        "stress of both models agree.",
        epilog="What is not given stays as it is in IN. Another algorithm needs no conversion: give --backend or backend= "
        "where the model is used.",
    )
    add = parser.add_argument
    add("source", type=one_file, metavar="IN", help="model.safetensors of a training run, or a .model of mace-torch")
    add("target", type=file_path, metavar="OUT", help="model file to write")
    add("--family", choices=("coupled", "gaunt"), help="coupled: a weight for every path")
    add("--parity", choices=("o3", "so3"), help="so3: all paths, also those that tell mirror images apart")
    for name, (kind, text) in SIZES.items():
        add(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)
    add("--head", metavar="NAME", help="of a model of mace-torch with several heads, the one to take")
    add("--dtype", choices=("float32", "float64"), help="of OUT, from a model of mace-torch (default: as in IN)")
    add(
        "--mace-python",
        type=file_path,
        metavar="PATH",
        help="an interpreter that has mace-torch, with which it is compared; it unpickles IN, which may run code: trust IN",
    )
    add("--to", choices=("mace",), help="write a model of eqmol as one of mace-torch; needs --mace-python")
    add("--structures", nargs="+", metavar="FILE", help="structures for the proof (default: generated ones)")
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    add("--seed", type=integer(0, 2**31), default=0, metavar="N", help="of the new random weights (default: 0)")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    import torch
    from rich.console import Console

    from eqmol.checkpoint import for_prediction, load, read_header, save
    from eqmol.cli import convert_mace
    from eqmol.convert.convert import EXACT, ROUNDED, convert, differences, num_parameters
    from eqmol.convert.mace_torch.parts import is_archive
    from eqmol.models import Potential

    source, target = arguments.source, arguments.target
    wanted = {name: getattr(arguments, name) for name in ("family", "parity", *SIZES)}
    if is_archive(source) or arguments.to == "mace":
        given = [f"--{name.replace('_', '-')}" for name, value in wanted.items() if value is not None]
        arguments.examples = lambda model: _structures(arguments.structures, model)
        return convert_mace.run(arguments, given) if is_archive(source) else convert_mace.write(arguments, given)
    for name in ("head", "dtype", "mace_python"):
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for models of mace-torch; {source} is none")
    header = read_header(source)
    if target.exists() and (target.samefile(source) or not arguments.overwrite):
        hint = "give another name" if target.samefile(source) else "give another name, or --overwrite"
        raise InputError(f"{target} exists; {hint}")
    old = load(source, dtype=torch.float64)
    if not isinstance(old, Potential):
        raise InputError(f"{source} holds a {type(old).__name__}; only potentials can be converted yet")
    new = convert(old, {name: value for name, value in wanted.items() if value is not None}, arguments.seed)
    stored = for_prediction(new, dtype=header.dtype)
    rounded = for_prediction(stored, dtype=torch.float64)
    assert isinstance(rounded, Potential)
    structures = _structures(arguments.structures, old)
    checks = {
        "exact": differences(old, new, structures, EXACT),
        "as written": differences(old, rounded, structures, ROUNDED[header.dtype]),
    }
    console = Console()
    console.print(_table(checks, len(structures), str(header.dtype).removeprefix("torch.")))
    wrong = [d for found in checks.values() for d in found if not d.acceptable]
    if wrong:
        worst = wrong[0]
        print(
            f"error: the models differ by {worst.largest:.2e} {worst.unit} in the {worst.quantity}, more than the allowed "
            f"{worst.tolerance:.2e}; nothing was written",
            file=sys.stderr,
        )
        return 1
    metrics = {name: value for name, value in header.document["metrics"].items() if name != "run"}  # no run made it
    save(stored, target, recipe=new.recipe, metrics=metrics)
    console.print(
        f"{num_parameters(old)} -> {num_parameters(new)} parameters: {source} -> {target}",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def _structures(files: Sequence[str] | None, model: "Potential") -> "list[ase.Atoms]":
    from eqmol.convert.convert import example_structures
    from eqmol.data.xyz.reader import read_frames

    if files is None:
        found = list(example_structures(model.elements, model.cutoff))
        return found if model.conservative else [atoms for atoms in found if not atoms.pbc.any()]
    return [atoms for path in expand_paths(files, "--structures") for atoms, _, _ in read_frames(path)]


def _table(checks: "Mapping[str, list[Difference]]", number: int, dtype: str) -> "Table":
    from rich.table import Table

    table = Table(title=f"old and new model on {number} structures")
    for name in ("quantity", "unit", "weights", "largest difference", "allowed"):
        table.add_column(name, justify="right" if name in ("largest difference", "allowed") else "left")
    for kind, found in checks.items():
        for d in found:
            weights = "float64" if kind == "exact" else f"{dtype}, as written"
            table.add_row(d.quantity, d.unit, weights, f"{d.largest:.1e}", f"{d.tolerance:.1e}")
    return table

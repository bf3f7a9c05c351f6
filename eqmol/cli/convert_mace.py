"""``eqmol convert IN.model OUT.safetensors``: a model of mace-torch as one of eqmol, and with ``--to mace`` the way back."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqmol.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from eqmol.convert.mace_torch.model import Found
    from eqmol.tuning.verify import Difference


def run(arguments: argparse.Namespace, elsewhere: list[str]) -> int:
    """Convert, prove and write.

    Args:
        arguments: of the command.
        elsewhere: options given that are for models of eqmol.
    """
    import torch
    from rich.console import Console

    from eqmol.checkpoint import as_dtype, for_prediction, save
    from eqmol.convert.convert import EXACT, ROUNDED, compare, num_parameters
    from eqmol.convert.mace_torch import proof
    from eqmol.convert.mace_torch.model import convert_mace
    from eqmol.convert.mace_torch.parts import read_model
    from eqmol.convert.mace_torch.proof import SINGLE, evaluate, invariances, isolated_atoms
    from eqmol.models import Potential

    source, target = arguments.source, arguments.target
    if elsewhere:
        raise InputError(
            f"{', '.join(elsewhere)} enlarge models of eqmol; convert {source} first, then enlarge {target}"
        )
    if target.exists() and not arguments.overwrite:
        raise InputError(f"{target} exists; give another name, or --overwrite")
    root = read_model(source)
    try:
        found = convert_mace(root, arguments.head)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    model = found.model
    dtype = as_dtype(arguments.dtype) if arguments.dtype else torch.float32 if found.single else torch.float64
    stored = for_prediction(model, dtype=dtype)
    rounded = for_prediction(stored, dtype=torch.float64)
    assert isinstance(rounded, Potential)
    structures = arguments.examples(model)
    head = found.head if len(found.heads) > 1 else None
    answer = arguments.mace_python and proof.ask_mace(arguments.mace_python, source, head, structures)
    own = evaluate(model, structures)
    checks = {} if answer is None else {"mace-torch": compare(answer, own, SINGLE if found.single else EXACT)}
    checks |= {
        "isolated atoms, from the file": [isolated_atoms(root, found)],
        "turned, moved, reordered": invariances(model, structures),
        f"as written, {str(dtype).removeprefix('torch.')}": compare(own, evaluate(rounded, structures), ROUNDED[dtype]),
    }
    console = Console()
    console.print(_description(found))
    console.print(_table(checks, len(structures)))
    if _differ(checks):
        return 1
    if arguments.mace_python is None:
        console.print("not compared with mace-torch; --mace-python PATH of an interpreter that has it does that")
    save(stored, target, recipe=model.recipe)
    console.print(f"{num_parameters(model)} parameters: {source} -> {target}", soft_wrap=True, highlight=False)
    console.print(f"to train it further: {training_command(model.recipe, target)}", soft_wrap=True, highlight=False)
    return 0


def write(arguments: argparse.Namespace, elsewhere: list[str]) -> int:
    """Write a model of eqmol as one of mace-torch, after a proof by mace-torch itself; arguments as of :func:`run`."""
    import torch
    from rich.console import Console

    from eqmol.checkpoint import load
    from eqmol.convert.convert import EXACT, compare
    from eqmol.convert.mace_torch import proof
    from eqmol.convert.mace_torch.export import export, kept_repulsion
    from eqmol.convert.mace_torch.proof import evaluate
    from eqmol.models import Potential

    source, target = arguments.source, arguments.target
    if elsewhere:
        raise InputError(f"{', '.join(elsewhere)} and --to mace cannot be given together; convert twice")
    if arguments.mace_python is None:
        raise InputError(
            "--to mace needs --mace-python PATH, an interpreter that has mace-torch, which writes the file"
        )
    if target.exists() and (target.samefile(source) or not arguments.overwrite):
        raise InputError(f"{target} exists; give another name, or --overwrite")
    model = load(source, dtype=torch.float64)
    if not isinstance(model, Potential):
        raise InputError(f"{source} holds a {type(model).__name__}; mace-torch has potentials only")
    model.requires_grad_(False)
    structures = arguments.examples(model)
    with tempfile.TemporaryDirectory(dir=target.resolve().parent, prefix=".eqmol-") as folder:
        written = Path(folder) / "model"
        export(model, arguments.mace_python, written)
        answer = proof.ask_mace(arguments.mace_python, written, None, structures)
        checks = {"mace-torch": compare(answer, evaluate(model, structures), EXACT)}
        console = Console()
        console.print(_table(checks, len(structures)))
        if _differ(checks):
            return 1
        os.replace(written, target)
    if model.repulsion is not None and kept_repulsion(model) is None:
        console.print(
            "its repulsion of nuclei below the distances of the training set (zbl=auto) is left out, which mace-torch cannot hold: "
            "energies are the model's at all distances that it was trained on"
        )
    if model.binding is not None:
        console.print(
            "its E0s are those of atoms with neighbours, as mace-torch has one constant for each element: energies of bonded atoms "
            "are the model's, those of free atoms are not"
        )
    console.print(f"{source} -> {target}, a model of mace-torch in float64", soft_wrap=True, highlight=False)
    return 0


def _differ(checks: "dict[str, list[Difference]]") -> bool:
    """Say what differs most, of the first check that fails."""
    wrong = [(kind, d) for kind, differences in checks.items() for d in differences if not d.acceptable]
    if wrong:
        kind, worst = wrong[0]
        print(
            f"error: {worst.quantity} differ by {worst.largest:.2e} {worst.unit} ({kind}), more than the allowed "
            f"{worst.tolerance:.2e}; nothing was written",
            file=sys.stderr,
        )
    return bool(wrong)


def training_command(recipe: dict[str, Any], path: Path) -> str:
    """The command that trains on from a converted model: its sizes must be said, since a run is described by its options alone."""
    import shlex

    kept = ("_target_", "backend", "family", "elements", "avg_num_neighbors")
    options = [f"model.{name}={_option(value)}" for name, value in recipe["backbone"].items() if name not in kept]
    options += [f"predictor.{name}={_option(recipe[name])}" for name in ("zbl", "readout_hidden")]
    words = [
        "eqmol",
        "train",
        "model=mace",
        "backend=cg",
        f"init_from={path}",
        *options,
        "data=xyz",
        "data.train_file=...",
    ]
    return " ".join(shlex.quote(word) for word in words)


def _option(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_option(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_option, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _description(found: "Found") -> "Table":
    from ase.data import chemical_symbols
    from rich.table import Table

    recipe = found.model.recipe
    backbone = recipe["backbone"]
    names = [chemical_symbols[z] for z in recipe["elements"]]
    some = [f"{name} {e0:.4f}" for name, e0 in zip(names, recipe["e0"], strict=True)]
    rows = {
        "elements": f"{len(names)}: {', '.join(names)}",
        "energies of isolated atoms (eV)": ", ".join(some[:6]) + (", ..." if len(some) > 6 else ""),
        "cutoff (Å)": f"{backbone['cutoff']:g}",
        "interaction blocks": ", ".join(found.interactions),
        "channels, degree, degree of harmonics": f"{backbone['channels']}, {backbone['degree']}, {backbone['filter_degree']}",
        "order of products": str(backbone["correlation"]),
        "distance transform": str((backbone["distance_transform"] or {"kind": "none"})["kind"]),
        "repulsion of nuclei": "ZBL" if recipe["zbl"] else "none",
        "heads": f"{found.head}, of {', '.join(found.heads[:20])}" if len(found.heads) > 1 else found.head,
        "constants": "float32" if found.single else "float64",
    }
    table = Table(title="a model of mace-torch", show_header=False)
    for row in rows.items():
        table.add_row(*row)
    return table


def _table(checks: "dict[str, list[Difference]]", number: int) -> "Table":
    from rich.table import Table

    table = Table(title=f"proof on {number} structures")
    for name in ("compared with", "quantity", "unit", "largest difference", "allowed"):
        table.add_column(name, justify="right" if name in ("largest difference", "allowed") else "left")
    for kind, differences in checks.items():
        for d in differences:
            table.add_row(kind, d.quantity, d.unit, f"{d.largest:.1e}", f"{d.tolerance:.1e}")
    return table

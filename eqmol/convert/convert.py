"""Continue training in a larger space of functions: ``python -m eqmol.convert IN.safetensors OUT.safetensors family=coupled``.

The new model computes what the old one does, and proves it before anything is written: energies, forces and stress of both are
compared in float64, first exactly, then with the new weights rounded to the precision of the file.
"""

import inspect
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.data import covalent_radii
from rich.console import Console
from rich.table import Table

from eqmol.checkpoint import build, default_dtype, load, prepare, read_header, save
from eqmol.cli.options import Option, choice, describe_options, exit_code, flag, integer, path, read_options
from eqmol.convert.enlarge import GROWTHS, Growth, enlarge
from eqmol.convert.weights import missing_weights
from eqmol.data.reader import read_frames
from eqmol.errors import InputError
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from eqmol.ops.registry import can_run

#: Largest difference allowed, where the largest force component is 1 eV/Å or less; it grows with that force.
EXACT = 1e-9  #: eV per atom, eV/Å, eV/Å³ in float64
ROUNDED = {torch.float64: EXACT, torch.float32: 1e-4}  #: the same once the weights are rounded to the file's precision

OPTIONS = {
    "family": Option(choice("coupled", "gaunt"), None, "coupled: a weight for every path"),
    "parity": Option(choice("o3", "so3"), None, "so3: all paths, also those that tell mirror images apart"),
    "channels": Option(integer(1, 2048), None, "number of channels"),
    "degree": Option(integer(0, 12), None, "highest degree of the features between layers"),
    "filter_degree": Option(integer(0, 12), None, "highest degree of the edges' harmonics"),
    "correlation": Option(integer(1, 6), None, "highest order of the powers"),
    "fields": Option(integer(1, 16), None, "differently mixed fields that are raised to powers"),
    "structures": Option(path, None, "file of structures for the proof (default: generated ones)"),
    "overwrite": Option(flag, False, "true: replace OUT if it exists"),
    "seed": Option(integer(0, 2**31), 0, "of the new random weights (default: 0)"),
}
_SETTINGS = ("structures", "overwrite", "seed")
USAGE = f"""usage: python -m eqmol.convert IN.safetensors OUT.safetensors name=value ...

Write a larger model that computes the same as IN, to be trained further. Options (default: as in IN):
{describe_options(OPTIONS)}
Nothing is written unless energies, forces and stress of both models agree. Another algorithm needs no conversion: give
backend= when the model is used."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of one quantity between two models, and how much is allowed; both in ``unit``."""

    quantity: str
    unit: str
    largest: float
    tolerance: float


def convert(old: Potential, changes: Mapping[str, Any], seed: int = 0) -> Potential:
    """A model that computes what ``old`` does, in a larger space of functions; in float64.

    Args:
        old: in float64, with its recipe.
        changes: arguments of the backbone and their new values.
        seed: of the new weights that are not zero.

    Raises:
        InputError: a change that takes something away, saying how much, or that changes nothing.
    """
    growth = _growth_of(old)
    before = _arguments(old)
    for name in changes:
        if name not in (*growth.sizes, "family", "parity"):
            raise InputError(
                f"{name} of this model's {type(old.backbone).__name__} cannot grow while the function is kept"
            )
    changes = {name: value for name, value in changes.items() if value != before[name]}
    if not changes:
        able = ", ".join(f"{name}=" for name in ("family", "parity", *growth.sizes))
        raise InputError(f"nothing changes; give a new value for at least one of {able}")
    after = {**old.recipe["backbone"], **changes}
    after["backend"] = _able_backend(after["backend"], after["family"])
    with torch.random.fork_rng(devices=[]), default_dtype(torch.float64):
        torch.manual_seed(seed)
        new = build({**old.recipe, "backbone": after})
    assert isinstance(new, Potential)
    new.sections, new.aux = dict(old.sections), dict(old.aux)
    _refuse_losses(old, new, changes)
    enlarge(old, new)
    return new.eval()


def _growth_of(model: Potential) -> Growth:
    growth = GROWTHS.get(type(model.backbone))
    if growth is None:
        raise InputError(f"a model with the backbone {type(model.backbone).__name__} cannot be enlarged yet")
    return growth


def _arguments(model: Potential) -> dict[str, Any]:
    """Arguments of the backbone, those that the recipe leaves out too."""
    signature = inspect.signature(type(model.backbone).__init__).parameters
    return {name: p.default for name, p in signature.items()} | model.recipe["backbone"]


def _able_backend(backend: str | Mapping[str, str], family: str | Mapping[str, str]) -> str | dict[str, str]:
    """The backend, with cg in place of what cannot run the families."""
    families = {family} if isinstance(family, str) else set(family.values())

    def able(name: str) -> str:
        return name if all(can_run(name, each) for each in families) else "cg"

    return able(backend) if isinstance(backend, str) else {operation: able(name) for operation, name in backend.items()}


def _refuse_losses(old: Potential, new: Potential, changes: Mapping[str, Any]) -> None:
    growth, before = _growth_of(old), _arguments(old)
    for name in growth.sizes:
        if name in changes and changes[name] < before[name]:
            missing = num_parameters(old) - num_parameters(new)
            raise InputError(
                f"{name}={changes[name]} is less than the model's {before[name]}: {missing} of its {num_parameters(old)} "
                f"parameters would be lost, and a conversion only enlarges; train a new model instead"
            )
    specs = growth.specs(old.backbone), growth.specs(new.backbone)
    lost = {name: missing_weights(spec, specs[1][name]) for name, spec in specs[0].items()}
    if any(lost.values()):
        wanted = " ".join(f"{name}={value}" for name, value in changes.items())
        detail = ", ".join(f"{n} of {specs[0][name].num_weights} of the {name}" for name, n in lost.items() if n)
        raise InputError(
            f"{wanted} cannot hold this model ({before['family']}, {before['parity']}): weights per channel without a place "
            f"are {detail}; a conversion only enlarges, so train a new model instead"
        )


def num_parameters(model: Potential) -> int:
    """Number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def differences(old: Potential, new: Potential, structures: Iterable[ase.Atoms], allowed: float) -> list[Difference]:
    """Compare energies per atom, forces and stress.

    Args:
        old, new: in float64, in evaluation mode.
        structures: at least one.
        allowed: largest difference (eV, eV/Å, eV/Å³) for forces of 1 eV/Å.

    Raises:
        InputError: an element that the models do not know, or a result that is not finite.
    """
    largest = {"energies": 0.0, "forces": 0.0, "stress": 0.0}
    force = 1.0
    for number, atoms in enumerate(structures):
        graph = graph_of(old, atoms, f"structure {number}")
        expected, result = (evaluate_graphs(model, [graph])[0] for model in (old, new))
        force = max(force, float(np.abs(expected["forces"]).max()))
        for name in largest.keys() & expected.keys():
            largest[name] = max(largest[name], float(np.abs(result[name] - expected[name]).max()))
    units = {"energies": ("energy", "eV/atom"), "forces": ("forces", "eV/Å"), "stress": ("stress", "eV/Å³")}
    return [Difference(*units[name], value, allowed * force) for name, value in largest.items()]


def example_structures(elements: Sequence[int], cutoff: float, seed: int = 0) -> Iterator[ase.Atoms]:
    """Two clusters and a triclinic crystal, disordered, in which every element has neighbours of several others."""
    rng = np.random.default_rng(seed)
    spacing = min(2.2 * float(np.max(covalent_radii[list(elements)])), 0.7 * cutoff)
    side = max(2, math.ceil(len(elements) ** (1 / 3)))
    for shape in ((side, side, side), (side + 1, side, side), (side, side, side)):
        sites = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        numbers = rng.permutation(np.resize(elements, len(sites)))
        lattice = spacing * (np.eye(3) + np.array([[0, 0.1, 0], [-0.15, 0, 0.1], [0.2, 0, 0]]))
        positions = sites @ lattice + rng.uniform(-0.12, 0.12, (len(sites), 3)) * spacing
        yield ase.Atoms(numbers, positions)
    yield ase.Atoms(numbers, positions, cell=np.array(shape)[:, None] * lattice, pbc=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 1 if the models differ, 2 after bad input, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    return exit_code(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) != 2:
        raise InputError(f"give the model and the file to write, not {len(files)} files; --help shows how")
    source, target = map(Path, files)
    options = read_options([argument for argument in arguments if "=" in argument], OPTIONS)
    changes = {name: v for name, v in options.items() if v is not None and name not in _SETTINGS}
    header = read_header(source)
    if target.exists() and (target.samefile(source) or not options["overwrite"]):
        hint = "give another name" if target.samefile(source) else "give another name, or overwrite=true"
        raise InputError(f"{target} exists; {hint}")
    old = load(source, dtype=torch.float64)
    if not isinstance(old, Potential):
        raise InputError(f"{source} holds a {type(old).__name__}; only potentials can be converted yet")
    new = convert(old, changes, options["seed"])
    stored = prepare(new, dtype=header.dtype)
    widened = prepare(stored, dtype=torch.float64)
    assert isinstance(widened, Potential)
    structures = _structures(options["structures"], old)
    checks = {
        "exact": differences(old, new, structures, EXACT),
        "as written": differences(old, widened, structures, ROUNDED[header.dtype]),
    }
    console = Console()
    console.print(_table(checks, len(structures), str(header.dtype).removeprefix("torch.")))
    wrong = [d for found in checks.values() for d in found if not d.largest <= d.tolerance]
    if wrong:
        worst = wrong[0]
        print(
            f"error: the models differ by {worst.largest:.2e} {worst.unit} in the {worst.quantity}, more than the allowed "
            f"{worst.tolerance:.2e}; nothing was written",
            file=sys.stderr,
        )
        return 1
    save(stored, target, recipe=new.recipe, metrics=header.document["metrics"])
    console.print(
        f"{num_parameters(old)} -> {num_parameters(new)} parameters: {source} -> {target}",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def _structures(file: str | None, model: Potential) -> list[ase.Atoms]:
    if file is None:
        found = list(example_structures(model.elements, model.cutoff))
        return found if model.conservative else [atoms for atoms in found if not atoms.pbc.any()]
    found = [atoms for atoms, _, _ in read_frames(file)]
    if not found:
        raise InputError(f"{file} has no structures to compare the models on")
    return found


def _table(checks: Mapping[str, list[Difference]], number: int, dtype: str) -> Table:
    table = Table(title=f"old and new model on {number} structures")
    for name in ("quantity", "unit", "weights", "largest difference", "allowed"):
        table.add_column(name, justify="right" if name in ("largest difference", "allowed") else "left")
    for kind, found in checks.items():
        for d in found:
            weights = "float64" if kind == "exact" else f"{dtype}, as written"
            table.add_row(d.quantity, d.unit, weights, f"{d.largest:.1e}", f"{d.tolerance:.1e}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())

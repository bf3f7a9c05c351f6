"""What the commands that evaluate a model share: the options of its arithmetic and guards, and their checks."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqmol.errors import InputError

if TYPE_CHECKING:
    from eqmol.models.predictor import Predictor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`load_model`, and of the guard against close contacts."""
    add = parser.add_argument
    add(
        "--backend",
        metavar="NAME",
        help="tensor-product algorithm: cg, escn, gaunt, gaunt_fft, grid, or auto for the fastest on the first batch (default: the "
        "model's)",
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
        "--kernels",
        choices=("auto", "off", "require"),
        help="compile tensor products for this machine: where there is a compiler, never, or always (default: $EQMOL_KERNELS, "
        "else auto)",
    )
    add(
        "--radial-table",
        choices=("auto", "off"),
        help="read radial weights from tables that are as exact as float32, or evaluate the network (default: $EQMOL_RADIAL_TABLE, "
        "else auto)",
    )
    add("--head", metavar="NAME", help="of a model with several heads, the one to take")
    add(
        "--close-contacts",
        choices=("stop", "warn"),
        default="stop",
        help="what happens to structures with atoms much closer than any that the model was trained on (default: stop)",
    )


def add_electronic_state(parser: argparse.ArgumentParser) -> None:
    """Add the option of the guard for files that may state a charge or a spin."""
    parser.add_argument(
        "--electronic-state",
        choices=("stop", "warn"),
        default="stop",
        help="what happens to structures that state another charge or spin than the model was trained on (default: stop)",
    )


def load_model(arguments: argparse.Namespace) -> "Predictor":
    """Return the model of the options."""
    from eqmol.checkpoint import for_prediction

    return for_prediction(arguments.model, **how(arguments))


def how(arguments: argparse.Namespace) -> dict[str, Any]:
    """How a model is evaluated, as :func:`eqmol.checkpoint.for_prediction` takes it."""
    same = {
        name: getattr(arguments, name) for name in ("backend", "device", "dtype", "kernels", "radial_table", "head")
    }
    return same | {"verify": arguments.verify == "on"}


def check_outputs(outputs: Sequence[Path | None], inputs: Sequence[Path]) -> None:
    """Refuse to overwrite what is read, an output whose format could not hold the results, and one file for two things.

    Args:
        outputs: the first holds structures; None for those that are not wanted.
        inputs: what is read.
    """
    written = [path for path in outputs if path is not None]
    if written[0].suffix not in (".xyz", ".extxyz"):
        raise InputError(f"{written[0]}: the output is extended XYZ; give a name that ends in .xyz or .extxyz")
    for number, target in enumerate(written):
        for source in inputs:
            if target.exists() and source.exists() and target.samefile(source):
                raise InputError(f"{target} would overwrite the input {source}; give another name")
        if target.resolve() in [path.resolve() for path in written[:number]]:
            raise InputError(f"{target} cannot hold two different things; give two names")

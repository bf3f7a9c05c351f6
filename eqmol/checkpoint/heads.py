"""One head of a model of several: a model without heads that computes the same."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from eqmol.errors import InputError, short

#: Arguments with a list for each head, and the tensor of those that are in files.
LISTS, ENERGIES = ("e0", "binding"), "reference.e0"
READOUTS = "readouts."


def choose(
    recipe: Mapping[str, Any], tensors: Mapping[str, Tensor], head: object, needed: bool
) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Return recipe and weights of one head.

    Args:
        recipe: of a model that can be built.
        tensors: its state dict.
        head: a name; None: all, or the one there is.
        needed: refuse None where there are several.

    Raises:
        InputError: a name that is not there, or none is given.
    """
    names = list(recipe.get("readout_heads") or ())
    if head is None and not (names and needed):
        return recipe, tensors
    if not names:
        raise InputError(f"the model has no heads to choose from, and head={short(head)} is given; leave it out")
    if head is None:
        raise InputError(f"the model has the heads {', '.join(names)}; choose one by head= or --head")
    if head not in names:
        raise InputError(f"the model has no head {short(head)}; choose among {', '.join(names)}")
    number = names.index(head)
    one = {name: value for name, value in recipe.items() if name != "readout_heads"}
    one |= {name: recipe[name][number] for name in LISTS if recipe.get(name) is not None}
    places = {int(name.split(".")[1]) for name in tensors if name.startswith(READOUTS)}
    size = len(places) // len(names)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == ENERGIES:
            tensor = tensor.view(len(names), -1)[number].clone()
        elif name.startswith(READOUTS):
            _, place, rest = name.split(".", 2)
            if int(place) // size != number:
                continue
            name = f"{READOUTS}{int(place) % size}.{rest}"
        found[name] = tensor
    return one, found

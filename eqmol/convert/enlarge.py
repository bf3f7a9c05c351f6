"""Enlarging a model without changing what it computes: fewer to more paths, and where the model allows it channels and degrees.

The new model starts with random parameters; those that would change the old function are set to zero, and the old ones are put
in their places, rescaled where the model divides by the square root of a fan-in or of a number of paths. Of every pair of maps
that new features pass, the first stays random and the second is zero, so that gradients reach both.

Another model joins by an entry in :data:`GROWTHS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from eqmol.convert.equiformer import equiformer_specs, fill_equiformer
from eqmol.convert.mace import SIZES, fill_mace, mace_specs
from eqmol.convert.parts import put_matrix
from eqmol.errors import InputError
from eqmol.models.equiformer import Equiformer
from eqmol.models.force_head import ForceHead
from eqmol.models.mace import MACE
from eqmol.models.potential import Potential
from eqmol.models.properties import PropertyHeads
from eqmol.models.property_heads import AtomScalars, AtomVectors, Head
from eqmol.nn import LinearReadout, NonlinearReadout
from eqmol.ops.spec import Spec


class Growth(NamedTuple):
    """How models of one class grow, beside ``family`` and ``parity``.

    Attributes:
        sizes: arguments of the constructor that may become larger.
        specs: a name for each product of a model, and its function.
        fill: puts the parameters of an old backbone into a new, larger one.
    """

    sizes: tuple[str, ...]
    specs: Callable[[nn.Module], dict[str, Spec]]
    fill: Callable[[nn.Module, nn.Module], None]


#: Class of the backbone -> how it grows.
GROWTHS: dict[type[nn.Module], Growth] = {
    MACE: Growth(SIZES, mace_specs, fill_mace),
    Equiformer: Growth((), equiformer_specs, fill_equiformer),  # its norms see all channels and degrees at once
}


#: Parts without parameters of their own.
CONTAINERS = (nn.ModuleList, PropertyHeads, Head, AtomScalars, AtomVectors)


@torch.no_grad()
def enlarge(old: Potential, new: Potential) -> None:
    """Make ``new``, which has random parameters, compute what ``old`` computes.

    Raises:
        InputError: the functions of ``new`` do not contain that of ``old``, saying how many weights are missing; or a part of the
            model for which no way to grow is known.
    """
    GROWTHS[type(old.backbone)].fill(old.backbone, new.backbone)
    for (name, before), after in zip(old.named_children(), new.children(), strict=True):
        if name != "backbone":
            _fill_part(before, after)


def _fill_part(old: nn.Module, new: nn.Module) -> None:
    """What reads the features of a backbone: new channels enter through zeros."""
    if isinstance(old, CONTAINERS):
        for before, after in zip(old.children(), new.children(), strict=True):
            _fill_part(before, after)
    elif isinstance(old, NonlinearReadout) and isinstance(new, NonlinearReadout):
        put_matrix(new.weight, old.weight)
        _fill_part(old.last, new.last)
    elif isinstance(old, LinearReadout) and isinstance(new, LinearReadout):
        put_matrix(new.weight.unsqueeze(-1), old.weight.unsqueeze(-1))
    elif isinstance(old, ForceHead) and isinstance(new, ForceHead):
        put_matrix(new.gate, old.gate)
        put_matrix(new.vector, old.vector)
        put_matrix(new.last.unsqueeze(-1), old.last.unsqueeze(-1))
    elif any(True for _ in old.parameters()):
        raise InputError(f"a model with a {type(old).__name__} cannot be enlarged yet")
    else:
        new.load_state_dict(old.state_dict())

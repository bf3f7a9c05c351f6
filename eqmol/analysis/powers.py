"""What powers of one field give up: the gaunt family's power inside the coupled one, and chirality."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eqmol.analysis.spaces import Samples, measure
from eqmol.ops.registry import create
from eqmol.ops.spec import Family, Operation, Parity, Spec
from eqmol.so3.layout import degrees, dim

FAMILIES: tuple[Family, Family] = ("gaunt", "coupled")


@dataclass(frozen=True)
class Containment:
    """The gaunt family's power of all orders up to ``order`` against the coupled one.

    The coupled power is MACE's symmetric contraction (Batatia et al. 2022, arXiv:2206.07697, eq. 10).

    Attributes:
        order, degree_in, degree_out: sizes of both.
        coupled, gaunt: dimension of the maps that each spans, which is its number of weights per channel.
        outside: largest part of a gaunt map that no coupled one has, relative.
    """

    order: int
    degree_in: int
    degree_out: int
    coupled: int
    gaunt: int
    outside: float


def containments(degree: int, parity: Parity, order: int) -> list[Containment]:
    """Measure powers of orders 2 ... ``order`` of a field of ``degree``, for degrees out from 0 to 2."""
    found = []
    for highest in range(2, order + 1):
        for degree_out in range(min(degree, 2) + 1):
            gaunt, coupled = (Spec("power", family, parity, degree, 0, degree_out, highest) for family in FAMILIES)
            samples = Samples.draw(coupled)
            large, small = measure(coupled, "cg", samples), measure(gaunt, "grid", samples)
            outside = small.part_outside(large)
            found.append(Containment(highest, degree, degree_out, large.expressivity, small.expressivity, outside))
    return found


def chirality(degree: int, order: int) -> dict[str, float]:
    """How much of what products of one environment's features return changes sign in the mirror, from 0 to 1.

    All under ``so3``; a, b and c are differently mixed fields: other linear maps, per degree, of the same four channels.
    """
    rng = np.random.default_rng(0)
    mixing = torch.tensor(rng.normal(size=(3, dim(degree), 4)))[:, torch.tensor(degrees(degree)) ** 2]
    features = torch.tensor(rng.normal(size=(20, dim(degree), 4)))

    def operation(name: Operation, family: Family, degree_out: int, equal: bool = False) -> Callable[..., Tensor]:
        """A product with random weights, or with equal ones."""
        filters, highest = (0, order) if name == "power" else (degree, 1)
        spec = Spec(name, family, "so3", degree, filters, degree_out, highest)
        op = create(spec, "cg" if family == "coupled" else "grid").double()
        weight = torch.tensor(np.ones((spec.num_weights, 1)) if equal else rng.normal(size=(spec.num_weights, 1)))
        if name == "power":
            return lambda x: op(x, weight.unsqueeze(0), torch.zeros(len(x), dtype=torch.int64))
        return lambda x, y: op(x, y, weight)

    gaunt, coupled = (operation("power", family, min(degree, 2)) for family in FAMILIES)
    product, scalar = (operation("product", "gaunt", degree_out) for degree_out in (degree, 0))
    same = operation("product", "gaunt", degree, equal=True)
    made: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "power of a, gaunt": lambda a, b, c: gaunt(a),
        "power of a, coupled": lambda a, b, c: coupled(a),
        "product of a with a, gaunt": lambda a, b, c: same(a, a),
        "product of a with b, gaunt": lambda a, b, c: product(a, b),
        "scalar of a with b, gaunt": lambda a, b, c: scalar(a, b),
        "scalar of (a with b) with c, gaunt": lambda a, b, c: scalar(product(a, b), c),
    }
    straight, mirrored = ([(x * mix).sum(-1, keepdim=True) for mix in mixing] for x in (features, _mirror(features)))
    shares = {}
    with torch.no_grad():
        for name, function in made.items():
            result = function(*straight)
            shares[name] = float((result - _mirror(function(*mirrored))).norm() / (2 * result.norm()))
    return shares


def _mirror(x: Tensor) -> Tensor:
    """Inversion: degree l is multiplied by (-1)^l."""
    degree = round(x.shape[1] ** 0.5) - 1
    return x * torch.tensor((-1.0) ** degrees(degree), dtype=x.dtype)[:, None]

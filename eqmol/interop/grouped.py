"""What products and convolutions of e3nn's irreps share: tables, and features, weights and results of a group of paths."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eqmol.errors import InputError
from eqmol.interop.blocks import unpack
from eqmol.interop.irreps import read_irreps
from eqmol.interop.messages import PathMessage, couplings
from eqmol.interop.paths import check_instructions, read_groups
from eqmol.ops.contract import RadialWeight, Tables

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


class Grouped(Tables):
    """Paths of an ``e3nn.o3.TensorProduct``, in groups of equal multiplicity.

    Attributes:
        irreps_in1, irreps_in2, irreps_out: of the factors and of the result.
        instructions: e3nn's, whose path weights contain the normalisation.
        weight_numel: number of weights, flat, instruction by instruction.
    """

    def __init__(self, product: Any) -> None:
        super().__init__()
        self.irreps_in1, self.irreps_in2, self.irreps_out = product.irreps_in1, product.irreps_in2, product.irreps_out
        self.instructions = list(product.instructions)
        self.weight_numel: int = product.weight_numel
        self.groups = read_groups(product)
        self._tables: list[list[str]] = []
        for g, group in enumerate(self.groups):
            tables = couplings(group, self.irreps_in2.dim)
            self._tables.append([f"couplings{g}_{t}" for t in range(len(tables))])
            for name, table in zip(self._tables[-1], tables, strict=True):
                self.add_table(name, table)
            self.add_table(f"columns{g}", group.columns.ravel())

    def extra_repr(self) -> str:
        irreps = self.irreps_in1.simplify(), self.irreps_in2.simplify(), self.irreps_out.simplify()
        return "{} x {} -> {}, ".format(*irreps) + f"{len(self.instructions)} paths, {self.weight_numel} weights"

    def message(self, g: int) -> PathMessage:
        """The form of a group."""
        return PathMessage(self.groups[g], [self.get_buffer(name) for name in self._tables[g]])

    def weights_of(self, g: int, weight: RadialWeight | Tensor) -> RadialWeight | Tensor:
        """Weights [rows, W, C] of a group, factored if they were: from [rows, weight_numel], or a matrix [H, weight_numel]."""
        group = self.groups[g]
        if isinstance(weight, Tensor):
            own = self._pick(g, weight)
            if group.has_constant:
                own = torch.cat([own, own.new_ones(len(own), 1, group.channels)], dim=1)
            return own
        matrix = self._pick(g, weight.matrix)
        if not group.has_constant:
            return RadialWeight(weight.hidden, matrix)
        hidden, channels = weight.hidden, group.channels
        one = torch.cat([matrix.new_zeros(1, matrix.shape[1], channels), matrix.new_ones(1, 1, channels)], dim=1)
        matrix = torch.cat([matrix, matrix.new_zeros(len(matrix), 1, channels)], dim=1)
        return RadialWeight(torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1), torch.cat([matrix, one]))

    def _pick(self, g: int, flat: Tensor) -> Tensor:
        """[..., weight_numel] -> [..., W, C]."""
        columns = self.groups[g].columns
        if np.array_equal(columns.ravel(), np.arange(self.weight_numel)):
            return flat.unflatten(-1, columns.shape)
        return flat.index_select(-1, self.get_buffer(f"columns{g}")).unflatten(-1, columns.shape)

    def assemble(self, results: Sequence[Tensor], rows: int, like: Tensor) -> Tensor:
        """Flat features [rows, irreps_out.dim] from the results [rows, components, C] of all groups."""
        width = self.irreps_out.dim
        parts = [unpack(result, group.out, width) for group, result in zip(self.groups, results, strict=True)]
        return functools.reduce(torch.add, parts) if parts else like.new_zeros(rows, width)


def make_product(
    irreps_in1: "str | Irreps",
    irreps_in2: "str | Irreps",
    irreps_out: "str | Irreps",
    instructions: Sequence[Any],
    **options: Any,
) -> Any:
    """e3nn's own product, not compiled: it knows the normalisations.

    Raises:
        InputError: see :func:`eqmol.interop.paths.check_instructions`, and options that e3nn refuses.
    """
    from e3nn import o3

    irreps = read_irreps(irreps_in1), read_irreps(irreps_in2), read_irreps(irreps_out)
    check_instructions(*irreps, instructions)
    try:
        return o3.TensorProduct(*irreps, [tuple(i) for i in instructions], compile_left_right=False, **options)
    except (AssertionError, TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
        raise InputError(
            f"e3nn refuses a tensor product with {given or 'these irreps'}: {error or 'see its manual'}"
        ) from error


def as_made(product: Any) -> dict[str, Any]:
    """Arguments that make an ``e3nn.o3.TensorProduct`` of the same constants, whatever normalisation it was made with."""
    return {
        "irreps_in1": product.irreps_in1,
        "irreps_in2": product.irreps_in2,
        "irreps_out": product.irreps_out,
        # e3nn takes the root of a path weight
        "instructions": [(*i[:5], i.path_weight**2) for i in product.instructions],
        "irrep_normalization": "none",
        "path_normalization": "none",
    }

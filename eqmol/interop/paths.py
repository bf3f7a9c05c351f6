"""The instructions of e3nn as paths between blocks, in groups of equal multiplicity.

Parity is a label of blocks outside of the product: the coupling of degrees l1 and l2 to l3 does not depend on it. So a path
like 1o × 1o → 1e, which models of natural parity do not have, is computed as any other; e3nn's rules decide which paths there are.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from eqmol.errors import InputError
from eqmol.ops.spec import MAX_DEGREE
from eqmol.so3.coupling import is_coupled, wigner_3j

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


class Slot(NamedTuple):
    """A block of irreps as one tensor [2 l + 1, C], or one copy of a block as [2 l + 1]."""

    block: int
    degree: int
    start: int  # first component in the flat features


class Path(NamedTuple):
    """Places of the slots in their group, the constant of the 3j symbol (eqmol's), and the row of the weights."""

    first: int
    second: int
    out: int
    constant: float
    weight: int


class Group(NamedTuple):
    """Paths between blocks of the same multiplicity.

    Attributes:
        channels: C.
        has_channels: whether the second factor has them too (uuu); otherwise it has none (uvu).
        first, second, out: what the paths connect.
        columns: of weights in e3nn's flat ones, int64 [W, C].
        paths: those without a weight have the row W, which is one.
    """

    channels: int
    has_channels: bool
    first: list[Slot]
    second: list[Slot]
    out: list[Slot]
    columns: np.ndarray
    paths: list[Path]

    @property
    def has_constant(self) -> bool:
        """Whether there are paths without a weight."""
        return any(path.weight == len(self.columns) for path in self.paths)

    def degrees(self, path: Path) -> tuple[int, int, int]:
        """l1, l2, l3."""
        return self.first[path.first].degree, self.second[path.second].degree, self.out[path.out].degree


def check_instructions(
    irreps_in1: "Irreps", irreps_in2: "Irreps", irreps_out: "Irreps", instructions: Sequence[Any]
) -> None:
    """Raise :class:`InputError` for the first instruction that is not one of e3nn's, or of another mode than uvu and uuu."""
    for number, instruction in enumerate(instructions):
        given = f"instruction {number}, {tuple(instruction)!r},"
        if len(instruction) not in (5, 6):
            raise InputError(f"{given} must be (in1, in2, out, mode, has a weight) or have a path weight after these")
        *places, mode = instruction[:4]
        if mode not in ("uvu", "uuu"):
            raise InputError(
                f"{given} is of mode {mode!r}, but products here keep channels apart: uvu and uuu; leave this product to e3nn, "
                f"or use uvu and a linear map after it"
            )
        blocks = []
        for name, place, irreps in zip(
            ("first", "second", "output"), places, (irreps_in1, irreps_in2, irreps_out), strict=True
        ):
            if not 0 <= place < len(irreps):
                raise InputError(
                    f"{given} names block {place} of the {name} irreps {str(irreps)!r}, which have {len(irreps)}"
                )
            blocks.append(irreps[place])
        (mul1, ir1), (mul2, ir2), (mul3, ir3) = blocks
        names = f"{given} couples {blocks[0]} and {blocks[1]} to {blocks[2]}"
        if not is_coupled(ir1.l, ir2.l, ir3.l) or ir1.p * ir2.p != ir3.p:
            raise InputError(
                f"{names}, which their degrees or parities forbid; take one of {', '.join(map(str, ir1 * ir2))}"
            )
        if max(ir1.l, ir2.l, ir3.l) > MAX_DEGREE:
            raise InputError(f"{names}; degrees go up to {MAX_DEGREE}")
        if mul1 != mul3 or (mode == "uuu" and mul1 != mul2):
            wanted = "both factors and the result" if mode == "uuu" else "the first factor and the result"
            raise InputError(f"{names}, but mode {mode} needs {wanted} to have equally many channels")


def read_groups(product: Any) -> list[Group]:
    """Groups of the instructions of an ``e3nn.o3.TensorProduct``, whose normalisation they contain."""
    groups: dict[tuple[int, bool], _Builder] = {}
    offset = 0
    for instruction in product.instructions:
        columns = np.arange(offset, offset + int(np.prod(instruction.path_shape))).reshape(instruction.path_shape)
        if instruction.has_weight:
            offset += columns.size
        mul, second = product.irreps_in1[instruction.i_in1].mul, product.irreps_in2[instruction.i_in2]
        if 0 in instruction.path_shape:
            continue
        # one channel of each factor: both modes are the same
        has_channels = instruction.connection_mode == "uuu" and mul > 1
        builder = groups.setdefault((mul, has_channels), _Builder(product))
        copies = 1 if has_channels else second.mul
        for copy, own in zip(range(copies), columns.reshape(mul, copies).T, strict=True):
            builder.add(instruction, copy, own if instruction.has_weight else None)
    return [builder.group(mul, has_channels) for (mul, has_channels), builder in groups.items()]


class _Builder:
    """Collects the slots and paths of one group in the order in which they come."""

    def __init__(self, product: Any) -> None:
        self.irreps = product.irreps_in1, product.irreps_in2, product.irreps_out
        self.slots: tuple[dict[Slot, int], ...] = {}, {}, {}
        self.columns: list[np.ndarray] = []
        self.paths: list[tuple[int, int, int, float]] = []
        self.is_weighted: list[bool] = []

    def add(self, instruction: Any, copy: int, columns: np.ndarray | None) -> None:
        blocks = instruction.i_in1, instruction.i_in2, instruction.i_out
        places, degrees = [], []
        for irreps, known, block, own in zip(self.irreps, self.slots, blocks, (0, copy, 0), strict=True):
            ir = irreps[block].ir
            slot = Slot(block, ir.l, irreps.slices()[block].start + own * ir.dim)
            places.append(known.setdefault(slot, len(known)))
            degrees.append(ir.l)
        first, second, out = places
        constant = instruction.path_weight * coupling_sign(*degrees)
        self.paths.append((first, second, out, constant))
        self.is_weighted.append(columns is not None)
        if columns is not None:
            self.columns.append(columns)

    def group(self, channels: int, has_channels: bool) -> Group:
        rows = iter(range(len(self.columns)))
        weights = [next(rows) if weighted else len(self.columns) for weighted in self.is_weighted]
        paths = [Path(*path, weight) for path, weight in zip(self.paths, weights, strict=True)]
        columns = np.stack(self.columns) if self.columns else np.zeros((0, channels), dtype=np.int64)
        first, second, out = (list(slots) for slots in self.slots)
        return Group(channels, has_channels, first, second, out, columns, paths)


@lru_cache(maxsize=4096)
def coupling_sign(l1: int, l2: int, l3: int) -> float:
    """Of e3nn's 3j symbol relative to eqmol's; both have unit norm."""
    import torch
    from e3nn import o3

    return float(np.sign(np.sum(wigner_3j(l1, l2, l3) * o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy())))

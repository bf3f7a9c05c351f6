"""Irreps of e3nn: reading them, and their flat features as eqmol's dense ones."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eqmol.errors import InputError
from eqmol.so3.layout import degree_slice, dim

if TYPE_CHECKING:
    from e3nn.o3 import Irreps

#: (first, second, result, mode, has a weight) as e3nn's instructions begin.
UVUInstruction = tuple[int, int, int, str, bool]


def read_irreps(irreps: Any) -> "Irreps":
    """Irreps from a string, a list of pairs or irreps.

    Raises:
        InputError: e3nn does not understand them.
    """
    from e3nn.o3 import Irreps

    try:
        return Irreps(irreps)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"irreps {irreps!r} are not what e3nn understands; write them like '32x0e+16x1o'") from error


class Layout:
    """e3nn's flat features [..., irreps.dim] as eqmol's [..., lm, channels], and back.

    Blocks of equal degree, wherever they stand, become one after another the channels of that degree. A degree with fewer channels
    than the largest, or with none, is filled up with zeros.

    Attributes:
        irreps: as given.
        degree: highest degree.
        channels: the largest number of channels of a degree.
        is_uniform: whether every degree has that many.

    Args:
        irreps: of natural parity (-1)^l only: 0e, 1o, 2e, 3o and so on.

    Raises:
        InputError: other parities, or no irreps at all.
    """

    def __init__(self, irreps: "str | Irreps") -> None:
        self.irreps = read_irreps(irreps)
        if self.irreps.dim == 0:
            raise InputError(f"irreps {str(self.irreps)!r} have no components; give at least one, like '32x0e'")
        unnatural = [str(ir) for mul, ir in self.irreps if mul and ir.p != (-1) ** ir.l]
        if unnatural:
            raise InputError(
                f"irreps {str(self.irreps)!r} have {unnatural[0]}, but dense features hold natural parity (0e, 1o, 2e, ...) "
                f"only; keep other parities in e3nn's layout, in which eqmol.interop.TensorProduct takes them"
            )
        #: block by block: where it lies in the flat features, its degree and its first channel
        self._blocks: list[tuple[slice, int, int]] = []
        counts = [0] * (max(ir.l for mul, ir in self.irreps if mul) + 1)
        for (mul, ir), where in zip(self.irreps, self.irreps.slices(), strict=True):
            if mul:
                self._blocks.append((where, ir.l, counts[ir.l]))
                counts[ir.l] += mul
        self._counts = counts
        self.degree, self.channels = len(counts) - 1, max(counts)
        self.is_uniform = min(counts) == self.channels

    def unflatten(self, features: Tensor) -> Tensor:
        """Dense features [..., lm, channels] of flat ones [..., irreps.dim].

        Raises:
            InputError: another number of components.
        """
        check_features(features, self.irreps, "features")
        parts: list[list[Tensor]] = [[] for _ in self._counts]
        for where, l, _ in self._blocks:
            parts[l].append(features[..., where].unflatten(-1, (-1, 2 * l + 1)).transpose(-1, -2))
        rows = []
        for l, (own, count) in enumerate(zip(parts, self._counts, strict=True)):
            if count < self.channels:
                own.append(features.new_zeros(*features.shape[:-1], 2 * l + 1, self.channels - count))
            rows.append(own[0] if len(own) == 1 else torch.cat(own, dim=-1))
        return torch.cat(rows, dim=-2)

    def flatten(self, dense: Tensor) -> Tensor:
        """Flat features [..., irreps.dim] of dense ones [..., lm, channels].

        Raises:
            InputError: other shapes, or values that are not zero in channels which the irreps do not have.
        """
        if dense.shape[-2:] != (dim(self.degree), self.channels):
            raise InputError(
                f"dense features have shape {tuple(dense.shape)}, but {str(self.irreps)!r} needs [..., {dim(self.degree)}, "
                f"{self.channels}], components before channels"
            )
        for l, count in enumerate(self._counts):
            if count < self.channels and dense[..., degree_slice(l), count:].any():
                raise InputError(
                    f"channels {count} to {self.channels - 1} of degree {l} are not zero, but {str(self.irreps)!r} has {count} "
                    f"channels there; mix the channels of that degree into {count}, or flatten to irreps that have them all"
                )
        parts = []
        for (where, l, first), (mul, _) in zip(self._blocks, [b for b in self.irreps if b.mul], strict=True):
            part = dense[..., degree_slice(l), first : first + mul].transpose(-1, -2).flatten(-2)
            assert part.shape[-1] == where.stop - where.start
            parts.append(part)
        return torch.cat(parts, dim=-1)


def check_features(features: Tensor, irreps: "Irreps", name: str) -> None:
    """Raise :class:`InputError` unless features are [..., irreps.dim]."""
    if features.dim() == 0 or features.shape[-1] != irreps.dim:
        raise InputError(
            f"{name} have shape {tuple(features.shape)}, but irreps {str(irreps)!r} have {irreps.dim} components: "
            f"give [..., {irreps.dim}]"
        )


def uvu_paths(
    irreps_in1: "str | Irreps", irreps_in2: "str | Irreps", irreps_out: "str | Irreps"
) -> "tuple[Irreps, list[UVUInstruction]]":
    """The paths of NequIP and of e3nn's gate networks: a block of the result for every path into a wanted irrep.

    Args:
        irreps_in1, irreps_in2: of the factors; blocks of the result have the multiplicity of the first.
        irreps_out: what is wanted; multiplicities do not matter.

    Returns:
        irreps of the result, sorted as e3nn sorts them, and instructions for :class:`TensorProduct` or :class:`Convolution`.
    """
    wanted = {ir for _, ir in read_irreps(irreps_out)}
    blocks: list[tuple[int, Any]] = []
    paths: list[tuple[int, int]] = []
    for i, (mul, ir1) in enumerate(read_irreps(irreps_in1)):
        for j, (_, ir2) in enumerate(read_irreps(irreps_in2)):
            for ir in ir1 * ir2:
                if ir in wanted:
                    blocks.append((mul, ir))
                    paths.append((i, j))
    irreps, place, _ = read_irreps(blocks).sort()
    return irreps, [(i, j, place[k], "uvu", True) for k, (i, j) in enumerate(paths)]

"""Point-by-point products on samples that are made in two steps, over degrees and then over orders, in compiled code.

The samples of one row and some vectors of channels stay in the core's cache from the components of both factors to those of the
result; each number of a table is multiplied by all vectors of a block at once.

Shapes: N rows, lm components, C channels, K orders, D degrees of one order, R rows of a rule, H azimuths between 0 and π.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import KernelMode
from eqmol.ops.kernels import cpp, library
from eqmol.ops.kernels.library import Kernel
from eqmol.ops.transforms import Separable

#: Multiplications of a part of the work, at least, and most parts.
PART, MOST = 1 << 24, 32
READS, WRITES = ("tables", "x", "f", "v"), ("by_x", "by_f", "by_v", "scratch")


@lru_cache(maxsize=8)
def two_steps_kernel(dtype: torch.dtype, mode: KernelMode) -> Kernel | None:
    """The compiled products, or None where they cannot be made."""
    return library.of_any_size(cpp.two_steps_source, READS, WRITES, dtype, mode)


class TwoStepProduct:
    """Σ over pairs of A and B of (A x)(B f)(P v), given separable transforms A, B, P of one rule: its derivatives.

    Args:
        compiled: of :func:`two_steps_kernel`.
        pairs: A, B, and where the components of B begin among those of f.
        projection: P.
        dtype: of the tensors.
    """

    def __init__(
        self,
        compiled: Kernel,
        pairs: Sequence[tuple[Separable, Separable, int]],
        projection: Separable,
        dtype: torch.dtype,
    ) -> None:
        self._kernel = compiled
        self._outputs = projection.components
        rows, azimuths = projection.polar.shape[1], projection.cosine.shape[0]
        numbers, tables = [0] * (2 * len(pairs) + 1), np.zeros(0)
        most_orders = most_components = 0
        transforms = [(projection, 0), *((t, j) for a, b, j in pairs for t, j in ((a, 0), (b, j)))]
        for place, (transform, begin) in enumerate(transforms):
            orders, _, degrees = transform.polar.shape
            target = transform.target.numpy()
            counts = np.bincount(target // degrees, minlength=orders)
            source = np.empty(len(target), dtype=np.int64)
            source[(np.cumsum(counts) - counts)[target // degrees] + target % degrees] = np.arange(len(target)) + begin
            parts = [transform.exact(name) for name in ("polar", "cosine", "sine")]
            parts[0] = parts[0].swapaxes(1, 2)
            places = len(tables) + np.cumsum([0, *(part.size for part in parts[:-1])])
            tables = np.concatenate([tables, *(part.ravel() for part in parts)])
            numbers[place] = len(numbers)
            numbers += [
                orders,
                transform.odd,
                degrees,
                len(target),
                *places.tolist(),
                *counts.tolist(),
                *source.tolist(),
            ]
            most_orders, most_components = max(most_orders, orders), max(most_components, len(target))
        self._numbers, self._tables = torch.tensor(numbers), torch.tensor(tables, dtype=dtype)
        samples = 2 * rows * azimuths
        self._sizes = len(pairs), rows, azimuths, samples, rows * most_orders, most_components
        self._scratch = 5 * samples + rows * most_orders + most_components
        self._work = len(transforms) * rows * most_orders * (azimuths + most_orders)

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        """As :meth:`eqmol.ops.multilinear.Form.partials`, of arguments x, y, w and v, where f = w y."""
        x, y, w, v = arguments
        assert x is not None
        assert y is not None
        assert w is not None
        names = [name for name, own in (("x", {0}), ("f", {1, 2}), ("v", {3})) if own & set(slots)]
        found = dict(zip(names, self(x, y * w, v, names), strict=True))
        results = []
        for slot in slots:
            if slot in (0, 3):
                results.append(found["x" if slot == 0 else "v"])
            else:
                slope = found["f"] * (w if slot == 1 else y)
                results.append(slope.sum(0, keepdim=True) if slot == 2 and len(w) == 1 else slope)
        return results

    def __call__(self, x: Tensor, f: Tensor, v: Tensor | None, wanted: Sequence[str]) -> list[Tensor]:
        """Derivatives by arguments, given the two others.

        Args:
            x, f, v: [N, lm, C]; v may be absent where only the derivative by it is wanted.
            wanted: of ``x``, ``f`` and ``v``.

        Returns:
            Those wanted, in their order.
        """
        n, _, channels = x.shape
        rows = {"x": x.shape[1], "f": f.shape[1], "v": self._outputs}
        results = {name: x.new_zeros(n, rows[name], channels) for name in wanted}
        parts = max(1, min(n, MOST, n * channels * self._work // PART))
        block = 2 * library.width(x.dtype)
        none, scratch = x.new_empty(0), x.new_empty(parts, (self._scratch + 1) * block)
        sizes = channels, n, parts, *rows.values(), *(name in wanted for name in rows), *self._sizes, scratch.shape[1]
        read = {"x": x, "f": f, "v": none if v is None else v}
        written = {f"by_{name}": results.get(name, none) for name in rows}
        tensors = {name: tensor.contiguous() for name, tensor in read.items()} | written
        if x.numel():
            self._kernel(
                sizes, (self._numbers,), tensors | {"tables": self._tables, "scratch": scratch}, x, range(parts + 1)
            )
        return list(results.values())

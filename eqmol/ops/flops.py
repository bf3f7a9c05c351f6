"""Operation counts of FFTs for ``torch.utils.flop_counter``, which has none: 5 n log₂ n for n complex numbers, half for real ones.

Source: Frigo and Johnson 2005, doi:10.1109/JPROC.2004.840301.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import log2, prod
from typing import Any

import torch


def _count(shape: Sequence[int], dims: Sequence[int], factor: float) -> int:
    size = prod(shape[d] for d in dims)
    return int(factor * prod(shape) * log2(size)) if size else 0


def _from_real(shape: Sequence[int], dims: Sequence[int], *_: Any, **__: Any) -> int:
    return _count(shape, dims, 2.5)


def _to_real(shape: Sequence[int], dims: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return _count(out_shape, dims, 2.5)


def _complex(shape: Sequence[int], dims: Sequence[int], *_: Any, **__: Any) -> int:
    return _count(shape, dims, 5)


@lru_cache(maxsize=1)
def register() -> None:
    """Register the formulas, unless others are."""
    # it imports triton, which other algorithms do without
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    aten = torch.ops.aten
    for operator, formula in ((aten._fft_r2c, _from_real), (aten._fft_c2r, _to_real), (aten._fft_c2c, _complex)):
        if operator not in flop_registry:
            register_flop_formula(operator)(formula)

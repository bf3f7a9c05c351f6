"""Values made of tensors that seldom change, kept until these are written."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has: transformed and symbolic ones have none."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


class Seen:
    """A tensor as it was: its memory stays until nothing asks for it any more.

    Args:
        tensor: that has memory.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._memory, self._version = tensor.detach(), tensor._version

    def is_now(self, tensor: Tensor) -> bool:
        """Whether a tensor is the same memory, not written since."""
        old = self._memory
        return (
            old.data_ptr() == tensor.data_ptr()
            and self._version == tensor._version
            and old.shape == tensor.shape
            and old.stride() == tensor.stride()
            and old.dtype == tensor.dtype
        )


def kept(make: Callable[..., T]) -> Callable[..., T]:
    """A function that remembers what it made of a constant tensor, its first argument, until that is written or gone.

    Its values must not hold the tensor. What has derivatives is no constant.
    """
    known = WeakTensorKeyDictionary()

    @wraps(make)
    def remembering(tensor: Tensor, *others: Any) -> T:
        if tensor.requires_grad or tensor.is_inference() or not has_memory(tensor):
            return make(tensor, *others)
        found = known.get(tensor)  # type: ignore[no-untyped-call]
        if found is None or found[1] != others or not found[0].is_now(tensor):
            with torch.inference_mode(False):
                known[tensor] = found = Seen(tensor), others, make(tensor, *others)
        value: T = found[2]
        return value

    return remembering

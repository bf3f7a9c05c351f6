"""The C allocator's settings for training."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGEST_TENSOR = 1 << 30


def keep_freed_memory() -> None:
    """Keep large freed blocks for the next step instead of returning them to the system.

    Every step allocates the same tensors; fetching their pages anew took up to a sixth of a step on the CPU. Only glibc
    has these settings; elsewhere nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in (
        (_MMAP_THRESHOLD, _LARGEST_TENSOR),
        (_TRIM_THRESHOLD, 2 * _LARGEST_TENSOR - 1),
        (_TOP_PAD, 64 << 20),
    ):
        mallopt(parameter, value)

"""Compiled programs: made at first use, called with tensors."""

import ctypes
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from eqmol.errors import InputError
from eqmol.ops.kernels import compiler as compilers
from eqmol.ops.kernels import cpp, store
from eqmol.ops.kernels.expressions import Program

Mode = Literal["auto", "off", "require"]
DEFAULT: Mode = "off"
SCALARS = {torch.float32: "float", torch.float64: "double"}
#: Numbers read and written below which one thread does all.
SERIAL = 1 << 18

_log = logging.getLogger(__name__)


class KernelError(InputError):
    """``EQMOL_KERNELS=require``, and a kernel cannot be made."""


def mode() -> Mode:
    """What ``$EQMOL_KERNELS`` says.

    Raises:
        InputError: it says something else.
    """
    value = os.environ.get("EQMOL_KERNELS") or DEFAULT
    for name in get_args(Mode):
        if value == name:
            return name
    raise InputError(f"EQMOL_KERNELS={value} is unknown; choose from {', '.join(get_args(Mode))}")


def are_possible(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels may be used for tensors: they are wanted, on the CPU, and there is a compiler.

    Raises:
        KernelError: kernels are required, and there is no compiler.
    """
    wanted = mode()
    if wanted == "off" or device.type != "cpu" or dtype not in SCALARS:
        return False
    if compilers.find() is not None:
        return True
    lost = "no C++ compiler was found (g++, clang++ or the package ziglang)"
    if wanted == "require":
        raise KernelError(f"EQMOL_KERNELS=require, but {lost}; install one, or use EQMOL_KERNELS=auto")
    _say(
        f"{lost}: tensor products run several times slower than compiled ones; to compile them, install g++ or "
        "pip install ziglang; to silence this, set EQMOL_KERNELS=off"
    )
    return False


def width(dtype: torch.dtype) -> int:
    """Numbers of a vector of this processor."""
    return compilers.vector_bytes() // dtype.itemsize


def identity(source: str, compiler: compilers.Compiler) -> str:
    """SHA-256 of everything that a compiled program depends on."""
    parts = [source, *compilers.flags(), *compiler.command, compiler.identity, compilers.processor(), str(cpp.ABI)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Kernel:
    """A compiled program.

    Args:
        path: of the library.
        program: what it computes.
        unit: channel blocks that are not divided among threads.
    """

    def __init__(self, path: str, program: Program, unit: int) -> None:
        function = ctypes.CDLL(path).eqmol_kernel
        function.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        function.restype = None
        self.function: Callable[..., None] = function
        self.reads, self.writes = program.reads, program.writes
        self.unit = unit

    def __call__(
        self, sizes: Sequence[int], indices: Sequence[Tensor], tensors: Mapping[str, Tensor], like: Tensor
    ) -> None:
        """Run it on contiguous tensors; ``sizes`` begins with the number of channels, ``like`` has the number type."""
        read, written = [tensors[name] for name in self.reads], [tensors[name] for name in self.writes]
        for tensor in (*read, *written):
            assert tensor.is_contiguous()
            assert tensor.dtype == like.dtype
        for index in indices:
            assert index.is_contiguous()
            assert index.dtype == torch.int64
        numbers = (ctypes.c_int64 * len(sizes))(*sizes)
        ins = (ctypes.c_void_p * (len(indices) + len(read)))(*(tensor.data_ptr() for tensor in (*indices, *read)))
        outs = (ctypes.c_void_p * len(written))(*(tensor.data_ptr() for tensor in written))
        blocks = -(-sizes[0] // width(like.dtype))
        call = partial(self._call, numbers, ins, outs)
        threads = torch.get_num_threads()
        if threads == 1 or blocks <= self.unit or sum(t.numel() for t in (*read, *written)) < SERIAL:
            call(0, blocks)
            return
        units = -(-blocks // self.unit)
        threads = min(threads, units)
        bounds = [min(units * i // threads * self.unit, blocks) for i in range(threads + 1)]
        pool = _pool(os.getpid(), threads - 1)
        others = [pool.submit(call, bounds[i], bounds[i + 1]) for i in range(1, threads)]
        call(0, bounds[1])
        for other in others:
            other.result()

    def _call(self, sizes: ctypes.Array, ins: ctypes.Array, outs: ctypes.Array, first: int, last: int) -> None:
        self.function(first, last, sizes, ins, outs)


@lru_cache(maxsize=1)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child gets its own."""
    return ThreadPoolExecutor(threads, "eqmol-kernel")


def load(program: Program, source: str, unit: int = 1) -> Kernel | None:
    """The compiled program, or None where it cannot be made.

    Raises:
        KernelError: kernels are required, and it cannot be made.
    """
    compiler = compilers.find()
    if compiler is None:
        return None
    try:
        path = store.library(identity(source, compiler), partial(_compile, compiler, source))
        return Kernel(str(path), program, unit)
    except (compilers.CompilationError, InputError, OSError, AttributeError) as error:
        if mode() == "require":
            raise KernelError(
                f"EQMOL_KERNELS=require, but a kernel cannot be made by {compiler.command[0]}: {error}"
            ) from None
        _say(f"a kernel cannot be made by {compiler.command[0]} ({error}): slower forms are used instead")
        return None


def _compile(compiler: compilers.Compiler, source: str, output: Path) -> None:
    _announce(compiler)
    compilers.compile_source(compiler, source, output)


@lru_cache(maxsize=1)
def _announce(compiler: compilers.Compiler) -> None:
    """That some seconds pass; once per process, and only where something is compiled."""
    first = ", which first builds its own runtime, about a minute" if "ziglang" in compiler.command else ""
    print(f"compiling tensor products for this machine by {' '.join(compiler.command)}{first}", file=sys.stderr)


@lru_cache(maxsize=64)
def _say(message: str) -> None:
    """Once per process."""
    _log.warning(message)

"""Compiled programs: made at first use, called with tensors."""

import ctypes
import hashlib
import logging
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from eqmol import threads
from eqmol.errors import InputError
from eqmol.ops.contract import KernelMode
from eqmol.ops.kernels import compiler as compilers
from eqmol.ops.kernels import cpp, store, triton
from eqmol.ops.kernels.expressions import Program
from eqmol.ops.kernels.replay import do

DEFAULT: KernelMode = "auto"
#: What programs are printed in.
Language = Literal["c++", "triton"]
#: Of the devices that have kernels.
LANGUAGES: Mapping[str, Language] = {"cpu": "c++", "cuda": "triton"}
SCALARS = {torch.float32: "float", torch.float64: "double"}
#: s, of what Triton finds among what it compiled before.
FROM_CACHE = 0.5

REQUIRED = "compiled kernels are required (EQMOL_KERNELS=require or kernels=require)"

_log = logging.getLogger(__name__)
_seconds: ContextVar[list[float] | None] = ContextVar("seconds", default=None)  # of compilations to be said together


class KernelError(InputError):
    """Kernels are required, and one cannot be made."""


def mode() -> KernelMode:
    """What ``$EQMOL_KERNELS`` says.

    Raises:
        InputError: it says something else.
    """
    return check_mode("EQMOL_KERNELS", os.environ.get("EQMOL_KERNELS") or DEFAULT)


def check_mode(name: str, value: object) -> KernelMode:
    """The mode that an option of a name has.

    Raises:
        InputError: there is no such mode.
    """
    for known in get_args(KernelMode):
        if isinstance(value, str) and value == known:
            return known
    raise InputError(f"{name}={value} is unknown; choose from {', '.join(get_args(KernelMode))}")


def language(device: torch.device) -> Language:
    """What the kernels of a device are printed in."""
    return LANGUAGES[device.type]


def are_possible(device: torch.device, dtype: torch.dtype, wanted: KernelMode) -> bool:
    """Whether kernels may be used for tensors: they are wanted, by Triton expressly, and there is a compiler for the device.

    Raises:
        KernelError: kernels are required, and there is no compiler.
    """
    if wanted == "off" or device.type not in LANGUAGES or dtype not in SCALARS:
        return False
    chosen = language(device)
    if chosen == "triton" and wanted == "auto":  # never yet timed against torch
        return False
    if (compilers.find() if chosen == "c++" else triton.version()) is not None:
        return True
    lost, slower, remedy = {
        "c++": (
            "no C++ compiler was found (g++, clang++ or the package ziglang)",
            "several times slower than compiled ones",
            "install g++ or pip install ziglang",
        ),
        "triton": ("the package triton is not installed", "uncompiled on the GPU", "pip install triton"),
    }[chosen]
    if wanted == "require":
        raise KernelError(f"{REQUIRED}, but {lost}; {remedy}, or use auto")
    say(f"{lost}: tensor products run {slower}; to compile them, {remedy}; to silence this, set EQMOL_KERNELS=off")
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
        key: SHA-256 of all that it depends on.
        reads, writes: names of the tensors that it is called with.
    """

    def __init__(self, path: str, key: str, reads: Sequence[str], writes: Sequence[str]) -> None:
        function = ctypes.CDLL(path).eqmol_kernel
        function.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        function.restype = None
        self._function: Callable[..., None] = function
        self.reads, self.writes = tuple(reads), tuple(writes)
        self._names = *self.reads, *self.writes
        self.key = key

    def __call__(
        self,
        sizes: Sequence[int],
        indices: Sequence[Tensor],
        tensors: Mapping[str, Tensor],
        like: Tensor,
        bounds: Sequence[int],
        chain: int = 1,
    ) -> None:
        """Run it on contiguous tensors.

        Args:
            sizes: begin with the number of channels.
            indices: tensors of int64.
            tensors: by their names.
            like: a tensor of the number type.
            bounds: of the parts of the work that different threads may do.
            chain: so many parts that follow each other are done one after another.
        """
        used, dtype = [tensors[name] for name in self._names], like.dtype
        for tensor in used:
            assert tensor.is_contiguous()
            assert tensor.dtype == dtype
        for index in indices:
            assert index.is_contiguous()
            assert index.dtype == torch.int64
        do(_Call(self._function, sizes, (*indices, *used), len(self.writes), bounds, chain))


class _Call:
    """A program with its arguments, whose memory it holds."""

    def __init__(
        self,
        function: Callable[..., None],
        sizes: Sequence[int],
        tensors: Sequence[Tensor],
        written: int,
        bounds: Sequence[int],
        chain: int,
    ) -> None:
        addresses = array("Q", [tensor.data_ptr() for tensor in tensors])
        self._held = array("q", sizes), addresses, tensors
        self._function, self._bounds, self._chain = function, bounds, chain
        begin = addresses.buffer_info()[0]
        self._pointers = self._held[0].buffer_info()[0], begin, begin + 8 * (len(addresses) - written)
        self._whole = bounds[0], bounds[-1], *self._pointers

    def __call__(self) -> None:
        bounds = self._bounds
        if len(bounds) < 3 or threads.number() == 1:
            self._function(*self._whole)
        else:
            run, pointers = self._function, self._pointers
            threads.each(lambda i: run(bounds[i], bounds[i + 1], *pointers), len(bounds) - 1, self._chain)


def load(source: str, reads: Sequence[str], writes: Sequence[str], mode: KernelMode) -> Kernel | None:
    """A compiled source, see :class:`Kernel`, or None where it cannot be made.

    Raises:
        KernelError: kernels are required, and it cannot be made.
    """
    compiler = compilers.find()
    if compiler is None:
        return None
    key = identity(source, compiler)
    try:
        with said():
            path = store.library(key, partial(_compile, compiler, source))
        return Kernel(str(path), key, reads, writes)
    except (compilers.CompilationError, InputError, OSError, AttributeError) as error:
        if mode == "require":
            raise KernelError(f"{REQUIRED}, but one cannot be made by {compiler.command[0]}: {error}") from None
        say(f"a kernel cannot be made by {compiler.command[0]} ({error}): slower forms are used instead")
        return None


def of_any_size(
    source: Callable[[str, int], str], reads: Sequence[str], writes: Sequence[str], dtype: torch.dtype, mode: KernelMode
) -> Kernel | None:
    """A compiled source that takes its sizes when it is called, printed for a number type and numbers of a vector; None where it
    cannot be made.

    Raises:
        KernelError: kernels are required, and it cannot be made.
    """
    return None if mode == "off" else load(source(SCALARS[dtype], width(dtype)), reads, writes, mode)


def load_triton(
    program: Program, places: Mapping[str, triton.Place], harmonics: Sequence[Any], dtype: torch.dtype, mode: KernelMode
) -> triton.Kernel | None:
    """A program in Triton, see :class:`eqmol.ops.kernels.triton.Kernel`, or None where it cannot be made.

    Raises:
        KernelError: kernels are required, and it cannot be made.
    """
    try:
        with said():
            begin = time.perf_counter()
            kernel = triton.Kernel(program, places, harmonics, dtype)
            seconds, noted = time.perf_counter() - begin, _seconds.get()
            if noted is not None and seconds > FROM_CACHE:
                noted.append(seconds)
            return kernel
    except Exception as error:  # compilers of devices raise anything
        if mode == "require":
            raise KernelError(f"{REQUIRED}, but one cannot be made by Triton: {error}") from None
        say(f"a kernel cannot be made by Triton ({error}): slower forms are used instead")
        return None


@contextmanager
def said() -> Iterator[None]:
    """Say in one line what is compiled inside, and how long it took."""
    outer, seconds = _seconds.get(), list[float]()
    before = _seconds.set(seconds)
    try:
        yield
    finally:
        _seconds.reset(before)
        if outer is not None:
            outer += seconds
        elif seconds:
            number = f"{len(seconds)} kernels" if len(seconds) > 1 else "a kernel"
            _print(f"compiled {number} of tensor products for this machine in {sum(seconds):.1f} s")


def _compile(compiler: compilers.Compiler, source: str, output: Path) -> None:
    if "ziglang" in compiler.command:
        _announce_runtime()
    begin = time.perf_counter()
    compilers.compile_source(compiler, source, output)
    seconds = _seconds.get()
    assert seconds is not None
    seconds.append(time.perf_counter() - begin)


@lru_cache(maxsize=1)
def _announce_runtime() -> None:
    """Once per process, before the wait."""
    _print("compiling tensor products by ziglang, which at its first use builds its own runtime, about a minute")


def _print(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@lru_cache(maxsize=64)
def say(message: str) -> None:
    """Once per process."""
    _log.warning(message)

"""The compiler of this machine, and what its results depend on.

``$CXX`` where it names one program, else g++, clang++ or the package ``ziglang``. Compilers are called without a shell.
"""

import os
import platform
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

NAMES = ("g++", "clang++")
#: No part of -ffast-math: it changes the floating-point mode of the whole process, and NaN would be lost.
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-fvisibility=hidden", "-w")
SECONDS = 300  #: of one compilation; the first by ziglang builds its runtime


class Compiler(NamedTuple):
    """How to call a compiler, and what identifies it."""

    command: tuple[str, ...]
    identity: str


class CompilationError(Exception):
    """A compiler failed; the message is its first line."""


def find() -> Compiler | None:
    """The compiler to use, or None."""
    return _find(os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@lru_cache(maxsize=8)
def _find(chosen: str, path: str) -> Compiler | None:
    for name in (chosen, *NAMES):
        program = shutil.which(name, path=path) if name else None
        if program is not None:
            identity = _identity(program)
            if identity is not None:
                return Compiler((program,), identity)
    if find_spec("ziglang") is not None:
        return Compiler((sys.executable, "-m", "ziglang", "c++"), f"ziglang {version('ziglang')}")
    return None


def _identity(program: str) -> str | None:
    """None where the program does not answer."""
    try:
        lines = [
            subprocess.run(
                [program, option], capture_output=True, text=True, timeout=30, check=True
            ).stdout.splitlines()[0]
            for option in ("--version", "-dumpmachine")
        ]
        real = Path(program).resolve()
        return f"{real} {real.stat().st_size} {'; '.join(lines)}"
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


@lru_cache(maxsize=1)
def processor() -> str:
    """Name and features of the processor: what a library that is made for it may need."""
    found = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "flags", "Features", "CPU part")):
                found.append(line.partition(":")[2].strip())
            elif not line:
                break
    except OSError:
        pass
    return "; ".join(found)


@lru_cache(maxsize=1)
def vector_bytes() -> int:
    """Size of the processor's vectors."""
    capability = torch.backends.cpu.get_cpu_capability()
    return 64 if capability == "AVX512" else 32 if capability == "AVX2" else 16


def flags() -> tuple[str, ...]:
    """Options of every compilation."""
    native = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
    return (*FLAGS, native)


def compile_source(compiler: Compiler, source: str, output: Path) -> None:
    """Compile C++ to a shared library.

    Raises:
        CompilationError: the compiler failed or took too long.
    """
    command = [*compiler.command, *flags(), "-x", "c++", "-", "-o", str(output)]
    try:
        done = subprocess.run(
            command, input=source, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=output.parent
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilationError(str(error)) from None
    if done.returncode != 0 or not output.is_file():
        first = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise CompilationError(first.strip()[:200])

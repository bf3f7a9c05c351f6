"""Equivariant machine learning for molecules and materials with interchangeable tensor products."""

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Calculator",
    "Spec",
    "__version__",
    "convolution",
    "distil",
    "examine",
    "load",
    "power",
    "predict",
    "product",
    "save",
    "vibrations",
]

#: Public name -> module. Imported on first use, so that ``import eqmol`` does not load torch.
_PUBLIC = {
    "load": "eqmol.checkpoint",
    "save": "eqmol.checkpoint",
    "Calculator": "eqmol.inference.calculator",
    "predict": "eqmol.inference.structures",
    "vibrations": "eqmol.inference.vibrations",
    "examine": "eqmol.trust.examine",
    "distil": "eqmol.cli.distil",
    "Spec": "eqmol.ops",
    "convolution": "eqmol.ops",
    "product": "eqmol.ops",
    "power": "eqmol.ops",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'eqmol' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


# as the command, until it tells in a sentence what it was doing, Ctrl-C ends the process without a traceback
if Path(sys.argv[0]).stem == "eqmol" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
import_module("eqmol.inference.ase_plugin")  # registers the calculator's name with ASE

"""What was measured before, in ``$EQMOL_CACHE/tune.json`` or ``~/.cache/eqmol/tune.json``.

The file may be deleted at any time; it is replaced as a whole, so programs that write at once lose at most a measurement.
"""

import json
import math
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eqmol import __version__
from eqmol.errors import InputError
from eqmol.files import cache_folder, replacing

FORMAT = 1


class Times(NamedTuple):
    """Seconds of one algorithm.

    Attributes:
        operation: without the geometry; infinite where a first look ruled the algorithm out.
        geometry: of the geometry alone.
        key: operations with equal keys share the geometry.
    """

    operation: float
    geometry: float
    key: str


def path() -> Path:
    """Where the cache lies."""
    return cache_folder() / "tune.json"


def hardware(device: torch.device) -> str:
    """The machine as far as times depend on it: processor and threads, or the GPU; and versions."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{_processor()}, {torch.get_num_threads()} threads"
    )
    return f"{name}; torch {torch.__version__}; eqmol {__version__}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def read() -> dict[str, dict[str, Times]]:
    """Problem -> backend -> cost. A file that cannot be understood is ignored with a warning."""
    try:
        text = path().read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        return _ignored(str(error))
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            return {}
        return {
            problem: {backend: _cost(numbers) for backend, numbers in costs.items()}
            for problem, costs in document["costs"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return _ignored(f"{type(error).__name__}: {error}")


def write(costs: Mapping[str, Mapping[str, Times]]) -> None:
    """Replace the file; where that is impossible, warn and go on."""
    document = {
        "format": FORMAT,
        "costs": {
            problem: {
                backend: [None if math.isinf(cost.operation) else cost.operation, cost.geometry, cost.key]
                for backend, cost in found.items()
            }
            for problem, found in costs.items()
        },
    }
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path()) as file:
            json.dump(document, file, indent=1)
    except (OSError, InputError) as error:
        warnings.warn(f"measured times are not remembered: {error}", stacklevel=2)


def _cost(numbers: Any) -> Times:
    seconds, geometry, key = numbers
    cost = Times(math.inf if seconds is None else float(seconds), float(geometry), str(key))
    if not (cost.operation > 0 and 0 <= cost.geometry < math.inf):
        raise ValueError(f"{numbers} are not times")
    return cost


def _ignored(reason: str) -> dict[str, dict[str, Times]]:
    warnings.warn(f"ignoring the damaged file {path()} ({' '.join(reason.split())[:100]})", stacklevel=3)
    return {}

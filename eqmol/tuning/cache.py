"""What was measured before, in ``tune.json`` and ``tables.json`` of ``$EQMOL_CACHE`` or ``~/.cache/eqmol``.

The files may be deleted at any time; they are replaced as a whole, so programs that write at once lose at most a measurement.
"""

import json
import math
import platform
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from eqmol import __version__
from eqmol.errors import InputError
from eqmol.files import cache_folder, replacing

FORMAT = 1
MODELS = 256  #: whose tables are remembered
T = TypeVar("T")


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


class Fineness(NamedTuple):
    """Of tables of radial weights.

    Attributes:
        nodes: of each table.
        error: eV/Å, largest of forces of the structures that they were settled on.
        rounding: eV/Å, largest rounding of the network's own forces of those.
    """

    nodes: int
    error: float
    rounding: float


def path() -> Path:
    """Where times lie."""
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
    """Problem -> backend -> cost."""
    return _read(
        path(),
        lambda document: {
            problem: {backend: _cost(numbers) for backend, numbers in costs.items()}
            for problem, costs in document["costs"].items()
        },
    )


def write(costs: Mapping[str, Mapping[str, Times]]) -> None:
    """Replace the file; where that is impossible, warn and go on."""
    known = {
        problem: {
            backend: [None if math.isinf(cost.operation) else cost.operation, cost.geometry, cost.key]
            for backend, cost in found.items()
        }
        for problem, found in costs.items()
    }
    _write(path(), {"costs": known}, "measured times are")


def read_tables() -> dict[str, Fineness]:
    """Model -> how fine its tables are; of ``tables.json`` beside the other file."""
    return _read(
        _tables_path(), lambda document: {key: _fineness(numbers) for key, numbers in document["tables"].items()}
    )


def write_tables(tables: Mapping[str, Fineness]) -> None:
    """Replace that file, as :func:`write`; the last models are kept."""
    kept = dict([*tables.items()][-MODELS:])
    _write(_tables_path(), {"tables": kept}, "how fine tables of radial weights must be is")


def _tables_path() -> Path:
    return cache_folder() / "tables.json"


def _read(file: Path, parse: Callable[[Any], dict[str, T]]) -> dict[str, T]:
    """What a file has; one that cannot be understood is ignored with a warning."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return parse(document) if document["format"] == FORMAT else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = str(error)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(f"ignoring the damaged file {file} ({' '.join(reason.split())[:100]})", stacklevel=3)
    return {}


def _write(file: Path, content: Mapping[str, Any], what: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as text:
            json.dump({"format": FORMAT, **content}, text, indent=1)
    except (OSError, InputError) as error:
        warnings.warn(f"{what} not remembered: {error}", stacklevel=3)


def _cost(numbers: Any) -> Times:
    seconds, geometry, key = numbers
    cost = Times(math.inf if seconds is None else float(seconds), float(geometry), str(key))
    if not (cost.operation > 0 and 0 <= cost.geometry < math.inf):
        raise ValueError(f"{numbers} are not times")
    return cost


def _fineness(numbers: Any) -> Fineness:
    nodes, error, rounding = numbers
    found = Fineness(int(nodes), float(error), float(rounding))
    if not (found.nodes > 0 and 0 <= found.error <= found.rounding < math.inf):
        raise ValueError(f"{numbers} are not nodes, error and rounding")
    return found

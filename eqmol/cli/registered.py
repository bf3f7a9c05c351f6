"""What a user's own script registered, as choices of ``backend=`` and ``model=``."""

import inspect
import sys
from typing import Any

#: Arguments of a model that the configuration fills in.
FILLED_IN = {
    "backend": "${backend.name}",
    "family": "${backend.family}",
    "elements": "${statistics.elements}",
    "avg_num_neighbors": "${statistics.avg_num_neighbors}",
}


def choices() -> dict[str, dict[str, dict[str, Any]]]:
    """Group -> name -> keys and values; "???" where a value must be given."""
    if (
        "eqmol.ops.registry" not in sys.modules
    ):  # then nothing is registered, and torch need not be imported to know that
        return {}
    from eqmol.models.registry import BACKBONES
    from eqmol.ops.registry import ALGORITHMS, RESERVED

    backends = {
        name: {"name": name, "family": algorithms.families[0]}
        for name, algorithms in ALGORITHMS.items()
        if name not in RESERVED
    }
    models = {name: {"_target_": name} | _arguments(cls) for name, cls in BACKBONES.items() if "." not in name}
    return {"backend": backends, "model": models}


def offer() -> None:
    """Let Hydra know the choices; a file of the same name in the configuration goes before them."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for group, found in choices().items():
        for name, node in found.items():
            store.store(group=group, name=name, node=node)


def _arguments(cls: type) -> dict[str, Any]:
    """Arguments of a constructor with what the configuration fills in, or their defaults."""
    values: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        default = "???" if parameter.default is parameter.empty else parameter.default
        values[name] = FILLED_IN.get(name, list(default) if isinstance(default, tuple) else default)
    return values

"""Classes of ``torch_geometric``, imported without what takes most of a short command's time: the compiler of torch, and data sets.

``torch_geometric`` imports ``torch._dynamo`` for one comparison of classes, ``psutil`` for loaders that choose cores, and all of
its own modules; these are imported where something of them is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["Batch", "Data"]


class _Later(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        self.leave()
        return getattr(import_module(self.__name__), name)

    def leave(self) -> None:
        """Let the module itself be imported."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


_parts = {name: _Later(f"torch_geometric.{name}") for name in ("nn", "datasets", "transforms", "explain", "profile")}
if "torch_geometric" in sys.modules:  # it has imported them
    _parts = {}
_later = [_Later("torch._dynamo"), _Later("psutil"), *_parts.values()]
for _module in _later:
    sys.modules.setdefault(_module.__name__, _module)
import torch_geometric  # noqa: E402
from torch_geometric.data import Batch, Data  # noqa: E402

for _module in _later:
    _module.leave()
for _name, _module in _parts.items():
    setattr(torch_geometric, _name, _module)

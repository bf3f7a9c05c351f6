"""Classes of ``torch_geometric``, imported without the compiler of torch, which takes most of a short command's time.

``torch_geometric`` imports ``torch._dynamo`` for one comparison of classes; torch itself imports it where it is first used.
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


_compiler = _Later("torch._dynamo")
sys.modules.setdefault(_compiler.__name__, _compiler)
from torch_geometric.data import Batch, Data  # noqa: E402

_compiler.leave()

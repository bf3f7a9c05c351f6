"""Which classes a configuration may name.

Hydra builds whatever ``_target_`` names: a configuration from elsewhere, the config.yaml of a shared run for instance, could
run any code. Here it names classes of eqmol, those registered in this process and a few of torch and Lightning;
``allow_code=true`` allows all, also those of modules in the current folder.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from eqmol.errors import InputError
from eqmol.files import PACKAGE
from eqmol.models.registry import BACKBONES

#: Classes of other packages that eqmol's own configuration names, and their siblings.
OTHERS = (
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "torch.optim.SGD",
)


def check_targets(cfg: DictConfig) -> None:
    """Refuse a configuration that names code outside of eqmol, unless ``allow_code`` is true; then find modules here, too.

    Raises:
        InputError: names the key and the code.
    """
    if type(cfg.allow_code) is not bool:
        raise InputError(f"allow_code={cfg.allow_code} must be true or false")
    if cfg.allow_code:
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)  # last: a file there hides no package
        return
    for key, target in _targets(OmegaConf.to_container(cfg, resolve=False), ""):
        if target not in (*OTHERS, *BACKBONES) and not _is_own_class(target):
            if isinstance(target, str) and target.isidentifier():
                raise InputError(
                    f"{key}={target} is not registered here; train in a script of yours that calls "
                    f"eqmol.models.register({target!r}, ...) and then eqmol.cli.main.main()"
                )
            raise InputError(
                f"{key}={target} is no class of eqmol: a configuration may run code from elsewhere only with allow_code=true; "
                "use it if you trust that code"
            )


def _targets(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every ``_target_``."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        name = f"{prefix}.{key}" if prefix else str(key)
        if key == "_target_":
            yield name, value
        else:
            yield from _targets(value, name)


def _is_own_class(target: Any) -> bool:
    """Return whether a dotted name is that of a class defined in eqmol; modules reachable from there do not count."""
    if not isinstance(target, str) or not target.startswith("eqmol."):
        return False
    *modules, name = target.split(".")
    path = PACKAGE.joinpath(*modules[1:])
    if not path.with_suffix(".py").is_file() and not (path / "__init__.py").is_file():
        return False
    found = getattr(import_module(".".join(modules)), name, None)
    return isinstance(found, type) and found.__module__.split(".")[0] == "eqmol"

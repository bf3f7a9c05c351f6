"""The table of backbones: which class a name in a recipe stands for."""

import inspect
import json
import re

from eqmol.errors import InputError
from eqmol.models.backbone import Backbone
from eqmol.models.equiformer import Equiformer
from eqmol.models.mace import MACE

#: Name in a recipe -> class.
BACKBONES: dict[str, type[Backbone]] = {"eqmol.models.MACE": MACE, "eqmol.models.Equiformer": Equiformer}


def register(name: str, backbone: type[Backbone]) -> None:
    """Make a model of one's own known to this process: recipes, and so model files, may then name it.

    A name that was registered before gets the new class.

    Args:
        name: a letter, then letters, digits and underscores.
        backbone: its constructor takes plain JSON values and checks them, since files of strangers may hold any.

    Raises:
        InputError: no name, or no class of node features, with all methods and named arguments alone.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise InputError(f"the model name {name!r} must be a letter followed by letters, digits and underscores")
    if not isinstance(backbone, type) or not issubclass(backbone, Backbone):
        raise InputError(f"{backbone!r} is no subclass of eqmol.models.Backbone")
    if inspect.isabstract(backbone):
        raise InputError(f"{backbone.__name__} lacks the methods {', '.join(sorted(backbone.__abstractmethods__))}")
    for parameter in inspect.signature(backbone).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InputError(f"the argument {parameter} of {backbone.__name__} has no name that a recipe could give")
        if parameter.default is not parameter.empty and not _is_plain(parameter.default):
            raise InputError(f"the default of {parameter} of {backbone.__name__} is no JSON, of which recipes are made")
    BACKBONES[name] = backbone


def _is_plain(value: object) -> bool:
    """Whether a value can stand in a recipe."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True

"""From a recipe, plain JSON that may come from a stranger's file, to a model.

A recipe names classes by ``_target_``. The names are keys of the tables below, which hold eqmol's models and those that
:func:`eqmol.models.register` added in this process, and nothing else: no module is imported and no attribute looked up on their
behalf. Constructors check types and sizes of their arguments before they allocate.
"""

import inspect
import json
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from eqmol.errors import InputError
from eqmol.models import Potential, Properties
from eqmol.models.predictor import Predictor
from eqmol.models.registry import BACKBONES

#: What the outermost ``_target_`` may be.
PREDICTORS: dict[str, type[nn.Module]] = {"eqmol.models.Potential": Potential, "eqmol.models.Properties": Properties}
#: What the ``_target_`` of an argument may be, by the name of the argument.
PARTS: dict[str, Mapping[str, type[nn.Module]]] = {"backbone": BACKBONES}
MAX_DEPTH = 8
MAX_ITEMS = 256
MAX_INTEGER = 2**53


def build(recipe: Mapping[str, Any]) -> Predictor:
    """The untrained model that a recipe describes, in torch's default dtype; it carries a copy as ``model.recipe``.

    Args:
        recipe: plain JSON values, e.g. ``{"_target_": "eqmol.models.Potential", "elements": [1, 8], ..., "backbone":
            {"_target_": "eqmol.models.MACE", "backend": "cg", ...}}``.

    Raises:
        InputError: a value that is not plain JSON, a class outside the table, an argument that is unknown, missing, of
            the wrong type or too large, or a backend that cannot compute the family.
    """
    check_plain(recipe, "recipe")
    model = _create(recipe, PREDICTORS, "recipe")
    assert isinstance(model, Predictor)
    model.recipe = json.loads(json.dumps(recipe))
    return model


def complete(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that can be built, with the defaults of all that it leaves out."""
    parameters = inspect.signature((PREDICTORS | BACKBONES)[recipe["_target_"]]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {key: complete(value) if key in PARTS else value for key, value in {**defaults, **recipe}.items()}


def check_plain(value: object, where: str, depth: int = MAX_DEPTH) -> None:
    """Refuse everything but finite JSON values of reasonable size.

    Raises:
        InputError: names the place.
    """
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int | float):
        if abs(value) > MAX_INTEGER or not math.isfinite(value):
            raise InputError(f"{where} is not a finite number of ordinary size")
        return
    if not isinstance(value, dict | list) or depth == 0 or len(value) > MAX_ITEMS:
        raise InputError(f"{where} is not plain, small JSON: too deep, too long, or a {type(value).__name__}")
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and not isinstance(key, str):
            raise InputError(f"{where} has the key {key!r}, which is not text")
        check_plain(item, f"{where}.{str(key)[:80]}", depth - 1)


def _create(node: object, table: Mapping[str, type[nn.Module]], where: str) -> nn.Module:
    if not isinstance(node, dict):
        raise InputError(f"{where} must be a JSON object with a key '_target_', not a {type(node).__name__}")
    target = node.get("_target_")
    if not isinstance(target, str) or target not in table:
        hint = "; a model of your own is made known with eqmol.models.register" if table is BACKBONES else ""
        raise InputError(f"{where}._target_ is {str(target)[:80]!r}, but only {', '.join(table)} can stand here{hint}")
    cls = table[target]
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    given = {key: value for key, value in node.items() if key != "_target_"}
    for key in given.keys() - parameters.keys():
        raise InputError(f"{where} has the unknown key {key[:80]!r}; {target} takes {', '.join(parameters)}")
    for key, parameter in parameters.items():
        if key not in given and parameter.default is parameter.empty:
            raise InputError(f"{where} lacks the key {key!r}, which {target} needs")
    return cls(**{key: _create(v, PARTS[key], f"{where}.{key}") if key in PARTS else v for key, v in given.items()})

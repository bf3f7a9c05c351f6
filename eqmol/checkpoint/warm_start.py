"""Training that starts from the weights of a model file (``init_from=MODEL.safetensors``).

The model of the run is the same function as that of the file before its first step: sizes must agree, and elements, element
energies, scale and the mean number of neighbours are the file's. What does not change the energy may differ: the algorithm,
noise of training, activation checkpointing, and whether forces are derivatives or read by a head.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from eqmol import checkpoint
from eqmol.checkpoint.recipe import PARTS, PREDICTORS
from eqmol.errors import InputError
from eqmol.models.predictor import Predictor

#: What may differ from the file.
FREE = ("backend", "checkpointing", "alpha_drop", "drop_path", "forces", "denoise", "gap")
#: Constants of the untrained model, see :mod:`eqmol.train.start`.
START = ("message_size", "gain", "force_gain", "binding")
TARGETS = PREDICTORS | PARTS["backbone"]


class WarmStart:
    """Weights to start from.

    Args:
        path: the model file.

    Raises:
        InputError: it cannot be read as a model.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._model = checkpoint.load(path, verify=False)
        self.statistics = _statistics(self._model.recipe)

    def check_elements(self, elements: list[int]) -> None:
        """Refuse data with elements that the model does not know.

        Raises:
            InputError: names them.
        """
        unknown = [chemical_symbols[z] for z in elements if z not in self._model.elements]
        if unknown:
            raise InputError(
                f"the training data have {', '.join(unknown)}, which init_from={self.path} does not know; start without "
                "init_from, or leave these structures out"
            )

    def fill(self, model: Predictor) -> str:
        """Copy the weights into an untrained model.

        Returns:
            What was taken, what is new, and what was left out, in a sentence.

        Raises:
            InputError: the model is another function; names the first difference.
        """
        given, wanted = _flat(self._model.recipe), _flat(model.recipe)
        for name in sorted(given.keys() | wanted.keys()):
            if name.rpartition(".")[2] not in FREE and given.get(name) != wanted.get(name):
                option = name.replace("backbone.", "model.") if name.startswith("backbone.") else f"predictor.{name}"
                raise InputError(
                    f"init_from={self.path} has {option}={given.get(name)}, this run {option}={wanted.get(name)}; a model "
                    "starts only from one of the same sizes and kind"
                )
        weights, own = self._model.state_dict(), model.state_dict()
        model.load_state_dict({name: weights.get(name, tensor) for name, tensor in own.items()})
        parts = [f"starts from {self.path}: {len(own.keys() & weights.keys())} tensors taken"]
        for what, names in (("new", own.keys() - weights.keys()), ("left out", weights.keys() - own.keys())):
            if names:
                parts.append(f"{what}: {', '.join(sorted(names))}")
        return "; ".join(parts)


def _statistics(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of the training set with which a recipe was made."""
    backbone = recipe["backbone"]
    start = {name: part[name] for part in (recipe, backbone) for name in START if name in part}
    statistics = {"elements": recipe["elements"], "avg_num_neighbors": backbone["avg_num_neighbors"], "start": start}
    if "statistics" in recipe:
        return statistics | {"properties": recipe["statistics"]}
    return statistics | {"e0": recipe["e0"], "scale": recipe["scale"]}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"backbone.channels": 32, ...} with the defaults of what a recipe leaves out."""
    parameters = inspect.signature(TARGETS[node["_target_"]].__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    values: dict[str, Any] = {}
    for key, value in checkpoint.plain(defaults | dict(node)).items():
        values |= _flat(value, f"{key}.") if key in PARTS else {f"{prefix}{key}": value}
    return values

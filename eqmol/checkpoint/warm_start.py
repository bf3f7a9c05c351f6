"""Training that starts from the weights of a model file (``init_from=MODEL.safetensors``).

The model of the run is the same function as that of the file before its first step, but for the energies of the elements
(:mod:`eqmol.train.warm_energies`): sizes must agree, and scale and the mean number of neighbours are the file's. What does not
change the energy may differ: the algorithm, noise of training, activation checkpointing, and whether forces are derivatives or
read by a head.

Elements that the model does not know join it. Every parameter with a row for each element gets further rows, copies of those
of the nearest known element: the rest of the network was trained on known elements only, and an atom that looks like one of
them starts with energies and forces of the right size, which random rows do not give.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from eqmol import checkpoint
from eqmol.checkpoint.recipe import PARTS, complete
from eqmol.errors import InputError
from eqmol.graph.contacts import SHORTEST
from eqmol.models.predictor import Predictor
from eqmol.models.uncertainty import MEANS

#: What may differ from the file.
FREE = ("backend", "checkpointing", "alpha_drop", "drop_path", "forces", "denoise", "gap")
#: Constants of each element that do not change what the network learnt, and their buffers in files.
ENERGIES = ("e0", "binding")
#: What the data may change of the statistics of a property.
CONSTANTS = ("e0", "mean")
#: Constants of the untrained model, see :mod:`eqmol.train.start`.
START = ("message_size", "gain", "force_gain", "binding")
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)


class WarmStart:
    """A model to start from.

    Args:
        path: the model file.

    Raises:
        InputError: it cannot be read as a model.

    Attributes:
        model: in float64, with all elements.
        copied: new elements, and the known ones that they start as.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model = checkpoint.load(path, dtype=torch.float64, verify=False)
        self.model.dispersion = None  # labels are without
        if heads := self.model.recipe.get("readout_heads"):
            raise InputError(
                f"init_from={path} has the heads {', '.join(heads)}, and a run starts from one: write it by "
                f"eqmol.save(eqmol.load('{path}', head='{heads[0]}'), FILE)"
            )
        self.copied: dict[int, int] = {}

    @property
    def statistics(self) -> dict[str, Any]:
        """Statistics of the training set with which the model was made; new elements have those of what they start as."""
        recipe = self.model.recipe
        backbone = recipe["backbone"]
        start = {name: part[name] for part in (recipe, backbone) for name in START if name in part}
        statistics = {"elements": recipe["elements"], "start": start}
        if "avg_num_neighbors" in backbone:
            statistics["avg_num_neighbors"] = backbone["avg_num_neighbors"]
        if "statistics" in recipe:
            inputs = recipe.get("features")
            return statistics | {"properties": recipe["statistics"]} | ({"features": inputs} if inputs else {})
        return statistics | {"e0": recipe["e0"], "scale": recipe["scale"]}

    def properties_of(self, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return "properties", the statistics of what a potential learns beside energies: those of the model, and as measured on
        the data of what the model does not predict; nothing without such.

        Args:
            statistics: of the data.

        Raises:
            InputError: a target of another kind or unit than the model's.
        """
        place = {z: row for row, z in enumerate(statistics["elements"])}
        own = self.model.recipe.get("properties") or {}
        found: dict[str, dict[str, Any]] = {}
        for name, entry in statistics.get("properties", {}).items():
            e0 = [entry["e0"][place[z]] if z in place else 0.0 for z in self.model.elements]
            found[name] = own.get(name, {**entry, "e0": e0})
            for key in ("kind", "unit"):
                if found[name][key] != entry[key]:
                    raise InputError(
                        f"init_from={self.path} has the {key} {found[name][key]!r} for {name}, the data {entry[key]!r}; give the "
                        "target another name, or declare it as the model's"
                    )
        return {"properties": found} if found else {}

    def check_kind(self, target: str) -> None:
        """Refuse a model that predicts other things than that of the run.

        Raises:
            InputError: another class than ``target``.
        """
        kind = self.model.recipe["_target_"]
        if kind != target:
            raise InputError(
                f"init_from={self.path} is a model of the kind {kind}, this run trains one of the kind {target}"
            )

    def add_elements(self, elements: Sequence[int]) -> None:
        """Enlarge the model by the elements that it does not know; on others it is the same function."""
        old = self.model
        known, new = old.elements, [z for z in elements if z not in old.elements]
        if not new:
            return
        self.copied = {z: nearest_element(z, known) for z in new}
        joined = sorted({*known, *new})
        rows = torch.tensor([known.index(self.copied.get(z, z)) for z in joined])
        with checkpoint.default_dtype(torch.float64):
            model = checkpoint.build(_with_elements(old.recipe, joined, rows.tolist()))
        own = model.state_dict()
        model.load_state_dict({name: _rows(tensor, own[name], rows) for name, tensor in old.state_dict().items()})
        model.sections = old.sections
        model.aux = dict(old.aux)
        if SHORTEST in old.aux:
            seen = torch.tensor([z in known for z in joined])
            table = old.aux[SHORTEST][rows][:, rows]
            model.aux[SHORTEST] = torch.where(seen & seen[:, None], table, 0.0)
        if MEANS in old.aux:
            model.aux[MEANS] = old.aux[MEANS][rows]
        self.model = model.eval()

    def fill(self, model: Predictor) -> str:
        """Copy the weights into an untrained model; the shortest distances of its training set join those of the file.

        Returns:
            What was taken, what is new, and what was left out, in a sentence.

        Raises:
            InputError: the model is another function; names the first difference.
        """
        old, new = self.model.trained_without, model.trained_without
        if old is not None and old != new:
            raise InputError(
                f"init_from={self.path} was trained on labels without {old.words()}, this run is on labels "
                f"{'with all of theirs' if new is None else f'without {new.words()}'}; give data.dispersion={old.option()}"
            )
        given, wanted = (_flat(complete(each.recipe)) for each in (self.model, model))
        for name in sorted(given.keys() | wanted.keys()):
            last = name.rpartition(".")[2]
            if last not in (*FREE, *ENERGIES) and given.get(name) != wanted.get(name):
                option = name.replace("backbone.", "model.") if name.startswith("backbone.") else f"predictor.{name}"
                raise InputError(
                    f"init_from={self.path} has {option}={given.get(name)}, this run {option}={wanted.get(name)}; a model "
                    "starts only from one of the same sizes and kind"
                )
        weights = {name: w for name, w in self.model.state_dict().items() if name.rpartition(".")[2] not in ENERGIES}
        own = {name: w for name, w in model.state_dict().items() if name.rpartition(".")[2] not in ENERGIES}
        model.load_state_dict(model.state_dict() | {name: weights.get(name, tensor) for name, tensor in own.items()})
        if SHORTEST in self.model.aux and SHORTEST in model.aux:
            model.aux[SHORTEST] = _least(self.model.aux[SHORTEST], model.aux[SHORTEST])
        parts = [f"starts from {self.path}: {len(own.keys() & weights.keys())} tensors taken"]
        if self.copied:
            named = ", ".join(f"{chemical_symbols[z]} as {chemical_symbols[known]}" for z, known in self.copied.items())
            parts.append(f"elements that it did not know start as the nearest ones that it did: {named}")
        for what, names in (("new", own.keys() - weights.keys()), ("left out", weights.keys() - own.keys())):
            if names:
                parts.append(f"{what}: {', '.join(sorted(names))}")
        return "; ".join(parts)


def nearest_element(number: int, known: Sequence[int]) -> int:
    """Return the known element that is chemically nearest: of the same column of the periodic table if there is one, else of
    the nearest atomic number.
    """
    return min(known, key=lambda z: (_column(z) != _column(number), abs(z - number), z))


def _column(number: int) -> int:
    """Return 1 and 2 for alkali and alkaline earth metals, minus the distance to the next noble gas for others; hydrogen is
    alone.
    """
    before = max(gas for gas in NOBLE_GASES if gas < number)
    after = min(gas for gas in NOBLE_GASES if gas >= number)
    if number == 1:
        return 0
    return number - before if number - before <= 2 and after > 2 else number - after - 1


def _with_elements(recipe: Mapping[str, Any], elements: list[int], rows: list[int]) -> dict[str, Any]:
    """Return a recipe for other elements, whose constants are those of these rows of the old ones."""
    found: dict[str, Any] = dict(recipe)
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            found[name] = _with_elements(value, elements, rows)
        elif name == "elements":
            found[name] = elements
        elif name in ENERGIES and value is not None:
            found[name] = [value[row] for row in rows]
    return found


def _rows(tensor: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of a tensor along the axis by which it differs from one for more elements; all if there is none."""
    for axis, (size, size_wanted) in enumerate(zip(tensor.shape, wanted.shape, strict=True)):
        if size != size_wanted:
            tensor = tensor.index_select(axis, rows)
    return tensor


def _least(a: Tensor, b: Tensor) -> Tensor:
    """Return the smaller of two tables of distances, where 0 stands for none."""
    return torch.where((a > 0) & (b > 0), torch.minimum(a, b), torch.maximum(a, b))


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"backbone.channels": 32, ...} of a complete recipe."""
    values: dict[str, Any] = {}
    for key, value in checkpoint.plain(node).items():
        if key == "properties":  # a potential may learn others
            continue
        if key == "statistics":  # of properties
            value = {name: {k: v for k, v in entry.items() if k not in CONSTANTS} for name, entry in value.items()}
        values |= _flat(value, f"{key}.") if key in PARTS else {f"{prefix}{key}": value}
    return values

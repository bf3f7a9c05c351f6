"""Larger models that compute the same, to be trained further.

The new model computes what the old one does, and proves it before anything is written: energies, forces and stress of both are
compared in float64, first exactly, then with the new weights rounded to the precision of the file.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.data import covalent_radii

from eqmol.checkpoint import build, default_dtype
from eqmol.checkpoint.recipe import complete
from eqmol.convert.enlarge import GROWTHS, Growth, enlarge
from eqmol.convert.weights import missing_weights
from eqmol.errors import InputError
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from eqmol.ops.registry import can_run
from eqmol.tuning.verify import Difference

#: Largest difference allowed, where the largest force component is 1 eV/Å or less; it grows with that force.
EXACT = 1e-9  #: eV per atom, eV/Å, eV/Å³ in float64
ROUNDED = {torch.float64: EXACT, torch.float32: 1e-4}  #: the same once the weights are rounded to the file's precision


def convert(old: Potential, changes: Mapping[str, Any], seed: int = 0) -> Potential:
    """A model that computes what ``old`` does, in a larger space of functions; in float64.

    Args:
        old: in float64, with its recipe.
        changes: arguments of the backbone and their new values.
        seed: of the new weights that are not zero.

    Raises:
        InputError: a change that takes something away, saying how much, or that changes nothing.
    """
    growth = _growth_of(old)
    before = _arguments(old)
    for name in changes:
        if name not in (*growth.sizes, "family", "parity"):
            raise InputError(
                f"{name} of this model's {type(old.backbone).__name__} cannot grow while the function is kept"
            )
    changes = {name: value for name, value in changes.items() if value != before[name]}
    if not changes:
        able = ", ".join(f"{name}=" for name in ("family", "parity", *growth.sizes))
        raise InputError(f"nothing changes; give a new value for at least one of {able}")
    after = {**old.recipe["backbone"], **changes}
    after["backend"] = _able_backend(after["backend"], after["family"])
    with torch.random.fork_rng(devices=[]), default_dtype(torch.float64):
        torch.manual_seed(seed)
        new = build({**old.recipe, "backbone": after})
    assert isinstance(new, Potential)
    new.sections, new.aux, new.dispersion = dict(old.sections), dict(old.aux), old.dispersion
    if new.num_last != old.num_last:  # an uncertainty is that of the old last weights
        new.sections.pop("uncertainty", None)
        new.aux = {name: tensor for name, tensor in new.aux.items() if not name.startswith("aux.uncertainty.")}
    _refuse_losses(old, new, changes)
    enlarge(old, new)
    return new.eval()


def _growth_of(model: Potential) -> Growth:
    growth = GROWTHS.get(type(model.backbone))
    if growth is None:
        raise InputError(f"a model with the backbone {type(model.backbone).__name__} cannot be enlarged yet")
    return growth


def _arguments(model: Potential) -> dict[str, Any]:
    """Arguments of the backbone, those that the recipe leaves out too."""
    found: dict[str, Any] = complete(model.recipe)["backbone"]
    return found


def _able_backend(backend: str | Mapping[str, str], family: str | Mapping[str, str]) -> str | dict[str, str]:
    """The backend, with cg in place of what cannot run the families."""
    families = {family} if isinstance(family, str) else set(family.values())

    def able(name: str) -> str:
        return name if all(can_run(name, each) for each in families) else "cg"

    return able(backend) if isinstance(backend, str) else {operation: able(name) for operation, name in backend.items()}


def _refuse_losses(old: Potential, new: Potential, changes: Mapping[str, Any]) -> None:
    growth, before = _growth_of(old), _arguments(old)
    for name in growth.sizes:
        if name in changes and isinstance(before[name], str):
            raise InputError(f"{name}={before[name]} of this model cannot become {changes[name]}; leave --{name} out")
        if name in changes and changes[name] < before[name]:
            missing = num_parameters(old) - num_parameters(new)
            raise InputError(
                f"{name}={changes[name]} is less than the model's {before[name]}: {missing} of its {num_parameters(old)} "
                f"parameters would be lost, and a conversion only enlarges; train a new model instead"
            )
    specs = growth.specs(old.backbone), growth.specs(new.backbone)
    lost = {name: missing_weights(spec, specs[1][name]) for name, spec in specs[0].items()}
    if any(lost.values()):
        wanted = " ".join(f"{name}={value}" for name, value in changes.items())
        detail = ", ".join(f"{n} of {specs[0][name].num_weights} of the {name}" for name, n in lost.items() if n)
        raise InputError(
            f"{wanted} cannot hold this model ({before['family']}, {before['parity']}): weights per channel without a place "
            f"are {detail}; a conversion only enlarges, so train a new model instead"
        )


def num_parameters(model: Potential) -> int:
    """Number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def differences(old: Potential, new: Potential, structures: Iterable[ase.Atoms], allowed: float) -> list[Difference]:
    """Compare energies per atom, forces, stress and properties.

    Args:
        old, new: in float64, in evaluation mode.
        structures: at least one.
        allowed: largest difference (eV, eV/Å, eV/Å³) for forces of 1 eV/Å; of properties, in their units, for values of 1.

    Raises:
        InputError: an element that the models do not know, or a result that is not finite.
    """
    results: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for number, atoms in enumerate(structures):
        graph = graph_of(old, atoms, f"structure {number}")
        for model, found in zip((old, new), results, strict=True):
            found.append(evaluate_graphs(model, [graph])[0])
    return compare(*results, allowed, {name: target.unit for name, target in old.targets.items()})


def compare(
    expected: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    allowed: float,
    properties: Mapping[str, str] | None = None,
) -> list[Difference]:
    """Largest differences between results of the same structures, as :func:`eqmol.inference.evaluate.evaluate_graphs` returns them.

    Args:
        expected, results: of each structure.
        allowed: as of :func:`differences`.
        properties: units of properties, by name.
    """
    units = {"energies": ("energy", "eV/atom"), "forces": ("forces", "eV/Å"), "stress": ("stress", "eV/Å³")}
    units |= {name: (name, unit) for name, unit in (properties or {}).items()}
    largest, size = dict.fromkeys(units, 0.0), dict.fromkeys(units, 1.0)
    sized_by = dict.fromkeys(("energies", "stress"), "forces")
    for wanted, found in zip(expected, results, strict=True):
        for name in largest.keys() & wanted.keys():
            size[name] = max(size[name], float(np.abs(wanted[name]).max()))
            largest[name] = max(largest[name], float(np.abs(found[name] - wanted[name]).max()))
    tolerances = {name: allowed * size[sized_by.get(name, name)] for name in units}
    return [Difference(units[name][0], value, tolerances[name], units[name][1]) for name, value in largest.items()]


def example_structures(elements: Sequence[int], cutoff: float, seed: int = 0) -> Iterator[ase.Atoms]:
    """Two clusters and a triclinic crystal, disordered, in which every element has neighbours of several others."""
    rng = np.random.default_rng(seed)
    spacing = min(2.2 * float(np.max(covalent_radii[list(elements)])), 0.7 * cutoff)
    side = max(2, math.ceil(len(elements) ** (1 / 3)))
    for shape in ((side, side, side), (side + 1, side, side), (side, side, side)):
        sites = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        numbers = rng.permutation(np.resize(elements, len(sites)))
        lattice = spacing * (np.eye(3) + np.array([[0, 0.1, 0], [-0.15, 0, 0.1], [0.2, 0, 0]]))
        positions = sites @ lattice + rng.uniform(-0.12, 0.12, (len(sites), 3)) * spacing
        yield ase.Atoms(numbers, positions)
    yield ase.Atoms(numbers, positions, cell=np.array(shape)[:, None] * lattice, pbc=True)

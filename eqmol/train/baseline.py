"""Predictors without a network, which a model has to beat: what the composition tells about a structure, and means."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from eqmol.graph.targets import Target
from eqmol.inference.errors import error_names

ENERGIES = "a fit of energies to the composition and no forces"
PROPERTIES = "the mean of the training set, of extensive properties a fit to the composition"
#: From this part of the baseline's error on, a model is called no better.
SHARE = 0.95
#: Errors of energies (meV), forces (meV/Å) and properties that are rounding.
ROUNDING = 1e-3


class Composition:
    """Least squares of values over the numbers of atoms of each element, from the batches of the training set."""

    def __init__(self) -> None:
        self._counts: list[NDArray[np.float64]] = []
        self._values: list[NDArray[np.float64]] = []
        self._weights: NDArray[np.float64] | None = None

    def learn(self, batch: Any, values: Tensor) -> None:
        """Take note of a value of each structure [G]; NaN is left out."""
        known = values.isfinite().cpu().numpy()
        self._counts.append(_counts(batch)[known])
        self._values.append(values.cpu().numpy()[known])

    def __call__(self, batch: Any) -> Tensor:
        """Return the value of each structure [G]."""
        if self._weights is None:
            counts = np.concatenate([np.zeros((0, len(chemical_symbols))), *self._counts])
            atoms = counts.sum(axis=1)
            values = np.concatenate([np.zeros(0), *self._values])
            self._weights = np.linalg.lstsq(counts / atoms[:, None], values / atoms)[0]
        return torch.from_numpy(_counts(batch) @ self._weights).to(batch.pos.device)


def _counts(batch: Any) -> NDArray[np.float64]:
    """Return the number of atoms of each element in each structure [G, elements]."""
    counts = torch.zeros(batch.num_graphs, len(chemical_symbols), dtype=torch.float64)
    counts.index_put_((batch.batch.cpu(), batch.atomic_numbers.cpu()), torch.ones(()).double(), accumulate=True)
    return counts.numpy()


class Simple:
    """Energies and extensive properties of the composition, no forces and no stress, the means of other properties.

    Args:
        targets: what a model predicts.
    """

    learns = True

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        energies = all(not target.is_property for target in targets)
        properties = all(target.is_property for target in targets)
        parts = [ENERGIES] * (not properties) + [PROPERTIES] * (not energies)
        self.name = ", and ".join(parts)
        self._composition = {t.name: Composition() for t in targets if t.kind in ("energy", "extensive")}
        self._labels: dict[str, list[Tensor]] = {target.name: [] for target in targets}

    def learn(self, batch: Any) -> None:
        """Take note of a batch of the training set."""
        for target in self.targets:
            if target.field not in batch:
                continue
            if target.name in self._composition:
                self._composition[target.name].learn(batch, batch[target.field])
            elif target.is_property:
                self._labels[target.name].append(batch[target.field])

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return what it predicts for a batch."""
        return {target.name: self._value(target, batch) for target in self.targets}

    def _value(self, target: Target, batch: Any) -> Tensor:
        if target.name in self._composition:
            return self._composition[target.name](batch)
        if not target.is_property:
            return torch.zeros_like(batch.pos if target.kind == "forces" else batch.cell)
        return torch.cat(self._labels[target.name]).nanmean(dim=0).expand_as(batch[target.field])


def judged(targets: Sequence[Target]) -> dict[str, str]:
    """Return the errors that are compared with the baseline's, and what a person calls the quantity."""
    return {error_names(target)[1]: "energies" if target.kind == "energy" else target.name for target in targets}


def verdict(
    judged: Mapping[str, str], rows: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]], name: str
) -> str | None:
    """Return a sentence about the quantities that a model predicts no better than a baseline, or None.

    Args:
        judged: errors by their names in summaries -> what a person calls the quantity.
        rows: set -> errors of the model, and of the baseline.
        name: of the baseline.
    """
    failed = []
    for key, quantity in judged.items():
        sets = [
            title
            for title, (own, other) in rows.items()
            if other.get(key, 0) > ROUNDING and own.get(key, 0) >= SHARE * other[key]
        ]
        if sets:
            failed.append(f"{quantity} of {', '.join(sets)}")
    if not failed:
        return None
    return f"no better than {name} (RMSE at least {100 * SHARE:.0f} % of its RMSE): {'; '.join(failed)}"

"""Several models that predict together: their mean, and how much they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def joined(results: Sequence[Mapping[str, Any]], spread: bool) -> dict[str, Any]:
    """The mean of what all of several models predict.

    Args:
        results: of two models or more for the same structure, as of :func:`eqmol.inference.evaluate.evaluate_graphs`.
        spread: also give ``energy_std``, ``energies_std`` [N] and ``forces_std`` [N], the root mean square over the components of
            an atom's force: standard deviations of the models, with one degree of freedom less than there are models.
    """
    names = set(results[0]).intersection(*results[1:])
    values = {name: np.stack([np.asarray(result[name]) for result in results]) for name in results[0] if name in names}
    mean = {name: each.mean(axis=0) for name, each in values.items()}
    if spread:
        variance = {name: values[name].var(axis=0, ddof=1) for name in ("energy", "energies", "forces")}
        variance["forces"] = variance["forces"].mean(axis=1)
        mean |= {f"{name}_std": np.sqrt(each) for name, each in variance.items()}
    return {name: value if value.ndim else float(value) for name, value in mean.items()}

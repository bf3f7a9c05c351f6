"""Small models for the tests of what uses them."""

from typing import Any

import torch

from eqmol.checkpoint import build, default_dtype
from eqmol.models import Potential


def recipe(**backbone: Any) -> dict[str, Any]:
    """Recipe of a tiny model of H, C, O and Cu, with changes to its backbone."""
    elements = [1, 6, 8, 29]
    sizes = {
        "backend": "cg",
        "family": "coupled",
        "parity": "o3",
        "degree": 1,
        "filter_degree": 2,
        "channels": 3,
        "layers": 2,
        "correlation": 2,
        "fields": 1,
        "cutoff": 3.5,
        "elements": elements,
        "avg_num_neighbors": 6.0,
        "radial_hidden": [8],
    }
    return {
        "_target_": "eqmol.models.Potential",
        "elements": elements,
        "e0": [-13.6, -1029.5, -2041.8, -0.5],
        "scale": 0.7,
        "zbl": True,
        "backbone": {"_target_": "eqmol.models.MACE"} | sizes | backbone,
    }


def model(dtype: torch.dtype = torch.float64, **backbone: Any) -> Potential:
    """A tiny model with seeded weights, in evaluation mode."""
    with default_dtype(dtype):
        return seeded(recipe(**backbone), seed=1)


def seeded(recipe: dict[str, Any], seed: int) -> Potential:
    """The model of a recipe with seeded weights in the default dtype, in evaluation mode."""
    torch.manual_seed(seed)
    built = build(recipe)
    assert isinstance(built, Potential)
    return built.eval()

"""How far a potential is from symmetries that its construction does not give it."""

from typing import Any

import torch
from torch import Tensor

from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.units import MEV, quantity

#: Generator of the rotation that structures are turned by.
TURN = [[0.0, 0.9, -0.4], [-0.9, 0.0, 0.7], [0.4, -0.7, 0.0]]


def images(model: Predictor) -> dict[str, tuple[Tensor, str]]:
    """Return the images of structures whose energy may differ: name -> matrix, and how a person calls them."""
    backbone = model.recipe["backbone"]
    found = {}
    if isinstance(model, Potential) and backbone.get("parity") == "so3":
        found["mirror"] = (-torch.eye(3), "parity so3: mirror images of validation structures")
    if isinstance(model, Potential) and model.backbone.samples_sphere:
        turn = torch.linalg.matrix_exp(torch.tensor(TURN))
        found["rotation"] = (turn, "functions sampled on the sphere: turned validation structures")
    return found


def symmetry_errors(model: Predictor, loader: Any, device: torch.device) -> dict[str, tuple[float, str]]:
    """Return how far images of structures differ, by the name in metrics.json, and in a sentence."""
    found = {}
    for name, (matrix, of_what) in images(model).items():
        error = image_error(model, loader, device, matrix)
        found[f"{name}_error_mev_per_atom"] = (error, f"{of_what} differ by {quantity(error, 'meV/atom')} (RMS)")
    return found


def image_error(model: Predictor, loader: Any, device: torch.device, matrix: Tensor) -> float:
    """Return the RMS difference (meV per atom) between the energies of structures and of their images.

    Args:
        model: the potential.
        loader: batches of structures.
        device: where to evaluate.
        matrix: [3, 3], orthogonal; positions and lattice vectors v become v @ matrix.
    """
    matrix = matrix.to(device, torch.float64)
    differences = []
    for batch in loader:
        image = batch.to(device)
        energy = model(image, forces=False)["energy"]
        image.pos, image.cell = image.pos @ matrix, image.cell @ matrix
        differences.append((model(image, forces=False)["energy"] - energy) / image.ptr.diff())
    return MEV * float(torch.cat(differences).square().mean().sqrt())

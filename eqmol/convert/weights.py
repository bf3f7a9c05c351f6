"""From the own weights of a product to those of a larger one that computes the same.

Both specs are written as path weights of the coupled product, with the constants that the number of paths puts on them.
"""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.errors import InputError
from eqmol.ops.spec import Spec

_EXACT = 1e-9


class WeightMap(NamedTuple):
    """How the weights of an old product become those of a new one.

    Attributes:
        matrix: [W old, W new], float64.
        feeds: [W new], whether a new weight acts on the inputs and outputs of the old product.
        scale: [degrees out of the old product]; what the old product returned is the new one's result times this.
    """

    matrix: Tensor
    feeds: Tensor
    scale: Tensor


def weight_map(old: Spec, new: Spec) -> WeightMap:
    """Map own weights of ``old`` to own weights of ``new`` such that old inputs give old outputs.

    Raises:
        InputError: ``new`` cannot compute every function of ``old``; says how many weights are missing.
    """
    if missing := missing_weights(old, new):
        raise InputError(f"{missing} of its {old.num_weights} weights per channel have no place in {_describe(new)}")
    if old.family == new.family == "gaunt":
        return _same_gaunt(old, new)
    before, after, inside = _path_matrices(old, new)
    solution = np.linalg.lstsq(after[:, inside].T, before[:, inside].T, rcond=None)[0]
    feeds = np.abs(after[:, inside]).max(1, initial=0) > 0
    if new.operation == "power":
        # a weight that sees new degrees of the field and returns an old one
        feeds = _feeds_degrees(after, old, new)
    return WeightMap(torch.tensor(solution.T), torch.tensor(feeds), torch.ones(old.degree_out + 1, dtype=torch.float64))


def missing_weights(old: Spec, new: Spec) -> int:
    """How many independent functions of ``old``, per channel, are none of ``new``."""
    if old.family == new.family == "gaunt":
        return len(set(old.own_weights) - set(new.own_weights))
    before, after, _ = _path_matrices(old, new)
    rows = after / np.linalg.norm(after, axis=1, keepdims=True)
    both = np.concatenate([rows, before / np.linalg.norm(before, axis=1, keepdims=True)])
    return int(np.linalg.matrix_rank(both, tol=_EXACT) - np.linalg.matrix_rank(rows, tol=_EXACT))


def _describe(spec: Spec) -> str:
    sizes = f"degrees {spec.degree_in} to {spec.degree_out}" + (f", order {spec.order}" if spec.order > 1 else "")
    return f"a {spec.operation} of family={spec.family}, parity={spec.parity}, {sizes} ({spec.num_weights} weights)"


def _paths(spec: Spec) -> tuple[Hashable, ...]:
    return spec.power_paths if spec.operation == "power" else spec.pair_paths


def _path_matrices(old: Spec, new: Spec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own weights of each as multiples of the bare paths of both: [W, paths], and which paths belong to the old spec."""
    union = {path: index for index, path in enumerate(dict.fromkeys((*_paths(old), *_paths(new))))}
    matrices = []
    for spec in (old, new):
        matrix = np.zeros((spec.num_weights, len(union)))
        matrix[:, [union[path] for path in _paths(spec)]] = spec.paths * spec.path_normalization
        matrices.append(matrix)
    inside = np.array([_acts_inside(path, old) for path in union])
    return matrices[0], matrices[1], inside


def _acts_inside(path: Hashable, old: Spec) -> bool:
    """Whether a path leads from degrees that the old product has to one that it returns."""
    assert isinstance(path, tuple)
    if old.operation == "power":
        factors, l3, _ = path
        return max(factors) <= old.degree_in and l3 <= old.degree_out
    l1, _, l3 = path
    return l1 <= old.degree_in and l3 <= old.degree_out


def _feeds_degrees(after: np.ndarray, old: Spec, new: Spec) -> np.ndarray:
    union = dict.fromkeys((*_paths(old), *_paths(new)))
    returned = np.array([path[1] <= old.degree_out for path in union])  # type: ignore[index]
    return np.abs(after[:, returned]).max(1, initial=0) > 0


def _same_gaunt(old: Spec, new: Spec) -> WeightMap:
    """Between products on the sphere every weight keeps its meaning up to the constants."""
    matrix = np.array([[float(a == b) for b in new.own_weights] for a in old.own_weights])
    scale = np.ones(old.degree_out + 1)
    if old.operation == "power":
        position = [new.own_weights.index(own) for own in old.own_weights]
        matrix *= (old.gaunt_scale / new.gaunt_scale[position])[:, None]
        feeds = [l3 <= min(old.degree_out, order * old.degree_in) for order, l3 in new.own_weights]
    else:
        scale = old.gaunt_scale / new.gaunt_scale[: old.degree_out + 1]
        reached = {((l1 + l2 + l3) % 2, l2) for l1, l2, l3 in new.pair_paths if _acts_inside((l1, l2, l3), old)}
        feeds = [own in reached for own in new.own_weights]
    return WeightMap(torch.tensor(matrix), torch.tensor(feeds), torch.tensor(scale))

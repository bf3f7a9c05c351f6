"""The spaces of equivariant maps that operations span, measured by evaluating them on random inputs.

An operation with own weights w is Σ_w w · (a map); each map is expanded, by least squares over samples, in the basis of all
equivariant maps: Clebsch-Gordan paths (convolution, product) or symmetric couplings (power). Following Xie et al. 2025
(arXiv:2506.13523):

- *expressivity* is the dimension of the set of maps that the weights reach: of one operation alone, and with linear layers for
  every degree before and after it;
- *interactability* is which degrees in give which degree out.

Shapes: S samples, W own weights, P paths, lm components. All float64.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Convolution, Power, Product, RadialWeight, TensorProduct, unit
from eqmol.ops.registry import create
from eqmol.ops.spec import Parity, Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.symmetric import couplings, monomials

Path = tuple[Any, ...]
#: Largest error of an operation that is right, relative to its largest value.
TOLERANCE = 1e-10
#: What is smaller, relative to the largest, does not exist.
_NOTHING = 1e-8


@dataclass(frozen=True)
class Samples:
    """Random inputs: features x [S, lm_in], second features y [S, lm_filter] and edge vectors [S, 3]."""

    x: Tensor
    y: Tensor
    vectors: Tensor

    @classmethod
    def draw(cls, spec: Spec, seed: int = 0) -> "Samples":
        """Enough samples to tell all maps between the degrees of ``spec`` apart."""
        rng = np.random.default_rng(seed)
        full = all_maps(spec)
        needed = np.bincount(full.path_degrees) / (2 * np.arange(full.path_degrees.max() + 1) + 1)
        size = int(needed.max()) + 9
        shapes = (size, dim(spec.degree_in)), (size, dim(spec.degree_filter)), (size, 3)
        return cls(*(torch.tensor(rng.normal(size=shape)) for shape in shapes))


def all_maps(spec: Spec, parity: Parity = "so3") -> Spec:
    """The spec of all equivariant maps between the degrees of ``spec``."""
    return Spec(spec.operation, "coupled", parity, spec.degree_in, spec.degree_filter, spec.degree_out, spec.order)


def paths_of(spec: Spec) -> tuple[Path, ...]:
    """Paths in the order of the spec: (l1, l2, l3), or (degrees of the factors, l3, index) for a power."""
    return spec.power_paths if spec.operation == "power" else spec.pair_paths


def evaluate(op: TensorProduct, samples: Samples) -> np.ndarray:
    """The map of every own weight at every sample, [W, S, lm_out]."""
    count, size = op.spec.num_weights, len(samples.x)
    x = samples.x.unsqueeze(-1).expand(-1, -1, count)  # a channel for every weight
    own = torch.eye(count, dtype=x.dtype)
    if isinstance(op, Convolution):
        weight = RadialWeight(torch.ones(size, 1, dtype=x.dtype), own.unsqueeze(0))
        nodes = torch.arange(size)
        result = op(x, op.geometry(samples.vectors), weight, nodes, nodes, size)
    elif isinstance(op, Product):
        result = op(x, samples.y.unsqueeze(-1).expand(-1, -1, count), own)
    else:
        assert isinstance(op, Power)
        result = op(x, own.unsqueeze(0), torch.zeros(size, dtype=torch.int64))
    return result.permute(2, 0, 1).numpy()


def basis(spec: Spec, samples: Samples) -> np.ndarray:
    """The bare maps of all paths of a coupled spec, without constants, [P, S, lm_out]."""
    second = (
        spherical_harmonics(unit(samples.vectors), spec.degree_filter) if spec.operation == "convolution" else samples.y
    )
    x, y = samples.x.numpy(), second.numpy()
    result = np.zeros((spec.num_paths, len(x), dim(spec.degree_out)))
    if spec.operation == "power":
        for row, (factors, l3, index) in enumerate(spec.power_paths):
            terms = np.stack([x[:, list(term)].prod(axis=1) for term in monomials(factors)], axis=1)
            result[row, :, degree_slice(l3)] = terms @ couplings(factors, l3)[index].T
        return result
    for row, (l1, l2, l3) in enumerate(spec.pair_paths):
        left, right = x[:, degree_slice(l1)], y[:, degree_slice(l2)]
        result[row, :, degree_slice(l3)] = np.einsum("uvw,su,sv->sw", wigner_3j(l1, l2, l3), left, right, optimize=True)
    return result


@dataclass(frozen=True)
class Space:
    """The maps that one algorithm computes for one spec.

    Attributes:
        spec, backend: the operation.
        maps: the map of every own weight at the samples, [W, S, lm_out].
        basis: all equivariant maps between these degrees (``so3``) at the same samples, [P, S, lm_out].
        coefficients: the maps in this basis, [W, P].
        paths: what the P paths are.
        allowed: [P] whether the parity of the spec allows the path.
        error: largest difference from the reference, Σ own weights · ``spec.paths`` · basis, relative to its largest value.
        outside: largest part of a map that is not equivariant (no combination of the basis), relative.
    """

    spec: Spec
    backend: str
    maps: np.ndarray
    basis: np.ndarray
    coefficients: np.ndarray
    paths: tuple[Path, ...]
    allowed: np.ndarray
    error: float
    outside: float

    @property
    def right(self) -> bool:
        """Whether the operation computes what its spec says."""
        return self.error <= TOLERANCE and self.outside <= TOLERANCE

    @cached_property
    def expressivity(self) -> int:
        """Dimension of the space of maps of the operation alone."""
        return rank(self.maps.reshape(len(self.maps), -1))

    @cached_property
    def full(self) -> int:
        """Dimension of the space of all equivariant maps that the parity allows."""
        return rank(self.basis[self.allowed].reshape(int(self.allowed.sum()), -1))

    @cached_property
    def layered(self) -> int:
        """Dimension of the set of maps with a linear layer per degree on every input and on the output, for one channel.

        The set is curved: this is the rank of its tangent at random weights.
        """
        rng = np.random.default_rng(1)
        degrees = _degrees_of_paths(self.spec, self.paths)  # [P, degrees in, out ...] exponents of the layers' weights
        layers, own = rng.uniform(0.5, 1.5, degrees.shape[1]), rng.normal(size=len(self.coefficients))
        factor = np.prod(layers**degrees, axis=1)
        by_layers = (own @ self.coefficients * factor)[:, None] * degrees / layers
        return rank(np.concatenate([by_layers.T, self.coefficients * factor]))

    @cached_property
    def reached(self) -> np.ndarray:
        """[P] whether some own weight reaches the path."""
        largest = np.abs(self.coefficients).max(axis=0)
        return largest > _NOTHING * max(largest.max(), 1e-300)

    @property
    def missed(self) -> list[Path]:
        """Paths that the parity allows and no weight reaches."""
        return self._paths_where(self.allowed & ~self.reached)

    @property
    def forbidden(self) -> list[Path]:
        """Paths that are reached although the parity forbids them."""
        return self._paths_where(self.reached & ~self.allowed)

    def _paths_where(self, chosen: np.ndarray) -> list[Path]:
        return list(compress(self.paths, chosen))

    def interactions(self) -> dict[tuple[int, ...], list[int]]:
        """Degrees in (l1, l2), or one of the degrees of a power's factors, -> the degrees out that they reach together."""
        result: dict[tuple[int, ...], set[int]] = {}
        for path in self._paths_where(self.reached):
            keys: list[tuple[int, ...]]
            if self.spec.operation == "power":
                factors, l3, _ = path
                keys = [(l,) for l in set(factors)]
            else:
                l1, l2, l3 = path
                keys = [(l1, l2)]
            for key in keys:
                result.setdefault(key, set()).add(l3)
        return {key: sorted(value) for key, value in sorted(result.items())}

    def part_outside(self, other: "Space") -> float:
        """Largest part of a map of this space that is no combination of the maps of another, relative to the map."""
        mine, theirs = (space.maps.reshape(len(space.maps), -1) for space in (self, other))
        return _residual(mine, theirs)


def measure(spec: Spec, backend: str, samples: Samples | None = None) -> Space:
    """Evaluate an operation and find the space that it spans.

    Raises:
        InputError: the backend cannot compute the spec.
    """
    samples = Samples.draw(spec) if samples is None else samples
    with torch.no_grad():
        maps = evaluate(create(spec, backend).double(), samples)
    full = all_maps(spec)
    everything, paths = basis(full, samples), paths_of(full)
    coefficients = _expand(maps, everything, full)
    even = set(paths_of(all_maps(spec, spec.parity)))
    position = [paths.index(path) for path in paths_of(spec)]
    reference = np.tensordot(spec.paths * spec.path_normalization, everything[position], axes=1)
    return Space(
        spec,
        backend,
        maps,
        everything,
        coefficients,
        paths,
        np.array([path in even for path in paths]),
        float(np.abs(maps - reference).max() / np.abs(reference).max()),
        float(np.abs(maps - np.tensordot(coefficients, everything, axes=1)).max() / np.abs(reference).max()),
    )


def rank(matrix: np.ndarray) -> int:
    """Numerical rank; rows are scaled to unit length first, so that constants do not matter."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    keep = lengths[:, 0] > _NOTHING * max(lengths.max(initial=0), 1e-300)
    return int(np.linalg.matrix_rank(matrix[keep] / lengths[keep], tol=_NOTHING)) if keep.any() else 0


def _expand(maps: np.ndarray, everything: np.ndarray, full: Spec) -> np.ndarray:
    """Coefficients [W, P] of maps in the basis; every degree out on its own, as no path leads to two."""
    result = np.zeros((len(maps), full.num_paths))
    for l3 in range(full.degree_out + 1):
        chosen = np.flatnonzero(full.path_degrees == l3)
        rows = everything[chosen][..., degree_slice(l3)].reshape(len(chosen), -1)
        values = maps[..., degree_slice(l3)].reshape(len(maps), -1)
        result[:, chosen] = np.linalg.lstsq(rows.T, values.T, rcond=None)[0].T
    return result


def _residual(rows: np.ndarray, space: np.ndarray) -> float:
    """Largest length of a row outside the span of others, relative to the row."""
    orthogonal, values, _ = np.linalg.svd(space.T, full_matrices=False)
    orthogonal = orthogonal[:, values > _NOTHING * values[0]]
    left = rows - (rows @ orthogonal) @ orthogonal.T
    lengths = np.linalg.norm(rows, axis=1)
    return float((np.linalg.norm(left, axis=1) / np.where(lengths > 0, lengths, 1)).max())


def _degrees_of_paths(spec: Spec, paths: tuple[Path, ...]) -> np.ndarray:
    """How often each path uses each degree of the first factor, of the second, and of the output: [P, degrees]."""
    result = np.zeros((len(paths), spec.degree_in + spec.degree_filter + spec.degree_out + 3))
    second, out = spec.degree_in + 1, spec.degree_in + spec.degree_filter + 2
    for row, path in enumerate(paths):
        if spec.operation == "power":
            factors, l3, _ = path
            for l in factors:
                result[row, l] += 1
        else:
            l1, l2, l3 = path
            result[row, [l1, second + l2]] += 1
        result[row, out + l3] += 1
    return result

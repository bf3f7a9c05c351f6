"""What a tensor product computes, apart from how.

Every specification is the Clebsch-Gordan product with particular path weights: with own weights w [num_weights] the result
is the coupled product with path weights w @ paths. Two families:

- *coupled*: one weight per path, so ``paths`` is the identity;
- *gaunt*: the product of functions on the sphere, one weight per degree of the second factor (convolution, product) or per
  order and output degree (power). Under ``so3`` the curl pairing r·(∇f × ∇g) adds the paths of odd l1 + l2 + l3 with
  weights of their own.

``order_max`` restricts a coupled convolution to orders |m| <= order_max in the frame of the edge: a smaller space of
functions, whose own weights are those of the frame (see :func:`eqmol.so3.frames.polar_coupling`). A *mixing* is a coupled
convolution with these weights in which each is a matrix between channels.

``block_paths`` gives a coupled convolution several results, blocks of channels side by side, each the sum of some of the paths:
where every path has a block of its own, as in MACE, a linear map afterwards mixes paths and channels together.

Degrees carry natural parity (-1)^l; ``o3`` keeps the paths of even l1 + l2 + l3, ``so3`` keeps all.
Own weights that reach no path do not exist. Constants give every output component unit variance for independent inputs
and weights of unit variance.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal, get_args

import numpy as np

from eqmol.errors import InputError
from eqmol.so3.coupling import is_coupled, pairing_factor
from eqmol.so3.frames import polar_coupling
from eqmol.so3.symmetric import gaunt_coefficients, gaunt_second_moment, symmetric_paths

Operation = Literal["convolution", "mixing", "product", "power"]
Family = Literal["coupled", "gaunt"]
Parity = Literal["o3", "so3"]

MAX_DEGREE = 16
MAX_ORDER = 6
#: Symmetric couplings grow like degree^(2 order); beyond this many monomials a coupled power is refused.
MAX_MONOMIALS = 25_000

PairPath = tuple[int, int, int]  # l1, l2, l3
PowerPath = tuple[tuple[int, ...], int, int]  # degrees of the factors, l3, index among the couplings of these degrees


@dataclass(frozen=True)
class Spec:
    """The function that a tensor product computes.

    >>> spec = Spec("product", "coupled", "o3", degree_in=1, degree_filter=1, degree_out=2)
    >>> spec.pair_paths  # (l1, l2, l3): a scalar of two scalars and of two vectors, two vectors, a tensor
    ((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2))
    >>> spec.num_weights, Spec("product", "gaunt", "o3", 1, 1, 2).num_weights
    (5, 2)

    Attributes:
        operation: ``convolution`` (features with the harmonics of edges), ``mixing`` (a convolution that mixes channels),
            ``product`` (two features) or ``power``.
        family, parity: see the module.
        degree_in: highest degree of the first factor.
        degree_filter: highest degree of the second factor; 0 for a power, ``degree_in + degree_out`` for a mixing.
        degree_out: highest degree of the result.
        order: highest order of a power, 1 for the other operations.
        order_max: highest |m| in the edge frame; None, also for a value that restricts nothing, keeps all.
        block_paths: paths of every block of channels of the result; a path may stand in several, with a weight in each. Own
            weights are those of the first block, then of the next, in the order of ``pair_paths``. None, also for one block of
            all paths, is one block of all. See :meth:`with_separate_paths`.

    Raises:
        InputError: an unknown name, degrees and orders out of range, an ``order_max`` or ``block_paths`` that the function does
            not have, or a mixing of another family or filter.
    """

    operation: Operation
    family: Family
    parity: Parity
    degree_in: int
    degree_filter: int
    degree_out: int
    order: int = 1
    order_max: int | None = None
    block_paths: tuple[tuple[PairPath, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("operation", Operation), ("family", Family), ("parity", Parity)):
            if getattr(self, name) not in get_args(allowed):
                raise InputError(
                    f"{name}={getattr(self, name)!r} is unknown; choose from {', '.join(get_args(allowed))}"
                )
        for name in ("degree_in", "degree_filter", "degree_out"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= MAX_DEGREE:
                raise InputError(f"{name}={value!r} must be an integer from 0 to {MAX_DEGREE}")
        if type(self.order) is not int or not 1 <= self.order <= MAX_ORDER:
            raise InputError(f"order={self.order!r} must be an integer from 1 to {MAX_ORDER}")
        if self.operation == "mixing":
            self._check_mixing()
        if self.order_max is not None:
            self._check_order_max()
        if self.block_paths is not None:
            self._check_block_paths()

    def with_separate_paths(self) -> "Spec":
        """The same convolution with at most one path into each degree per block: block k has the k-th path into every degree.

        >>> Spec("convolution", "coupled", "o3", 1, 1, 1).with_separate_paths().block_paths
        (((0, 0, 0), (0, 1, 1)), ((1, 1, 0), (1, 0, 1)))
        """
        blocks: list[list[PairPath]] = []
        seen = [0] * (self.degree_out + 1)
        for path in self.pair_paths:
            rank = seen[path[2]]
            seen[path[2]] += 1
            blocks += [[]] if rank == len(blocks) else []
            blocks[rank].append(path)
        return replace(self, block_paths=tuple(tuple(block) for block in blocks))

    def _check_mixing(self) -> None:
        if self.family != "coupled" or self.degree_filter != self.degree_in + self.degree_out:
            raise InputError(
                f"a mixing of family={self.family}, degrees {self.degree_in} -> {self.degree_out} and "
                f"degree_filter={self.degree_filter} is none: it belongs to the coupled family and has degree_filter = degree_in + "
                f"degree_out"
            )

    def _check_order_max(self) -> None:
        given = f"order_max={self.order_max!r}"
        if type(self.order_max) is not int or self.order_max < 0:
            raise InputError(f"{given} must be an integer of at least 0, or None for all orders")
        if self.operation not in ("convolution", "mixing") or self.family != "coupled":
            raise InputError(
                f"{given} restricts convolutions of the coupled family; a {self.operation} of the {self.family} family "
                f"has no orders to restrict: leave order_max out, or use family coupled"
            )
        if self.order_max >= min(self.degree_in, self.degree_out):
            object.__setattr__(self, "order_max", None)
        elif self.degree_filter < self.degree_in + self.degree_out:
            raise InputError(
                f"{given} needs every degree of the filter: degree_filter={self.degree_filter} must be at least "
                f"degree_in + degree_out = {self.degree_in + self.degree_out}"
            )

    def _check_block_paths(self) -> None:
        given = f"block_paths={self.block_paths!r}"
        if self.operation != "convolution" or self.family != "coupled" or self.order_max is not None:
            raise InputError(f"{given} needs a convolution of the coupled family with order_max=None; leave it out")
        every = self._all_pair_paths()
        order = {path: i for i, path in enumerate(every)}
        blocks = self.block_paths
        if not isinstance(blocks, tuple) or not blocks or not all(isinstance(block, tuple) for block in blocks):
            raise InputError(f"{given} must be a tuple of blocks, each a tuple of paths (l1, l2, l3)")
        for block in blocks:
            strange = [path for path in block if path not in order]
            if strange:
                raise InputError(f"{given} has {strange[0]!r}, which is none of the paths {every}")
            if not block or len(set(block)) < len(block):
                raise InputError(f"{given} has a block without paths, or one path twice in a block; leave it out")
        object.__setattr__(self, "block_paths", tuple(tuple(sorted(block, key=order.__getitem__)) for block in blocks))
        if self.block_paths == (every,):
            object.__setattr__(self, "block_paths", None)

    @cached_property
    def pair_paths(self) -> tuple[PairPath, ...]:
        """Paths (l1, l2, l3) of a convolution or product, block by block, ordered by l3, then l1, then l2."""
        return self._all_pair_paths() if self.block_paths is None else tuple(chain(*self.block_paths))

    @property
    def num_blocks(self) -> int:
        """Blocks of channels of the result."""
        return 1 if self.block_paths is None else len(self.block_paths)

    @cached_property
    def path_blocks(self) -> np.ndarray:
        """Block of every path, int64 [num_paths]."""
        sizes = [self.num_paths] if self.block_paths is None else [len(block) for block in self.block_paths]
        return np.repeat(np.arange(self.num_blocks), sizes)

    def _all_pair_paths(self) -> tuple[PairPath, ...]:
        return tuple(
            (l1, l2, l3)
            for l3 in range(self.degree_out + 1)
            for l1 in range(self.degree_in + 1)
            for l2 in range(self.degree_filter + 1)
            if is_coupled(l1, l2, l3) and (self.parity == "so3" or (l1 + l2 + l3) % 2 == 0)
        )

    @cached_property
    def power_paths(self) -> tuple[PowerPath, ...]:
        """Paths of a power of all orders up to ``order``, ordered by l3, then order, then degrees of the factors."""
        # the plain power of one field has no odd couplings, and the curl of a field with itself vanishes
        even_only = self.parity == "o3" or self.family == "gaunt"
        return symmetric_paths(self.degree_in, self.degree_out, self.order, even_only, MAX_MONOMIALS)

    @cached_property
    def path_degrees(self) -> np.ndarray:
        """Output degree l3 of every path, int64 [num_paths]."""
        if self.operation == "power":
            return np.array([l3 for _, l3, _ in self.power_paths])
        return np.array([l3 for _, _, l3 in self.pair_paths])

    @property
    def num_paths(self) -> int:
        return len(self.path_degrees)

    @cached_property
    def path_normalization(self) -> np.ndarray:
        """Constant of every path, float64 [num_paths]: √((2 l3 + 1) / P_l3) with P_l3 paths into l3 in its block.

        A power's couplings have unit second moment already: there it is √(1 / P_l3).
        """
        target = self.path_blocks * (self.degree_out + 1) + self.path_degrees
        count = np.bincount(target)[target]
        return np.sqrt((1 if self.operation == "power" else 2 * self.path_degrees + 1) / count)

    @cached_property
    def own_weights(self) -> tuple[tuple[int, ...], ...]:
        """What each own weight of the gaunt family or of a restricted convolution belongs to.

        Convolution and product: (0, l2) for the product f·g, (1, l2) for the curl pairing. Power: (order, l3).
        Restricted and mixing: (l1, l3, 0, m) for the cosine of order m, (l1, l3, 1, m) for the sine.
        """
        if self._is_framed:
            blocks = sorted({(l1, l3, (l1 + l2 + l3) % 2) for l1, l2, l3 in self.pair_paths})
            return tuple(
                (l1, l3, odd, m) for l1, l3, odd in blocks for m in range(odd, min(l1, l3, self.highest_order) + 1)
            )
        if self.operation == "power":
            return tuple(
                (order, l3)
                for l3 in range(self.degree_out + 1)
                for order in range(1, self.order + 1)
                if l3 <= order * self.degree_in and not (self.degree_in == 0 and l3)
            )
        return tuple(sorted({((l1 + l2 + l3) % 2, l2) for l1, l2, l3 in self.pair_paths}))

    @cached_property
    def paths(self) -> np.ndarray:
        """Own weights -> path weights of the coupled product, float64 [num_weights, num_paths]."""
        if not self.has_own_weights:
            return np.eye(self.num_paths)
        if self._is_framed:
            return self._restricted_paths()
        return self._gaunt_power_paths() if self.operation == "power" else self._gaunt_pair_paths()

    @property
    def has_own_weights(self) -> bool:
        """Whether own weights are others than those of the paths."""
        return self.family == "gaunt" or self._is_framed

    @property
    def _is_framed(self) -> bool:
        """Whether own weights are those of the edge frame."""
        return self.operation == "mixing" or self.order_max is not None

    @property
    def highest_order(self) -> int:
        """Highest |m| in the edge frame that couples."""
        return min(self.degree_in, self.degree_out) if self.order_max is None else self.order_max

    @cached_property
    def own_factors(self) -> tuple[tuple[int, int], ...]:
        """Order |m| and degree in of every factor of a mixing."""
        return tuple((m, l1) for m in range(self.highest_order + 1) for l1 in range(m, self.degree_in + 1))

    @property
    def num_weights(self) -> int:
        """Number of own weights per channel."""
        return len(self.own_weights) if self.has_own_weights else self.num_paths

    @property
    def weight_orders(self) -> tuple[int, ...]:
        """Order of the product that each own weight of a power belongs to."""
        assert self.operation == "power"
        if self.has_own_weights:
            return tuple(order for order, _ in self.own_weights)
        return tuple(len(degrees) for degrees, _, _ in self.power_paths)

    @cached_property
    def gaunt_scale(self) -> np.ndarray:
        """Gaunt family: constant of the output per degree l3, float64 [degree_out + 1], or of a power per own weight."""
        assert self.family == "gaunt"
        if self.operation == "power":
            count = np.bincount([l3 for _, l3 in self.own_weights], minlength=self.degree_out + 1)
            moments = [gaunt_second_moment(self.degree_in, order, l3) for order, l3 in self.own_weights]
            return 1 / np.sqrt(np.array(moments) * count[[l3 for _, l3 in self.own_weights]])
        variance = np.zeros(self.degree_out + 1)
        for l1, l2, l3 in self.pair_paths:
            variance[l3] += pairing_factor(l1, l2, l3) ** 2 / (2 * l3 + 1)
        return 1 / np.sqrt(np.where(variance > 0, variance, 1))

    def _restricted_paths(self) -> np.ndarray:
        """Rows are orthogonal up to the constants of the degrees out."""
        degree_out = np.array([l3 for _, l3, _, _ in self.own_weights])
        count = np.bincount(degree_out)[degree_out]
        matrix = np.zeros((self.num_weights, self.num_paths))
        for row, (l1, l3, odd, m) in enumerate(self.own_weights):
            for column, (a, l2, c) in enumerate(self.pair_paths):
                if (a, c, (l1 + l2 + l3) % 2) == (l1, l3, odd):
                    matrix[row, column] = polar_coupling(l1, l2, l3)[m] * np.sqrt(2.0 if m else 1.0)
        return matrix * np.sqrt((2 * degree_out + 1) / count)[:, None] / self.path_normalization

    def _gaunt_pair_paths(self) -> np.ndarray:
        index = {own: row for row, own in enumerate(self.own_weights)}
        matrix = np.zeros((self.num_weights, self.num_paths))
        for column, (l1, l2, l3) in enumerate(self.pair_paths):
            matrix[index[(l1 + l2 + l3) % 2, l2], column] = self.gaunt_scale[l3] * pairing_factor(l1, l2, l3)
        return matrix / self.path_normalization

    def _gaunt_power_paths(self) -> np.ndarray:
        matrix = np.zeros((self.num_weights, self.num_paths))
        column = {path: i for i, path in enumerate(self.power_paths)}
        for row, (order, l3) in enumerate(self.own_weights):
            for path, value in gaunt_coefficients(self.degree_in, order, l3).items():
                matrix[row, column[path]] = self.gaunt_scale[row] * value
        return matrix / self.path_normalization

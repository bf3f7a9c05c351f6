"""The feature layout: index l² + l + m for degree l and order m, about the y axis (e3nn's order).

Degree 1 reads (x, y, z). Harmonics are component-normalised, |Y_l|² = 2l + 1, without Condon-Shortley phase.
"""

import numpy as np

#: Names the sign and ordering conventions of harmonics and 3j symbols; written into every model file.
CONVENTION = "y-polar/component/positive-integral-3j/1"


def dim(degree: int) -> int:
    """Number of components of all degrees 0 ... ``degree``.

    >>> dim(2)
    9
    """
    return (degree + 1) ** 2


def degree_slice(degree: int) -> slice:
    """Where the components of one degree lie."""
    return slice(degree**2, (degree + 1) ** 2)


def degrees(degree: int) -> np.ndarray:
    """Degree of every component, int64 [(degree + 1)²].

    >>> degrees(2).tolist()
    [0, 1, 1, 1, 2, 2, 2, 2, 2]
    """
    return np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)


def orders(degree: int) -> np.ndarray:
    """Order m of every component, int64 [(degree + 1)²].

    >>> orders(2).tolist()
    [0, -1, 0, 1, -2, -1, 0, 1, 2]
    """
    return np.concatenate([np.arange(-l, l + 1) for l in range(degree + 1)])

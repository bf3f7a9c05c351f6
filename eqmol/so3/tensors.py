"""Symmetric 3×3 tensors and their components of degrees 0 and 2."""

import math

import numpy as np
from numpy.typing import NDArray


def symmetric_traceless() -> NDArray[np.float64]:
    """Matrices B [5, 3, 3] with r · B_m r = Y_2m(r), symmetric and without trace: Σ_m c_m B_m turns with r as c does.

    Source: the harmonics of degree 2 of :mod:`eqmol.so3.harmonics`, which are quadratic forms of the unit vector r.
    """
    basis = np.zeros((5, 3, 3))
    x, y, z = range(3)
    off_diagonal = math.sqrt(15) / 2
    for m, (i, j) in ((0, (x, z)), (1, (x, y)), (3, (y, z))):
        basis[m, i, j] = basis[m, j, i] = off_diagonal
    basis[2] = np.diag([-math.sqrt(5) / 2, math.sqrt(5), -math.sqrt(5) / 2])
    basis[4] = np.diag([-off_diagonal, 0.0, off_diagonal])
    return basis

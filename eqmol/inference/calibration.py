"""Whether errors are as large as their std says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

#: Confidences at which intervals are compared.
CONFIDENCES: NDArray[np.float64] = np.linspace(0.01, 0.99, 99)
#: Errors that are larger than this multiple of their std tell of another kind of structures than the model was calibrated on.
OFTEN = 2.0


@dataclass(frozen=True)
class Calibration:
    """Errors beside their std.

    Attributes:
        number: of errors.
        area: miscalibration area (Kuleshov, Fenner and Ermon 2018, arXiv:1807.00263): mean distance between the confidence of
            Gaussian intervals and the part of the errors within them; 0 is perfect, 0.5 the worst.
        ratio: root mean square of the errors over that of the std.
    """

    number: int
    area: float
    ratio: float

    @classmethod
    def of(cls, std: ArrayLike, errors: ArrayLike) -> Self:
        """The calibration of at least one error [...] and its std [...]."""
        s, e = np.broadcast_arrays(np.asarray(std, dtype=np.float64), np.asarray(errors, dtype=np.float64))
        area = float(np.abs(within(s, e) - CONFIDENCES).mean())
        ratio = np.sqrt(np.square(e).mean() / max(np.square(s).mean(), 1e-300))
        return cls(e.size, area, float(ratio))

    def words(self, what: str) -> str:
        """A sentence about it."""
        sentence = f"{what}: miscalibration area {self.area:.3f} (0 to 0.5), errors are {self.ratio:.2f} times the std"
        return sentence + (": too sure of itself there" if self.ratio > OFTEN else "")


def within(std: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of the errors that lies within Gaussian intervals of :data:`CONFIDENCES`."""
    sizes = np.sort(np.abs(errors).ravel() / np.maximum(std.ravel(), 1e-300))
    return np.searchsorted(sizes, norm.ppf(0.5 + CONFIDENCES / 2), side="right") / sizes.size


def named(found: Mapping[str, Calibration]) -> dict[str, dict[str, float]]:
    """For a program, as JSON takes it."""
    return {name: {"number": c.number, "area": c.area, "ratio": c.ratio} for name, c in found.items()}

"""What a data set offers to compare a model with."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Metrics(Protocol):
    """Further errors that a data set is judged by, of G structures.

    Attributes:
        title: of their table.
        columns: title, name and format of each that the table shows.
    """

    title: str
    columns: tuple[tuple[str, str, str], ...]

    def rows(self, output: Mapping[str, Tensor], batch: Any) -> Tensor:
        """Return what the errors of a batch are made of, [G, numbers] float64."""

    def summary(self, sums: Mapping[str, NDArray[np.float64]], rows: NDArray[np.float64]) -> dict[str, float]:
        """Return the errors by name.

        Args:
            sums: per target [G, 5]: how many components are compared, Σ|error|, Σ error², Σ label², Σ error.
            rows: of :meth:`rows`.
        """


class Baseline(Protocol):
    """A predictor without a network, which a model has to beat.

    Attributes:
        name: what a person calls it.
        learns: whether it takes note of the training set; if not, it knows it already and stands in tables.
    """

    name: str
    learns: bool

    def learn(self, batch: Any) -> None:
        """Take note of a batch of the training set."""

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return what it predicts for a batch, as a model does."""

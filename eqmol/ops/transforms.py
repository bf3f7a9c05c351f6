"""Transforms between features and samples: dense, and in two steps for the product rules of :mod:`eqmol.so3.quadrature`.

Samples are opaque: those of transforms of one kind are multiplied with one another and transformed back. In memory they lie as the
products of matrices want them, by row for a dense table; by point for two steps, so that a table meets all rows and channels at
once.

Shapes: n rows, lm components, C channels, G points = columns · rows of a rule, K orders.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from eqmol.ops.chunks import SAMPLES
from eqmol.ops.contract import Tables
from eqmol.so3.quadrature import Factors, wave
from eqmol.so3.torus import polar_series


class Transform(Tables, ABC):
    """A linear map from components to samples, and its transpose.

    Attributes:
        points, components: numbers of them.
    """

    points: int
    components: int

    @abstractmethod
    def sample(self, x: Tensor) -> Tensor:
        """[n, lm, C] -> samples."""

    @abstractmethod
    def adjoint(self, samples: Tensor) -> Tensor:
        """Samples -> [n, lm, C]."""

    @staticmethod
    @abstractmethod
    def by_row(samples: Tensor) -> Tensor:
        """Samples as [n, G, C], or these as samples."""


class Transforms(nn.ModuleList):
    """Several transforms."""

    def __iter__(self) -> Iterator[Transform]:
        return cast(Iterator[Transform], super().__iter__())


class Dense(Transform):
    """One table, kept as [lm, G], which the products of matrices read faster."""

    table: Tensor

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.points, self.components = table.shape
        self.add_table("table", table.T)

    def sample(self, x: Tensor) -> Tensor:
        return self.table.T @ x

    def adjoint(self, samples: Tensor) -> Tensor:
        return self.table @ samples

    @staticmethod
    def by_row(samples: Tensor) -> Tensor:
        return samples


class TwoSteps(Transform):
    """Over degrees for every order, then over orders.

    Attributes:
        orders: [K] of the waves, ascending.
        polar: [K, rows, degrees], filled up with zeros.
        source: [K · degrees], which component each of them meets.
        target: [lm], where among these a component stands.
    """

    cache = 2**18

    polar: Tensor
    source: Tensor
    target: Tensor

    def __init__(self, factors: Factors) -> None:
        super().__init__()
        self.components = len(factors.order)
        self.orders, where = np.unique(factors.order, return_inverse=True)
        place = np.array([np.sum(where[:i] == where[i]) for i in range(self.components)])
        self.shape = len(self.orders), int(place.max()) + 1
        self.size = self.shape[0] * self.shape[1]
        source, table = np.zeros(self.shape, dtype=np.int64), np.zeros((*self.shape, len(factors.polar)))
        source[where, place] = np.arange(self.components)
        table[where, place] = factors.polar.T
        self.add_table("polar", table.swapaxes(1, 2))
        self.add_table("source", source.ravel())
        self.add_table("target", where * self.shape[1] + place)

    def by_order(self, x: Tensor) -> Tensor:
        """[n, lm, C] -> [K, rows, n · C]."""
        n, _, channels = x.shape
        return self.polar @ x.transpose(0, 1).index_select(0, self.source).view(*self.shape, n * channels)

    def by_order_adjoint(self, rows: Tensor, n: int) -> Tensor:
        """[K, rows, n · C] -> [n, lm, C]."""
        by_degree = (self.polar.mT @ rows).view(self.size, n, rows.shape[2] // max(n, 1))
        return by_degree.index_select(0, self.target).transpose(0, 1)

    @staticmethod
    def by_row(samples: Tensor) -> Tensor:
        return samples.transpose(0, 1)


class Separable(TwoSteps):
    """By matrices.

    Args:
        factors: of the table.
        azimuth: [columns].
    """

    wave: Tensor

    def __init__(self, factors: Factors, azimuth: np.ndarray) -> None:
        super().__init__(factors)
        self.points = len(factors.polar) * len(azimuth)
        self.add_table("wave", wave(azimuth, self.orders))

    def sample(self, x: Tensor) -> Tensor:
        return (self.wave @ self.by_order(x).flatten(1)).view(self.points, len(x), x.shape[2])

    def adjoint(self, samples: Tensor) -> Tensor:
        _, n, channels = samples.shape
        orders, rows, _ = self.polar.shape
        by_row = self.wave.T @ samples.reshape(len(self.wave), rows * n * channels)
        return self.by_order_adjoint(by_row.view(orders, rows, n * channels), n)


class Fourier(TwoSteps):
    """By 2D Fourier series and the FFT, on the full torus.

    Functions of one order are cosine series in θ, or sine series; these are what the first step makes.

    Args:
        factors: of the table, of orders -k ... k.
        columns: of the rule.
    """

    sign: Tensor
    cosine: Tensor
    twice: Tensor

    def __init__(self, factors: Factors, columns: int) -> None:
        series = polar_series(factors.polar)
        series = series[: np.flatnonzero(np.abs(series).max(1) > 1e-14 * np.abs(series).max())[-1] + 1]
        is_sine = np.abs(series.imag).max(0) > np.abs(series.real).max(0)
        # exp(±i m φ) have half of the wave each; a real series holds one of them
        share = np.where(factors.order == 0, 1, 0.5)
        super().__init__(Factors(np.where(is_sine, -series.imag, series.real) * share, factors.order))
        self.rows, self.columns = len(factors.polar), columns
        self.points = self.rows * columns
        self.highest = int(self.orders[-1])
        sines = np.array([is_sine[np.abs(factors.order) == v].any() for v in range(self.highest + 1)])
        self.add_table("sign", np.where(sines, -1.0, 1.0)[:, None, None])
        self.add_table("cosine", np.where(sines, 0.0, 1.0)[:, None, None])
        # irfft reads every order but 0 twice
        self.add_table("twice", np.where(np.arange(self.highest + 1) > 0, 2.0, 1.0)[:, None, None])

    def sample(self, x: Tensor) -> Tensor:
        if not x.numel():  # FFTs refuse empty tensors
            return x.new_zeros(self.points, len(x), x.shape[2])
        rows = self.by_order(x)
        k, frequencies = self.highest, rows.shape[1]
        odd = torch.cat([torch.zeros_like(rows[:1]), rows[:k].flip(0)])
        half = torch.complex(rows[k:], -odd) * self._phase()
        spectrum = half.new_zeros(self.rows, self.columns // 2 + 1, half.shape[2])
        spectrum[:frequencies, : k + 1] = half.transpose(0, 1)
        spectrum[self.rows - frequencies + 1 :, : k + 1] = (half * self.sign)[:, 1:].flip(1).transpose(0, 1)
        samples = torch.fft.irfft2(spectrum, (self.rows, self.columns), (0, 1), "forward")
        return samples.view(self.points, len(x), x.shape[2])

    def adjoint(self, samples: Tensor) -> Tensor:
        _, n, channels = samples.shape
        if not samples.numel():
            return samples.new_zeros(n, self.components, channels)
        spectrum = torch.fft.rfft2(samples.reshape(self.rows, self.columns, n * channels), dim=(0, 1))
        k, frequencies = self.highest, self.polar.shape[1]
        low = spectrum[:, : k + 1].transpose(0, 1)
        half = low[:, :frequencies].clone()
        half[:, 1:] += low[:, self.rows - frequencies + 1 :].flip(1) * self.sign
        half = half * self._phase().conj() * self.twice
        return self.by_order_adjoint(torch.cat([-half.imag[1:].flip(0), half.real]), n)

    def _phase(self) -> Tensor:
        """1 of cosine series, -i of sine series: what multiplies exp(i u θ), [orders, 1, 1]."""
        return torch.complex(self.cosine, self.cosine - 1)


def chunks(rows: int, row_size: int, like: Tensor) -> Iterator[slice]:
    """Slices of ``rows`` rows of ``row_size`` samples, as many as :data:`eqmol.ops.chunks.SAMPLES` allows."""
    step = max(1, SAMPLES.numbers(like) // row_size)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

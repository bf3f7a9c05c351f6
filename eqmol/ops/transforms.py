"""Transforms between features and samples: dense, and in two steps for the product rules of :mod:`eqmol.so3.quadrature`.

Samples are opaque: those of transforms of one kind are added, multiplied by :meth:`Transform.multiply`, and transformed back. In
memory they lie as the products of matrices want them, by row for a dense table; by point for two steps, so that a table meets all
rows and channels at once.

Shapes: n rows, lm components, C channels, G points = columns · rows of a rule, K orders.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from eqmol.ops import flops
from eqmol.ops.chunks import SAMPLES, Limit
from eqmol.ops.contract import Tables
from eqmol.so3.quadrature import Factors, wave
from eqmol.so3.torus import polar_series

#: Rows and channels that two steps take at a time, at least.
LONG = 512


class Transform(Tables, ABC):
    """A linear map from components to samples, and its transpose.

    Attributes:
        points, components: numbers of them.
    """

    points: int
    components: int

    @property
    def limit(self) -> Limit:
        """How many samples are made at a time."""
        return SAMPLES

    @abstractmethod
    def sample(self, x: Tensor) -> Tensor:
        """[n, lm, C] -> samples."""

    @abstractmethod
    def adjoint(self, samples: Tensor) -> Tensor:
        """Samples -> [n, lm, C]."""

    @staticmethod
    def multiply(a: Tensor, b: Tensor) -> Tensor:
        """The samples of the product of two functions."""
        return a * b

    @staticmethod
    @abstractmethod
    def by_row(samples: Tensor) -> Tensor:
        """Samples -> values [n, G, C]."""

    @staticmethod
    @abstractmethod
    def of_rows(values: Tensor) -> Tensor:
        """Values [n, G, C] -> samples."""


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

    @staticmethod
    def of_rows(values: Tensor) -> Tensor:
        return values


class TwoSteps(Transform):
    """Over degrees for every order, then over orders.

    Attributes:
        orders: [K] of the waves, ascending.
        polar: [K, rows, degrees], filled up with zeros.
        source: [K · degrees], which component each of them meets.
        target: [lm], where among these a component stands.
    """

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

    @property
    def limit(self) -> Limit:
        """How many samples are made at a time: sums are short, so that long rows are worth a slower cache."""
        return Limit(max(2 * SAMPLES.cpu, LONG * self.points), SAMPLES.elsewhere)

    def by_order(self, x: Tensor) -> Tensor:
        """[n, lm, C] -> [K, rows, n · C]."""
        n, _, channels = x.shape
        by_degree = x.transpose(0, 1).index_select(0, self.source).view(*self.shape, n * channels)
        return torch.bmm(self.polar, by_degree)

    def by_order_adjoint(self, rows: Tensor, n: int) -> Tensor:
        """[K, rows, n · C] -> [n, lm, C]."""
        by_degree = torch.bmm(self.polar.mT, rows).view(self.size, n, rows.shape[2] // max(n, 1))
        return by_degree.index_select(0, self.target).transpose(0, 1)

    @staticmethod
    def by_row(samples: Tensor) -> Tensor:
        return samples.transpose(0, 1)

    @staticmethod
    def of_rows(values: Tensor) -> Tensor:
        return values.transpose(0, 1)


class Separable(TwoSteps):
    """By matrices, at azimuths that lie in pairs ±φ.

    A function is an even plus an odd one in φ: cosines and sines. Each needs half of the azimuths, so that the second step takes
    half of the operations. Samples are kept as these two, [2, H · rows, n, C] at the H azimuths between 0 and π.

    Args:
        factors: of the table.
        columns: of the rule, an even number.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, factors: Factors, columns: int) -> None:
        super().__init__(factors)
        if columns % 2:
            raise ValueError(f"{columns} columns do not lie in pairs")
        self.points = len(factors.polar) * columns
        table = wave(2 * np.pi * (np.arange(columns // 2) + 0.5) / columns, self.orders)
        self.odd = int(np.sum(self.orders < 0))
        self.add_table("sine", table[:, : self.odd])
        self.add_table("cosine", table[:, self.odd :])

    def sample(self, x: Tensor) -> Tensor:
        by_order = self.by_order(x).flatten(1)
        samples = x.new_empty(2, len(self.cosine), by_order.shape[1])
        torch.mm(self.cosine, by_order[self.odd :], out=samples[0])
        torch.mm(self.sine, by_order[: self.odd], out=samples[1])
        return samples.view(2, self.points // 2, len(x), x.shape[2])

    def adjoint(self, samples: Tensor) -> Tensor:
        _, _, n, channels = samples.shape
        orders, rows, _ = self.polar.shape
        even, odd = samples.reshape(2, len(self.cosine), rows * n * channels)
        by_order = samples.new_empty(orders, even.shape[1])
        # twice: both azimuths of a pair
        torch.addmm(by_order[self.odd :], self.cosine.T, even, beta=0, alpha=2, out=by_order[self.odd :])
        torch.addmm(by_order[: self.odd], self.sine.T, odd, beta=0, alpha=2, out=by_order[: self.odd])
        return self.by_order_adjoint(by_order.view(orders, rows, n * channels), n)

    @staticmethod
    def multiply(a: Tensor, b: Tensor) -> Tensor:
        result = torch.empty_like(a)
        torch.mul(a[0], b[0], out=result[0]).addcmul_(a[1], b[1])
        torch.mul(a[0], b[1], out=result[1]).addcmul_(a[1], b[0])
        return result

    @staticmethod
    def by_row(samples: Tensor) -> Tensor:
        even, odd = samples.transpose(1, 2)
        return torch.cat([even + odd, even - odd], 1)

    @staticmethod
    def of_rows(values: Tensor) -> Tensor:
        first, second = values.transpose(0, 1).chunk(2)
        return torch.stack([first + second, first - second]) / 2


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
        flops.register()
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


def chunks(rows: int, row_size: int, like: Tensor, limit: Limit = SAMPLES) -> Iterator[slice]:
    """Slices of ``rows`` rows of ``row_size`` samples, as many as the limit allows."""
    step = max(1, limit.numbers(like) // max(row_size, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

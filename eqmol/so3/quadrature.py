"""Sampling functions on the sphere and projecting samples back, exactly.

Functions are f = Σ x_lm Y_lm with component-normalised harmonics, which are orthonormal under the mean over the
sphere; so the coefficient of Y_lm is the mean of f Y_lm. A :class:`Rule` is a set of points with a projection that is
exact for functions up to a stated degree (the band).

Y_lm is a function of the colatitude times a wave in the azimuth, cos mφ or sin |m|φ. Where the points are all pairs of some
colatitudes (rows) with some azimuths (columns), tables of harmonics are products, too (:class:`Factors`): a function is sampled
order by order in θ, then over φ, in O(L³) instead of O(L⁴) operations.

The product rule here is Gauss-Legendre in cos θ times a uniform grid in the azimuth φ. For functions of degree d projected
on degrees up to l_out it needs ⌊(d + l_out) / 2⌋ + 1 rows and d + l_out + 1 columns: no fewer are exact. Lebedev's points are exact
to the same degree with about two thirds as many, but are no product.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch

from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degrees, dim, orders

#: Degrees to which Lebedev's points with positive weights are exact.
LEBEDEV_DEGREES = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31, 35, 41, 47, 53, 59)


@dataclass(frozen=True)
class Rule:
    """Points on the sphere and the projection of samples to coefficients; float64.

    Attributes:
        colatitude, azimuth: [points], radians, about the y axis; the azimuth runs from z to x.
        projection: [points, (l_out + 1)²]; samples of a function in the band -> its coefficients.
    """

    colatitude: np.ndarray
    azimuth: np.ndarray
    projection: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Unit vectors r [points, 3]."""
        sine = np.sin(self.colatitude)
        return np.stack([sine * np.sin(self.azimuth), np.cos(self.colatitude), sine * np.cos(self.azimuth)], -1)

    @property
    def tangents(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit tangent vectors along θ and φ, each [points, 3]; θ × φ = r."""
        cosine, zero = np.cos(self.colatitude), np.zeros_like(self.azimuth)
        south = np.stack([cosine * np.sin(self.azimuth), -np.sin(self.colatitude), cosine * np.cos(self.azimuth)], -1)
        east = np.stack([np.cos(self.azimuth), zero, -np.sin(self.azimuth)], -1)
        return south, east

    def sample(self, degree: int) -> np.ndarray:
        """Harmonics at the points: [points, (degree + 1)²]."""
        return harmonics_at(self.points, degree)

    def gradient(self, degree: int) -> tuple[np.ndarray, np.ndarray]:
        """Tangential derivatives along θ and φ of the harmonics divided by √(l(l+1)), each [points, (degree + 1)²].

        The division keeps the curl pairing's factors near one at every degree.
        """
        l = degrees(degree)
        scale = 1 / np.sqrt(np.maximum(l * (l + 1), 1))
        with torch.inference_mode(False), torch.enable_grad():
            points = torch.tensor(self.points, device="cpu", requires_grad=True)
            values = spherical_harmonics(points, max(degree, 1))[:, : dim(degree)]
            # the pulled-back cotangent is linear in it: its derivatives are the directional ones of the harmonics
            cotangent = values.new_zeros(values.shape).requires_grad_()
            (pulled,) = torch.autograd.grad((values * cotangent).sum(), points, create_graph=True)
            south, east = (
                torch.autograd.grad((pulled * torch.tensor(tangent, device="cpu")).sum(), cotangent, retain_graph=True)[
                    0
                ].numpy()
                for tangent in self.tangents
            )
        return south * scale, east * scale

    @property
    def columns(self) -> np.ndarray:
        """Azimuths that tables are multiplied with: one, unless the points are those of a product."""
        return np.zeros(1)

    @property
    def projection_factors(self) -> "Factors":
        """Of ``projection``."""
        return Factors.of_points(self.projection)

    def factors(self, degree: int) -> "Factors":
        """Of :meth:`sample`."""
        return Factors.of_points(self.sample(degree))

    def gradient_factors(self, degree: int) -> "tuple[Factors, Factors]":
        """Of :meth:`gradient`."""
        south, east = self.gradient(degree)
        return Factors.of_points(south), Factors.of_points(east)


class Factors(NamedTuple):
    """A table of functions at the points of a rule, one function per component; float64.

    Attributes:
        polar: [rows, lm].
        order: [lm], of the wave that ``polar`` is multiplied by, see :func:`wave`.
    """

    polar: np.ndarray
    order: np.ndarray

    @classmethod
    def of_points(cls, table: np.ndarray) -> Self:
        """A table [points, lm] that is no product: every point is a row, and waves are 1."""
        return cls(table, np.zeros(table.shape[1], dtype=np.int64))

    def take(self, components: np.ndarray) -> "Factors":
        """The table of some of the components."""
        return Factors(self.polar[:, components], self.order[components])

    def dense(self, azimuth: np.ndarray) -> np.ndarray:
        """[columns · rows, lm]."""
        table: np.ndarray = wave(azimuth, self.order)[:, None] * self.polar
        return table.reshape(-1, len(self.order))


def wave(azimuth: np.ndarray, order: np.ndarray) -> np.ndarray:
    """cos mφ for orders m ≥ 0, sin |m|φ for others: [points, orders]."""
    angle = np.abs(order) * azimuth[:, None]
    waves: np.ndarray = np.where(order >= 0, np.cos(angle), np.sin(angle))
    return waves


@dataclass(frozen=True)
class ProductRule(Rule):
    """All pairs of colatitudes and equispaced azimuths; the points of one azimuth lie together.

    Attributes:
        rows: [rows] colatitudes; beyond π on the far side of the sphere.
        polar: [rows, (l_out + 1)²], of which the projection is made.
    """

    rows: np.ndarray
    polar: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, columns: int, polar: np.ndarray) -> Self:
        """The rule of a number of columns."""
        azimuth = 2 * np.pi * np.arange(columns) / columns
        order = orders(int(np.sqrt(polar.shape[1])) - 1)
        projection = Factors(polar / columns, order).dense(azimuth)
        return cls(np.tile(rows, columns), np.repeat(azimuth, len(rows)), projection, rows, polar)

    @property
    def columns(self) -> np.ndarray:
        """[columns] azimuths."""
        return self.azimuth[:: len(self.rows)]

    @property
    def projection_factors(self) -> Factors:
        """Of ``projection``."""
        return Factors(self.polar / len(self.columns), orders(int(np.sqrt(self.polar.shape[1])) - 1))

    def factors(self, degree: int) -> Factors:
        """Of :meth:`sample`."""
        return Factors(self._meridian.sample(degree)[:, _component(degree)], orders(degree))

    def gradient_factors(self, degree: int) -> tuple[Factors, Factors]:
        """Of :meth:`gradient`."""
        south, east = self._meridian.gradient(degree)
        m = orders(degree)
        # the wave of order m has the derivative -m times that of order -m
        return (Factors(south[:, _component(degree)], m), Factors(east[:, _component(degree, -1)] * -np.sign(m), -m))

    @cached_property
    def _meridian(self) -> Rule:
        """The points at azimuth 0, where cosines are one and sines have the derivative |m|."""
        return Rule(self.rows, np.zeros_like(self.rows), np.empty(0))


def _component(degree: int, sign: int = 1) -> np.ndarray:
    """Index of (l, ±|m|) for every component (l, m)."""
    l = degrees(degree)
    index: np.ndarray = l * (l + 1) + sign * np.abs(orders(degree))
    return index


def harmonics_at(points: np.ndarray, degree: int) -> np.ndarray:
    """:func:`spherical_harmonics` of unit vectors [points, 3], float64, always on the CPU."""
    return spherical_harmonics(torch.tensor(points, device="cpu"), degree).numpy()


def sphere_rule(band: int, degree_out: int, rows: int | None = None, columns: int | None = None) -> ProductRule:
    """Gauss-Legendre × uniform rule, exact for functions of degree ``band`` projected on degrees up to ``degree_out``.

    ``rows`` and ``columns`` default to the smallest sufficient numbers.
    """
    rows = (band + degree_out) // 2 + 1 if rows is None else rows
    columns = band + degree_out + 1 if columns is None else columns
    nodes, weights = np.polynomial.legendre.leggauss(rows)
    colatitude = np.arccos(nodes)
    meridian = ProductRule.of(colatitude, columns, np.ones((rows, 1))).factors(degree_out)
    return ProductRule.of(colatitude, columns, weights[:, None] / 2 * meridian.polar)


def lebedev_rule(band: int, degree_out: int) -> Rule | None:
    """The fewest of Lebedev's points that are exact for functions of degree ``band`` projected on degrees up to ``degree_out``.

    None beyond the highest. Rules of degree 13, 25 and 27, which have negative weights, are left out. Source: Lebedev and Laikov
    1999, Doklady Mathematics 59, 477, by ``scipy.integrate.lebedev_rule``.
    """
    degree = next((exact for exact in LEBEDEV_DEGREES if exact >= band + degree_out), None)
    if degree is None:
        return None
    from scipy.integrate import lebedev_rule as lebedev_points  # a third of a second, which most programs need not wait

    (x, y, z), weights = lebedev_points(degree)
    meridian = Rule(np.arctan2(np.hypot(x, z), y), np.arctan2(x, z), np.empty(0))
    return replace(meridian, projection=weights[:, None] / (4 * np.pi) * meridian.sample(degree_out))

"""Sampling functions on the sphere and projecting samples back, exactly.

Functions are f = Σ x_lm Y_lm with component-normalised harmonics, which are orthonormal under the mean over the
sphere; so the coefficient of Y_lm is the mean of f Y_lm. A :class:`Rule` is a set of points with a projection that is
exact for functions up to a stated degree (the band).

The rule here is Gauss-Legendre in cos θ times a uniform grid in the azimuth φ. For functions of degree d projected
on degrees up to l_out it needs ⌊(d + l_out) / 2⌋ + 1 rows and d + l_out + 1 columns: no fewer are exact.
"""

from dataclasses import dataclass

import numpy as np
import torch

from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degrees, dim


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


def harmonics_at(points: np.ndarray, degree: int) -> np.ndarray:
    """:func:`spherical_harmonics` of unit vectors [points, 3], float64, always on the CPU."""
    return spherical_harmonics(torch.tensor(points, device="cpu"), degree).numpy()


def sphere_rule(band: int, degree_out: int, rows: int | None = None, columns: int | None = None) -> Rule:
    """Gauss-Legendre × uniform rule, exact for functions of degree ``band`` projected on degrees up to ``degree_out``.

    ``rows`` and ``columns`` default to the smallest sufficient numbers.
    """
    rows = (band + degree_out) // 2 + 1 if rows is None else rows
    columns = band + degree_out + 1 if columns is None else columns
    nodes, weights = np.polynomial.legendre.leggauss(rows)
    colatitude = np.repeat(np.arccos(nodes), columns)
    azimuth = np.tile(2 * np.pi * np.arange(columns) / columns, rows)
    rule = Rule(colatitude, azimuth, np.empty(0))
    mean = np.repeat(weights / 2, columns)[:, None] / columns
    return Rule(colatitude, azimuth, mean * rule.sample(degree_out))

"""The Gaunt product as published (Luo et al. 2024, arXiv:2401.10216), driven from a checkout of its authors' code.

The folder is ``efficiency-comparison`` of github.com/lsj2408/Gaunt-Tensor-Product, named by the environment variable
``PUBLISHED_GAUNT``; nothing of it is part of this project. Its table from Fourier coefficients to harmonics is too large for some
mirrors, so that it is computed here. The code has no weights, and returns degrees up to 2 L.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.case import CHECKED_ROWS, Case, Ready, leaves
from eqmol.ops.registry import create
from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degrees, orders

#: Largest intermediate in bytes; beyond it fewer rows are treated, and time and memory are scaled.
LARGEST = 3e8


def product(case: Case, x: Tensor, y: Tensor) -> Ready:
    """The published functions on features [N, lm, C]."""
    folder = Path(os.environ["PUBLISHED_GAUNT"])
    sys.path.insert(0, str(folder))
    from f2sh import f2sh_batch_channel
    from fft import FFT_batch_channel
    from sh2f import sh2f_batch_channel

    degree = case.degree
    to_fourier = torch.load(folder / "constants" / "coefficient_sh2f.pt", weights_only=True)[degree + 1]
    from_fourier = torch.tensor(fourier_to_harmonics(2 * degree), dtype=torch.complex64)
    row_bytes = 16 * case.channels * max((degree + 1) * (2 * degree + 1) ** 2, (2 * degree + 1) * (4 * degree + 1) ** 2)
    rows = min(case.nodes, max(CHECKED_ROWS, int(LARGEST / row_bytes)))

    def evaluate(x: Tensor, y: Tensor) -> Tensor:
        fourier = FFT_batch_channel(sh2f_batch_channel(x, to_fourier), sh2f_batch_channel(y, to_fourier))
        return f2sh_batch_channel(fourier, from_fourier).real

    spec = case.spec("gaunt")
    weight = torch.ones(spec.num_weights, case.channels, dtype=torch.float64)
    head = slice(CHECKED_ROWS)
    reference = create(spec, "cg").double()(x[head].double(), y[head].double(), weight)
    l, m = degrees(degree), orders(degree)
    sign = torch.tensor((-1.0) ** m, dtype=x.dtype)  # of Condon and Shortley

    def padded(x: Tensor) -> Tensor:
        out = x.new_zeros(rows, case.channels, degree + 1, 2 * degree + 1)
        out[:, :, l, degree + m] = x[:rows].transpose(1, 2) * sign
        return out

    def check(z: Tensor) -> tuple[Tensor, Tensor]:
        scale = sign * torch.tensor(np.sqrt(4 * np.pi) * spec.gaunt_scale[l], dtype=z.dtype)
        return (z[head][:, :, l, 2 * degree + m] * scale).transpose(1, 2), reference

    return Ready(evaluate, leaves(padded(x), padded(y)), 0, check, rows / case.nodes)


def fourier_to_harmonics(degree: int) -> np.ndarray:
    """Harmonic coefficients of exp(i(sθ + tφ)) on the sphere for t = m and t = -m, [l, degree + m, degree + s, 2]."""
    node, mass = np.polynomial.legendre.leggauss(4 * degree + 40)
    theta, mass = (node + 1) * np.pi / 2, mass * np.pi / 2
    meridian = np.stack([0 * theta, np.cos(theta), np.sin(theta)], axis=-1)
    harmonics = spherical_harmonics(torch.tensor(meridian), degree).numpy() / np.sqrt(4 * np.pi)
    wave = np.exp(1j * np.outer(np.arange(-degree, degree + 1), theta)) * mass * np.sin(theta)
    table = np.zeros((degree + 1, 2 * degree + 1, 2 * degree + 1, 2), dtype=complex)
    for l in range(degree + 1):
        table[l, degree, :, 0] = 2 * np.pi * wave @ harmonics[:, l * l + l]
        for m in range(1, l + 1):
            integral = np.pi * (-1) ** m * wave @ harmonics[:, l * l + l + m]
            table[l, degree + m] = np.stack([integral, integral], axis=-1)
            table[l, degree - m] = np.stack([-1j * integral, 1j * integral], axis=-1)
    return table

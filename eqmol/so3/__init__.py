"""Rotations: harmonics, couplings, Wigner matrices, quadratures. Knows neither graphs nor networks."""

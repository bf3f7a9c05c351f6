"""Tensors of degree 2 are the quadratic forms of the harmonics."""

import numpy as np
import torch

from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degree_slice
from eqmol.so3.tensors import symmetric_traceless


def test_quadratic_forms_are_the_harmonics_of_degree_two() -> None:
    basis = symmetric_traceless()
    np.testing.assert_allclose(basis, basis.transpose(0, 2, 1))
    np.testing.assert_allclose(np.trace(basis, axis1=1, axis2=2), 0.0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(basis, axis=(1, 2)), np.sqrt(7.5))
    vectors = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    forms = np.einsum("ni,mij,nj->nm", vectors, basis, vectors)
    np.testing.assert_allclose(forms, spherical_harmonics(vectors, 2)[:, degree_slice(2)], atol=1e-12)

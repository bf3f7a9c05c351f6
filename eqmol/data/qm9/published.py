"""Published errors on QM9: trained on 110,000 molecules, the standard split of the whole set.

As listed in table 12 of the poster of EquiformerV2 (github.com/atomicarchitects/equiformer_v2; arXiv:2306.12059), without the
models that it marks as trained on another split. The split's random numbers differ from paper to paper.
"""

from typing import Final

#: Order of the columns below.
_TARGETS = ("alpha", "gap", "homo", "lumo", "mu", "Cv", "G", "H", "r2", "U", "U0", "zpve")
_ROWS = {
    "PaiNN": (0.045, 46, 28, 20, 0.012, 0.024, 7.35, 5.98, 0.066, 5.83, 5.85, 1.28),
    "TorchMD-NET": (0.059, 36, 20, 18, 0.011, 0.026, 7.62, 6.16, 0.033, 6.38, 6.15, 1.84),
    "SphereNet": (0.046, 32, 23, 18, 0.026, 0.021, 8, 6, 0.292, 7, 6, 1.12),
    "EQGAT": (0.053, 32, 20, 16, 0.011, 0.024, 23, 24, 0.382, 25, 25, 2.00),
    "Equiformer": (0.046, 30, 15, 14, 0.011, 0.023, 7.63, 6.63, 0.251, 6.74, 6.59, 1.26),
    "Equiformer, noisy nodes": (0.040, 26.4, 13.7, 13.0, 0.011, 0.020, 5.49, 4.61, 0.235, 4.81, 4.61, 1.18),
    "EquiformerV2": (0.050, 29, 14, 13, 0.010, 0.023, 7.57, 6.22, 0.186, 6.49, 6.17, 1.47),
    "EquiformerV2, noisy nodes": (0.039, 24.2, 12.2, 11.4, 0.009, 0.020, 5.34, 4.24, 0.182, 4.28, 4.34, 1.21),
}
#: Mean absolute errors on the test set by model and target, in the units of tables (``shown_unit``).
PUBLISHED: Final[dict[str, dict[str, float]]] = {
    model: dict(zip(_TARGETS, map(float, row), strict=True)) for model, row in _ROWS.items()
}

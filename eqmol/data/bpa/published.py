"""Published errors on 3BPA, of models trained on the 500 frames of ``train_300K.xyz``.

As table 2 of Luo et al. 2024 (Gaunt tensor products, arXiv:2401.10216) has them, which reprints those of Batatia et al. 2022 (MACE,
arXiv:2206.07697): means over three runs.
"""

from typing import Final

#: Test set -> model -> RMSE of energies (meV) and of force components (meV/Å).
PUBLISHED: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "300K": {"NequIP": (3.3, 10.8), "BOTNet": (3.1, 11.0), "MACE": (3.0, 8.8), "MACE-Gaunt": (2.9, 9.2)},
    "600K": {"NequIP": (11.2, 26.4), "BOTNet": (11.5, 26.7), "MACE": (9.7, 21.8), "MACE-Gaunt": (10.6, 22.2)},
    "1200K": {"NequIP": (38.5, 76.2), "BOTNet": (39.1, 81.1), "MACE": (29.8, 62.0), "MACE-Gaunt": (30.4, 63.1)},
    "dihedral": {"BOTNet": (16.3, 20.0), "MACE": (7.8, 16.5), "MACE-Gaunt": (9.9, 17.7)},
}

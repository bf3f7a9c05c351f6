"""3BPA (``data=3bpa``) and the embedded sample in its format (``data=sample``).

3BPA: Kovács et al., J. Chem. Theory Comput. 17, 7696 (2021), doi 10.1021/acs.jctc.1c00647, in the form of Batatia et
al., arXiv:2205.06643: one molecule of 27 atoms, DFT energies in eV and forces in eV/Å.
"""

from pathlib import Path
from typing import Any

from eqmol.data.bpa.download import SHA256, download, verify
from eqmol.data.bpa.published import PUBLISHED
from eqmol.data.places import find, not_found
from eqmol.data.xyz.datamodule import FileSets
from eqmol.graph import AtomGraph

#: Frames of train_mixedT.xyz that are hotter than 300 K throughout and not in train_300K.xyz.
HOT = slice(315, 500)
TRAIN, ATOMS = "train_300K.xyz", "iso_atoms.xyz"
SAMPLE_TESTS = {"300K": "test_300K.xyz", "600K": "test_600K.xyz"}


class ThreeBPA(FileSets):
    """3BPA: 450 frames at 300 K train, 50 validate, the hot frames of ``train_mixedT.xyz`` test.

    Args:
        options: see :class:`eqmol.data.datamodule.GraphSets`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(train_file=TRAIN, val_fraction=0.1, isolated_atoms_file=ATOMS, **options)

    def prepare_data(self) -> None:
        """Download what is absent.

        Raises:
            InputError: the files are neither here nor reachable.
        """
        if find("3bpa", SHA256) is None:
            download(Path("data", "3bpa"))

    def setup(self, stage: str | None = None) -> None:
        """Find the files, verify that they are the published ones, read them."""
        folder = find("3bpa", SHA256)
        if folder is None:
            raise not_found("3bpa", "call prepare_data() to download it, or use data=sample")
        self.test_files = verify(folder)
        self.folder = folder
        super().setup(stage)

    def published(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the errors of :mod:`eqmol.data.bpa.published`, trained on all 500 frames, for the test sets that are there."""
        names = ("energy_rmse_mev", "forces_rmse_mev_per_a")
        return {
            test: {model: dict(zip(names, errors, strict=True)) for model, errors in PUBLISHED[test].items()}
            for test in self.test_graphs
            if test in PUBLISHED
        }

    def read_tests(self) -> dict[str, list[AtomGraph]]:
        """Return the hot frames, and the published test sets where they are."""
        hot = self.gather("train_mixedT.xyz", "data.test_files.mixedT_hot")[HOT]
        seen = [graph.pos for graph in (*self.train_graphs, *self.val_graphs)]
        assert not any(graph.pos.equal(pos) for graph in hot for pos in seen)
        return {"mixedT_hot": hot, **super().read_tests()}


class Sample(FileSets):
    """The embedded sample: the molecule of 3BPA with GFN2-xTB labels made by the project; see data/sample/README.md.

    Args:
        options: see :class:`eqmol.data.datamodule.GraphSets`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            train_file=TRAIN, val_fraction=0.1, test_files=SAMPLE_TESTS, isolated_atoms_file=ATOMS, **options
        )

    def setup(self, stage: str | None = None) -> None:
        """Find the files and read them."""
        folder = find("sample", (TRAIN, *SAMPLE_TESTS.values(), ATOMS))
        if folder is None:
            raise not_found("sample", "it comes with the repository: run from a checkout")
        self.folder = folder
        super().setup(stage)

"""Sets from files: splits, labels that are needed, and refusals."""

from io import StringIO

import ase
import ase.io
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from rich.console import Console

from eqmol.data.xyz.datamodule import FileSets
from eqmol.errors import InputError

E0 = {1: -13.6, 6: -1029.5, 7: -1485.0, 8: -2042.0}


def frames(name: str = "H2O", count: int = 20, seed: int = 0, labels=("energy", "forces"), **info) -> list[ase.Atoms]:
    """Rattled molecules with invented labels, kept in info and arrays under the given names."""
    rng = np.random.default_rng(seed)
    structures = []
    for i in range(count):
        atoms = molecule(name)
        atoms.rattle(0.05, rng=rng)
        atoms.info |= {"frame": i, **info}
        energy, forces = (*labels, None)[:2]
        if energy:
            atoms.info[energy] = sum(E0[z] for z in atoms.numbers) - 3.0 * len(atoms) + rng.normal()
        if forces:
            atoms.arrays[forces] = rng.normal(size=(len(atoms), 3))
        structures.append(atoms)
    return structures


def free(number: int, **labels) -> ase.Atoms:
    atoms = ase.Atoms([number])
    atoms.info |= {"energy": E0[number], **labels}
    return atoms


@pytest.fixture
def write(tmp_path):
    """Write structures to a file and return its path."""

    def _write(structures, name="train.xyz"):
        ase.io.write(tmp_path / name, structures, format="extxyz")
        return tmp_path / name

    return _write


def ready(train_file, **options) -> FileSets:
    """A data module after setup."""
    options = {"cutoff": 4.0, "train_file": train_file, **options}
    if "val_file" not in options:
        options.setdefault("val_fraction", 0.2)
    datamodule = FileSets(**options)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


def test_files_become_sets_and_loaders(write):
    datamodule = ready(
        write(frames(count=11)),
        val_file=write(frames(count=4, seed=1), "val.xyz"),
        test_files={"300K": write(frames(count=6, seed=2), "a.xyz"), "600K": write(frames(count=2), "b.xyz")},
        batch_size=4,
    )
    loaders = datamodule.evaluation_dataloaders()
    assert {name: len(loader.dataset) for name, loader in loaders.items()} == {
        "train": 11,
        "val": 4,
        "300K": 6,
        "600K": 2,
    }
    (batch,) = datamodule.val_dataloader()
    assert batch.num_graphs == 4
    assert [len(b.source) for b in datamodule.train_dataloader()] == [4, 4, 3]
    in_order = [source for batch in loaders["300K"] for source in batch.source]
    assert [source.split()[-1] for source in in_order] == [str(i) for i in range(6)]
    statistics = datamodule.statistics()
    assert statistics["elements"] == [1, 8]
    assert set(statistics) == {"elements", "e0", "scale", "label_scales", "avg_num_neighbors"}


def test_batches_may_be_bounded_by_atoms_and_edges(write):
    mixed = [*frames(count=6), *frames("CH3OH", count=6), *frames("CH4", count=6)]
    datamodule = ready(write(mixed), batch_size=10, batch_atoms=12, batch_edges=40, test_files={"again": write(mixed)})
    for loader in (datamodule.train_dataloader(), *datamodule.evaluation_dataloaders().values()):
        batches = list(loader)
        assert sum(batch.num_graphs for batch in batches) == len(loader.dataset)
        assert max(batch.num_nodes for batch in batches) <= 12
        assert max(batch.edge_index.shape[1] for batch in batches) <= 40
    with pytest.raises(
        InputError, match=r"data\.batch_edges=20 is less than the 30 edges of .*, frame \d+, the largest"
    ):
        ready(write(mixed), batch_edges=20).train_dataloader()


def test_setup_reads_once(write):
    path = write(frames())
    datamodule = ready(path)
    before = datamodule.train_graphs
    path.unlink()
    datamodule.setup("test")
    assert datamodule.train_graphs is before


def test_labels_have_configurable_keys_and_the_values_of_the_file(write):
    structures = frames(labels=("dft_energy", "dft_forces"))
    datamodule = ready(write(structures), energy_key="dft_energy", forces_key="dft_forces")
    for graph in datamodule.train_graphs:
        atoms = structures[int(graph.source.split()[-1])]
        assert float(graph.energy) == pytest.approx(atoms.info["dft_energy"], abs=1e-8)
        assert np.allclose(graph.forces, atoms.arrays["dft_forces"], atol=1e-7)


def test_isolated_atoms_of_the_training_file_give_e0_and_are_not_trained_on(write):
    isolated = [free(1), free(8, config_type="IsolatedAtom")]
    datamodule = ready(write([isolated[0], *frames(count=10), isolated[1]]))
    assert len(datamodule.train_graphs) + len(datamodule.val_graphs) == 10
    assert datamodule.statistics()["e0"] == [E0[1], E0[8]]


def test_isolated_atoms_may_have_a_file_of_their_own(write):
    file = write([free(z) for z in E0], "iso.xyz")
    datamodule = ready(write(frames()), isolated_atoms_file=file)
    assert datamodule.statistics()["e0"] == [E0[1], E0[8]]
    with pytest.raises(InputError, match=r"mixed\.xyz, frame 1: 3 atoms where an isolated atom should be"):
        ready(write(frames()), isolated_atoms_file=write([free(1), frames(count=1)[0]], "mixed.xyz"))


def test_config_types_are_kept(write):
    datamodule = ready(write(frames(count=10, config_type="300 K")), val_file=write(frames(count=3), "val.xyz"))
    assert {graph.config_type for graph in datamodule.train_graphs} == {"300 K"}
    (batch,) = datamodule.val_dataloader()
    assert batch.config_type == [""] * 3


def solids(stress_in) -> list[ase.Atoms]:
    """Rattled periodic frames; those in ``stress_in`` carry a stress."""
    structures = []
    for i in range(6):
        atoms = bulk("C", cubic=True)
        atoms.info["energy"] = E0[6] * len(atoms) - 7.0
        atoms.arrays["forces"] = np.zeros((len(atoms), 3))
        if i in stress_in:
            atoms.info["stress"] = 0.01 * np.eye(3)
        structures.append(atoms)
    return structures


def test_frames_without_stress_get_nan_where_others_have_it(write):
    molecules = frames("CH4", count=2)
    molecules[0].info["stress"] = np.eye(3)  # of a molecule: undefined
    options = {"val_file": write(solids({0}), "val.xyz"), "required": ("energy", "forces", "stress")}
    datamodule = ready(write([*solids({0, 3}), *molecules, free(6)]), **options)
    known = [bool(graph.stress.isfinite().all()) for graph in datamodule.train_graphs]
    assert known == [True, False, False, True, False, False, False, False]
    (batch, *_) = datamodule.train_dataloader()
    assert batch.stress.shape == (5, 3, 3)


def test_labels_that_are_not_needed_may_be_absent(write):
    structures = [*frames(count=5, labels=("energy", None)), *frames(count=5)]
    datamodule = ready(write(structures), required=("energy",))
    known = {bool(graph.forces.isfinite().all()) for graph in datamodule.train_graphs}
    assert known == {True, False}
    datamodule = ready(write(frames(labels=(None, "forces"))), required=("forces",))
    assert "energy" not in datamodule.train_graphs[0]
    assert datamodule.statistics()["e0"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("structures", "options", "words"),
    [
        (frames(labels=("REF_energy", "forces")), {}, ["frame 0", "no energy under the key 'energy'", "REF_energy"]),
        (frames(), {"forces_key": "force"}, ["frame 0", "no forces under the key 'force'", "mean 'forces'"]),
        ([*frames(), *frames(labels=("energy", None), count=1)], {}, ["frame 20", "no forces"]),
        (frames(), {"required": ("energy", "stress")}, ["all frames", "no stress under the key 'stress'"]),
        (solids({}), {"required": ("stress",)}, ["no stress"]),
        ([free(1), free(8)], {}, ["nothing to train on"]),
        (frames(count=1), {}, ["nothing to train on"]),
        ([*frames(), free(8, config_type="IsolatedAtom", energy=-75.0), free(1)], {}, ["eV per atom away", "O -75.00"]),
    ],
)
def test_training_files_that_cannot_be_used(write, structures, options, words):
    with pytest.raises(InputError) as error:
        ready(write(structures), **options)
    for word in (str(write([ase.Atoms("H")])), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("kind", ["val", "test"])
def test_elements_that_the_training_set_lacks_are_refused(write, kind):
    other = write([*frames(count=2), *frames("NH3", count=1)], "other.xyz")
    options = {"val_file": other} if kind == "val" else {"test_files": {"hot": other}}
    with pytest.raises(
        InputError, match=r"other\.xyz, frame 2: atom 0 is N, an element that the training set lacks"
    ) as e:
        ready(write(frames()), **options)
    assert "it has H, O" in str(e.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_file": None}, "data.train_file is missing"),
        ({"val_fraction": None}, "either data.val_file or data.val_fraction"),
        ({"val_file": "b.xyz", "val_fraction": 0.1}, "either data.val_file or data.val_fraction"),
        ({"val_fraction": 1.5}, "data.val_fraction=1.5"),
        ({"val_fraction": "much"}, "data.val_fraction='much'"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": "big"}, "data.batch_size='big'"),
        ({"batch_atoms": 0}, "data.batch_atoms=0"),
        ({"batch_edges": 1.5}, "data.batch_edges=1.5"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"seed": -1}, "data.seed=-1"),
        ({"cutoff": -5.0}, "cutoff -5.0"),
        ({"test_files": "c.xyz"}, "data.test_files='c.xyz' must name its files"),
        ({"test_files": {"val": "c.xyz"}}, "'val' is the name of another split"),
    ],
)
def test_contradicting_options_are_refused(options, words):
    with pytest.raises(InputError) as error:
        FileSets(**{"cutoff": 4.0, "train_file": "a.xyz", "val_fraction": 0.1, **options})
    assert words in str(error.value)


def test_tables_show_sets_labels_and_atomic_energies(write):
    console = Console(width=200, file=StringIO())
    for table in ready(write([free(1), free(8), *frames()])).tables():
        console.print(table)
    text = console.file.getvalue()
    for words in ("train", "16", "calculator['forces']", "20/22", "-2042.000000", "median of (E - Σ E0)/N"):
        assert words in text


class Recorder(pl.LightningModule):
    """Notes which frames each step saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[list[str]] = []

    def training_step(self, batch, index):
        self.seen.append(batch.source)
        return self.weight * batch.energy.mean()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class Save(pl.Callback):
    """Saves after one step, between two batches."""

    def __init__(self, path, step) -> None:
        self.path = path
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(datamodule, *callbacks, resume=None) -> list[list[str]]:
    """Train three epochs; return the frames of each step."""
    recorder = Recorder()
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(recorder, datamodule, ckpt_path=resume, weights_only=True)
    return recorder.seen


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*infer the .batch_size.*")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [2, 4, 7])
def test_lightning_resumes_inside_and_between_epochs(write, tmp_path, num_workers, step):
    path = write(frames())
    saved = tmp_path / "last.ckpt"
    seen = fit(ready(path, num_workers=num_workers), Save(saved, step))
    assert len(seen) == 12
    assert fit(ready(path, num_workers=num_workers), resume=saved) == seen[step:]


def test_structures_of_different_charge_or_spin(write):
    neutral = frames(count=10, charge=0, spin=1)
    cations = frames(count=10, seed=1, charge=1, spin=2)
    triplets = frames(count=10, seed=2, multiplicity=3)
    with pytest.raises(InputError) as error:
        ready(write(neutral + cations))
    for words in ("frame 10 has charge +1", "frame 0 has charge 0", "data.electronic_state=warn"):
        assert words in str(error.value)
    with pytest.raises(InputError, match="frame 0 has charge 0, 2 unpaired electrons"):
        ready(write(neutral), test_files={"other": write(triplets, "test.xyz")})
    mixed = ready(write(neutral + cations), electronic_state="warn")
    assert any("10 with charge +1" in str(table) for table in mixed.tables())
    constant = ready(write(cations))
    assert constant.electronic_state().charge == 1.0
    assert any("every structure has charge +1" in str(table) for table in constant.tables())
    assert not any("charge" in str(table) for table in ready(write(neutral)).tables() if isinstance(table, str))


def test_charged_isolated_atoms(write):
    with pytest.raises(InputError, match=r"frame 20: the isolated atom has the charge \+1"):
        ready(write([*frames(), free(8, charge=1)]))
    ready(write([*frames(), free(8, multiplicity=3), free(1, spin=2)]))

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


def text(datamodule: FileSets) -> str:
    """What a person sees before training."""
    console = Console(width=300, file=StringIO())
    for shown in datamodule.tables():
        console.print(shown)
    return console.file.getvalue()


def test_several_files_are_read_one_after_the_other(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abcdef"):
        write(frames(count=number + 1, seed=number), f"{name}.xyz")
    write([free(1)], "H.xyz")
    write([free(8)], "O.xyz")
    datamodule = ready(
        ["a.xyz", "[bc].xyz"],
        val_file="d.xyz,e.xyz",
        test_files={"both": ["e.xyz", "f.xyz"], 300: "f.*"},
        isolated_atoms_file="[HO].xyz",
    )
    found = [graph.source for graph in datamodule.train_graphs]
    assert found == [f"{name}.xyz, frame {i}" for number, name in enumerate("abc") for i in range(number + 1)]
    assert len(datamodule.val_graphs) == 9
    assert {name: len(graphs) for name, graphs in datamodule.test_graphs.items()} == {"both": 11, "300": 6}
    assert datamodule.statistics()["e0"] == [E0[1], E0[8]]


NAMES = (
    "a b.xyz",
    "a (1).xyz",
    "a=1.xyz",
    "a,b.xyz",
    "a@1.xyz",
    "[bold]a.xyz",
    "[1].xyz",
    "~a.xyz",
    "ä'\".xyz",
    "$a%.xyz",
)


@pytest.mark.parametrize("name", [*NAMES, "~/home.xyz"])
def test_names_as_people_type_them(write, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(frames(count=3), name.removeprefix("~/"))
    datamodule = ready(name, val_file=[name], test_files={"test": name})
    assert len(datamodule.train_graphs) == len(datamodule.test_graphs["test"]) == 3
    console = Console(width=300, file=StringIO())
    console.print(datamodule.tables()[1], markup=False)
    assert name.removeprefix("~") in console.file.getvalue()


@pytest.mark.parametrize("option", ["train_file", "val_file", "isolated_atoms_file", "test_files"])
@pytest.mark.parametrize(
    ("given", "words"), [("none.xyz", "none.xyz does not exist"), ("*.cif", "no file matches '*.cif'")]
)
def test_files_are_missed_before_any_is_read(tmp_path, option, given, words):
    (tmp_path / "train.xyz").write_text("not a structure")
    files = {"train_file": tmp_path / "train.xyz", option: {"hot": given} if option == "test_files" else given}
    name = "test_files.hot" if option == "test_files" else option
    with pytest.raises(InputError) as error:
        ready(**files)
    assert str(error.value) == f"data.{name}: {words}"


def test_a_tenth_validates_unless_something_is_given(write):
    path = write(frames())
    datamodule = FileSets(cutoff=4.0, train_file=path)
    datamodule.setup()
    assert (len(datamodule.train_graphs), len(datamodule.val_graphs)) == (18, 2)
    assert "2 of 20 structures validate, too few to judge a model by: give more, or data.val_file" in text(datamodule)
    assert "too few" not in text(ready(path, val_fraction=0.15))
    assert "too few" not in text(ready(path, val_file=write(frames(count=1), "val.xyz")))


@pytest.mark.parametrize(("count", "fraction"), [(2, None), (3, None), (2, 0.9), (3, 0.9)])
def test_of_very_few_frames_one_is_left_for_each_set(write, count, fraction):
    datamodule = ready(write(frames(count=count)), val_fraction=fraction)
    sizes = len(datamodule.train_graphs), len(datamodule.val_graphs)
    assert sizes == ((1, count - 1) if fraction else (count - 1, 1))
    assert f"of {count} structures" in text(datamodule)


def test_every_label_may_be_partial(write):
    """Frames without energy, without forces, without stress: each is trained on with what it has."""
    structures = solids({1, 2, 5})
    del structures[3].arrays["forces"]
    del structures[0].info["energy"]
    others = [*frames("CH4", count=2, labels=("energy", None)), *frames("CH4", count=2, labels=(None, "forces"))]
    datamodule = ready([write(structures), write(others, "others.xyz")], val_file=write(frames("CH4", 3), "val.xyz"))
    known = [
        "".join(label[0] for label in ("energy", "forces", "stress") if graph[label].isfinite().all())
        for graph in datamodule.train_graphs
    ]
    assert known == ["f", "efs", "efs", "e", "ef", "efs", "e", "e", "f", "f"]
    rows = [line.split("│") for line in text(datamodule).splitlines() if ".xyz" in line and "[" in line]
    counts = {(row[1].strip()[-9:], row[2].strip()): row[4].strip() for row in rows}
    assert counts["train.xyz", "energy"] == counts["train.xyz", "forces"] == "5/6"
    assert counts["train.xyz", "stress"] == "3/6"
    assert counts["thers.xyz", "forces"] == "2/4"
    assert np.isfinite(datamodule.statistics()["e0"]).all()
    for loader in (datamodule.train_dataloader(), *datamodule.evaluation_dataloaders().values()):
        assert sum(batch.num_graphs for batch in loader) == len(loader.dataset)


def test_frames_without_any_label_are_left_out(write):
    bare = frames(labels=(None, None), count=1)
    structures = [*frames(count=5), *bare, *frames(count=5), free(8)]
    datamodule = ready(write(structures), val_file=write([*bare, *frames(count=1)], "val.xyz"))
    found = [graph.source.split(", ")[1] for graph in datamodule.train_graphs]
    assert found == [f"frame {i}" for i in range(11) if i != 5]
    assert len(datamodule.val_graphs) == 1
    shown = text(datamodule)
    assert "left out, without any label that is needed (energy, forces): 2 frames, the first of them " in shown
    assert "train.xyz, frame 5" in shown
    with pytest.raises(InputError, match=r"bare\.xyz, frame 0: no energy under the key 'energy'"):
        ready([write(structures), write(bare, "bare.xyz")])
    with pytest.raises(InputError, match=r"bare\.xyz, frame 0: no energy"):
        ready(write(structures), test_files={"hot": write(bare, "bare.xyz")})


def test_labels_under_another_key_are_pointed_at(write):
    """A file that lacks what others have may only have it under another name."""
    other = write(frames(labels=("energy", "REF_forces"), count=5), "other.xyz")
    shown = text(ready([write(frames()), other]))
    assert "other.xyz: no frame has the forces under the key 'forces', though there is 'REF_forces'" in shown
    assert "though there is" not in text(ready(write([*frames(), *frames(labels=("energy", "REF_forces"))])))


def test_validation_frames_that_lack_a_label(write):
    shown = text(ready(write(frames()), val_file=write(frames(labels=("energy", None)), "val.xyz")))
    assert "no validation frame has forces: the best model is chosen by the other labels" in shown


def test_many_files_share_the_rows_of_the_table_of_labels(write, tmp_path):
    for number in range(12):
        write(frames(count=2, labels=("energy", "forces" if number != 7 else None)), f"a{number:02}.xyz")
    shown = text(ready(tmp_path / "a*.xyz", val_fraction=0.5))
    rows = [line for line in shown.splitlines() if ".xyz" in line and "│" in line]
    assert ["22/22" in row and "a00.xyz and 10 more" in row for row in rows] == [True, True, False]
    assert "a07.xyz" in rows[2]


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
        (frames(), {"required": ("energy", "stress")}, ["frame 0", "no stress under the key 'stress'"]),
        (
            [*frames(count=3, stress=np.eye(3))],
            {"required": ("energy", "stress")},
            ["frame 0", "periodic in three directions", "task.targets.stress.weight=0"],
        ),
        (frames(labels=(None, None)), {}, ["frame 0", "no energy under the key"]),
        (
            [*frames(count=1), *frames(labels=("energy", None), count=9)],
            {"val_fraction": 0.9, "seed": 1},
            ["all frames with forces were drawn to validate"],
        ),
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
        ({"train_file": None}, "data.train_file=null names no file"),
        ({"val_file": "b.xyz", "val_fraction": 0.1}, "data.val_file=b.xyz and data.val_fraction=0.1 contradict"),
        ({"val_fraction": 1.5}, "data.val_fraction=1.5"),
        ({"val_fraction": "much"}, "data.val_fraction='much'"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": "big"}, "data.batch_size='big'"),
        ({"batch_atoms": 0}, "data.batch_atoms=0"),
        ({"batch_edges": 1.5}, "data.batch_edges=1.5"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"seed": -1}, "data.seed=-1"),
        ({"cutoff": -5.0}, "data.cutoff=-5.0"),
        ({"test_files": "c.xyz"}, "data.test_files='c.xyz' must be names with their values"),
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

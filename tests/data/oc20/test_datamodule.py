"""From shards to graphs, splits and batches."""

import os
import pickle
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from rich.console import Console

from eqmol.data import places
from eqmol.data.oc20.datamodule import OC20
from eqmol.data.oc20.graphs import count_edges, keep_nearest
from eqmol.data.oc20.prepare import prepare
from eqmol.data.oc20.splits import BLOCKS, hold_out
from eqmol.errors import InputError
from eqmol.graph import collate, edge_vectors, from_atoms
from tests.data.oc20.files import REFERENCE, changed, relaxation, write_s2ef, write_trajectories
from tests.data.oc20.test_prepare import contents

SAMPLE = Path(__file__).parents[3] / "data" / "oc20_sample"
METALS = ("Cu", "Pt", "Pd", "Ni")
#: Every adsorbate on every metal, but gold only once.
SYSTEMS = {
    f"random{i}": relaxation(metal, guest, i, frames=12)
    for i, (metal, guest) in enumerate([*((m, g) for m in METALS for g in ("CO", "O", "OH")), ("Au", "O")])
}
ONLY_GOLD = "random12"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Published shards of all systems, their frames far apart."""
    folder = tmp_path_factory.mktemp("raw")
    names = list(SYSTEMS)
    write_s2ef(folder, {name: SYSTEMS[name] for name in names[::2]}, "0")
    write_s2ef(folder, {name: SYSTEMS[name] for name in names[1::2]}, "1")
    return folder


@pytest.fixture(scope="module")
def shards(raw) -> Path:
    prepare(raw, raw.parent / "shards", workers=1)
    return raw.parent / "shards"


def ready(folder: Path, **options) -> OC20:
    data = OC20(**{"cutoff": 3.0, "folder": folder, "held_out": 2, "batch_size": 3, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def systems(frames) -> set[str]:
    return {frames.library.systems[i] for i in frames.library.system[frames.indices]}


def shown(data: OC20) -> str:
    console = Console(width=300, file=StringIO())
    for table in data.tables():
        console.print(table)
    return console.file.getvalue()


# --- graphs


def test_a_graph_has_the_fields_of_its_frame(shards):
    data = ready(shards)
    graphs = [graph for frames in data._sets().values() for graph in frames]
    assert len(graphs) == 12 * len(SYSTEMS)
    for graph in graphs:
        name, _, number = graph.source.split(", ")[1].split()
        atoms = SYSTEMS[name][int(number)]
        expected = from_atoms(atoms, 3.0)
        assert graph.pos.equal(expected.pos)
        assert graph.edge_index.equal(expected.edge_index)
        assert graph.tags.tolist() == atoms.get_tags().tolist()
        assert graph.fixed.nonzero().flatten().tolist() == atoms.constraints[0].index.tolist()
        assert graph.forces.equal(torch.tensor(atoms.calc.results["forces"]))
        assert float(graph.energy) == pytest.approx(atoms.calc.results["energy"] - REFERENCE, abs=1e-12)
        assert graph.config_type == "".join(s for s in ("C", "H", "O") if s in atoms[8:].get_chemical_formula())
    batch = collate(graphs[:3])
    assert batch.fixed.dtype == torch.bool
    assert batch.tags.shape == (batch.num_nodes,)


def nearest_by_sorting(graph, number):
    """Every edge of an atom that is no longer than its number-th shortest, one by one."""
    lengths = edge_vectors(graph).norm(dim=1)
    kept = []
    for atom in range(graph.num_nodes):
        edges = (graph.edge_index[1] == atom).nonzero().flatten().tolist()
        shortest = sorted(float(lengths[edge]) for edge in edges)[:number]
        kept += [edge for edge in edges if shortest and float(lengths[edge]) <= shortest[-1] + 1e-3]
    return sorted(kept)


@pytest.mark.parametrize("number", [1, 4, 1000])
def test_the_cap_keeps_the_nearest_and_ties(number):
    for atoms in (SYSTEMS["random0"][0], relaxation(frames=1)[0][:8]):
        graph, capped = from_atoms(atoms, 4.0), keep_nearest(from_atoms(atoms, 4.0), number)
        expected = nearest_by_sorting(graph, number)
        assert capped.edge_index.equal(graph.edge_index[:, expected])
        assert capped.shifts.equal(graph.shifts[expected])


@pytest.mark.parametrize("most", [None, 5])
def test_edges_are_counted_once(shards, most, monkeypatch):
    frames = ready(shards, max_neighbors=most).train_graphs
    expected = [graph.edge_index.shape[1] for graph in frames]
    assert count_edges(frames).tolist() == expected
    monkeypatch.setattr("eqmol.data.oc20.graphs.from_atoms", None)
    assert count_edges(frames).tolist() == expected


def test_frames_and_their_files_go_to_other_processes(shards):
    frames = ready(shards, max_neighbors=6).val_graphs
    copy = pickle.loads(pickle.dumps(frames))
    assert len(copy[1:3]) == 2
    for one, other in zip(frames, copy, strict=True):
        assert one.edge_index.equal(other.edge_index)
        assert one.source == other.source


# --- splits


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_by_systems_keeps_each_on_one_side(shards, seed):
    data = ready(shards, seed=seed)
    sets = {name: systems(frames) for name, frames in data._sets().items()}
    assert {name: len(names) for name, names in sets.items()} == {"train": 10, "val": 1, "held_out": 2}
    assert set.union(*sets.values()) == set(SYSTEMS)
    assert ONLY_GOLD in sets["train"]


def test_blocks_are_contiguous_and_every_system_is_in_all_sets(shards):
    data = ready(shards, split="blocks")
    held_out = systems(data.test_graphs["held_out"])
    assert systems(data.train_graphs) == systems(data.val_graphs) == systems(data.test_graphs["blocks"])
    assert not held_out & systems(data.train_graphs)
    assert held_out | systems(data.train_graphs) == set(SYSTEMS)
    for frames in (data.val_graphs, data.test_graphs["blocks"]):
        library = frames.library
        for system in np.unique(library.system[frames.indices]):
            numbers = library.number[frames.indices[library.system[frames.indices] == system]]
            assert numbers.tolist() == list(range(numbers[0], numbers[0] + len(numbers)))
            assert len(numbers) in (12 // BLOCKS, 12 // BLOCKS + 1)
            assert numbers[0] > 0
            assert numbers[-1] < 11
    used = np.concatenate([frames.indices for frames in data._sets().values()])
    assert sorted(used) == list(range(12 * len(SYSTEMS)))


def test_systems_with_an_element_of_their_own_are_refused_by_name(shards):
    for seed in range(3):
        data = ready(shards, held_out=12, seed=seed)
        assert data.refused[ONLY_GOLD] == ["Au"]
        assert f"{ONLY_GOLD} (Au)" in shown(data)
        held_out = len(systems(data.test_graphs["held_out"]))
        assert (f"only {held_out} of data.held_out=12" in shown(data)) == (held_out < 12)
        train = data.statistics()["elements"]
        for frames in data._sets().values():
            assert set(torch.cat([graph.atomic_numbers for graph in frames]).tolist()) <= set(train)


def test_holding_out_goes_on_until_no_element_may_be_missed():
    present = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0]], bool)
    chosen, refused = hold_out(present, [2, 0, 1, 3], 4)
    assert chosen == [0, 1]
    assert {system: lacking.tolist() for system, lacking in refused.items()} == {
        2: [False, False, True],
        3: [True, False, False],
    }
    chosen, refused = hold_out(present, [2, 0, 1, 3], 1)
    assert (chosen, list(refused)) == ([0], [2])


def test_sets_of_their_own_leave_out_systems_with_new_elements(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_s2ef(tmp_path / "val", {"random90": relaxation("Cu", "CO", 5), "random91": relaxation("Ag", "CO", 6)})
    data = ready(shards, val_folder=tmp_path / "val", test_folders={"ood": tmp_path / "val"})
    assert systems(data.train_graphs) == set(SYSTEMS)
    assert systems(data.val_graphs) == systems(data.test_graphs["ood"]) == {"random90"}
    assert data.refused == {"random91 (val)": ["Ag"], "random91 (ood)": ["Ag"]}
    assert not (tmp_path / "val" / "prepared").exists()


# --- energies


def test_adsorption_energies_have_no_atomic_energies(shards):
    statistics = ready(shards).statistics()
    assert statistics["e0"] == [0.0] * len(statistics["elements"])


@pytest.fixture
def totals(tmp_path) -> Path:
    """Trajectories whose total energies are exactly additive."""
    own = {29: -3.0, 78: -5.0, 46: -4.0, 28: -4.5, 79: -2.0, 6: -7.0, 8: -8.0, 1: -1.0}
    runs = {name: relaxation(f"{m}", g, i, frames=12) for i, (name, m, g) in enumerate(
        [(f"random{k}", m, g) for k, (m, g) in enumerate([(m, g) for m in METALS for g in ("CO", "O", "OH", "C")])]
    )}  # fmt: skip
    for steps in runs.values():
        for atoms in steps:
            changed(atoms, energy=sum(own[z] for z in atoms.numbers))
    write_trajectories(tmp_path / "totals", runs)
    return tmp_path / "totals"


def test_total_energies_get_fitted_ones(totals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ready(totals, split="blocks", held_out=0)
    statistics = data.statistics()
    fitted = dict(zip([chemical_symbols[z] for z in statistics["elements"]], statistics["e0"], strict=True))
    expected = {"H": -1.0, "C": -7.0, "O": -8.0, "Cu": -3.0, "Pt": -5.0, "Pd": -4.0, "Ni": -4.5}
    assert fitted == pytest.approx(expected, abs=1e-8)
    assert data._measured().rank_deficiency == 0
    few = ready(totals, split="blocks", held_out=0, files="random0.traj")
    assert few._measured().rank_deficiency == 2
    assert "leave 2 combination(s)" in shown(few)


def test_given_atomic_energies(totals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "linref.npz", coeff=np.linspace(0, -9.9, 100))
    statistics = ready(totals, e0=str(tmp_path / "linref.npz")).statistics()
    assert statistics["e0"] == pytest.approx([-z / 10 for z in statistics["elements"]])
    np.savez(tmp_path / "other.npz", other=np.zeros(100))
    with pytest.raises(InputError, match=r"other\.npz is no \.npz with per-element energies"):
        ready(totals, e0=str(tmp_path / "other.npz"))


def test_energies_of_two_kinds_are_not_mixed(totals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_s2ef(totals / "more", {"random90": relaxation()})
    with pytest.raises(InputError, match=r"random0\.traj has no reference energy for random0 \(192 of 196 frames"):
        ready(totals)
    ready(totals, energy="total")
    ready(totals, files="*.traj")
    with pytest.raises(InputError, match="no reference energy"):
        ready(totals, files="*.traj", energy="adsorption")


def test_relaxed_energies_from_trajectories(shards):
    data = ready(shards, kind="is2re", required=("energy",))
    for frames in data._sets().values():
        for graph in frames:
            assert "forces" not in graph
            name, _, number = graph.source.split(", ")[1].split()
            assert number == "0"
            relaxed = SYSTEMS[name][-1].calc.results["energy"] - REFERENCE
            assert float(graph.energy) == pytest.approx(relaxed, abs=1e-12)


def test_the_scale_counts_free_atoms_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = relaxation(frames=20)
    for atoms in steps:
        changed(atoms, forces=np.where(np.arange(10)[:, None] < 4, 40.0, 2.0) * np.ones((10, 3)))
    write_s2ef(tmp_path / "raw", {"random1": steps})
    assert ready(tmp_path / "raw", split="blocks", held_out=0).statistics()["scale"] == pytest.approx(2.0)


# --- batches


def test_batches_are_bounded_and_graphs_made_by_workers_are_the_same(shards):
    data = ready(shards, batch_size=5, batch_edges=700, batch_atoms=38)
    alone = list(data.train_dataloader())
    assert all(batch.edge_index.shape[1] <= 700 and batch.num_nodes <= 38 for batch in alone)
    assert sum(batch.num_graphs for batch in alone) == len(data.train_graphs)
    data.num_workers = 2
    for batch, other in zip(alone, data.train_dataloader(), strict=True):
        assert batch.source == other.source
        assert batch.edge_index.equal(other.edge_index)


def test_a_limit_below_the_largest_structure_names_it(shards):
    with pytest.raises(
        InputError, match=r"data\.batch_atoms=9 is less than the 10 atoms of \d\.extxyz\.xz, random\d+ frame"
    ):
        ready(shards, batch_atoms=9)


# --- where the data are


def test_absent_data_name_the_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EQMOL_DATA", str(tmp_path / "mine"))
    monkeypatch.setattr(places, "shipped", lambda name: tmp_path / "checkout" / name)
    with pytest.raises(InputError) as error:
        OC20(cutoff=3.0).prepare_data()
    for words in (
        str(tmp_path / "mine" / "oc20"),
        "data/README.md",
        "EQMOL_DATA",
        "data=oc20_sample needs no download",
    ):
        assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_shards_are_made_at_first_use_and_not_beside_the_raw_files(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = contents(raw)
    first = ready(raw)
    assert "preparing 2 files of" in capsys.readouterr().out
    assert contents(raw) == before
    assert (tmp_path / "data" / "oc20" / "prepared" / "index.json").is_file()
    second = ready(raw)
    without_raw_files = ready(tmp_path / "data" / "oc20")
    assert capsys.readouterr().out == ""
    assert first.statistics() == second.statistics() == without_raw_files.statistics()


def test_shards_are_checked_before_use(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(raw, tmp_path / "out", workers=1)
    path = tmp_path / "out" / "0.extxyz.xz.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"0\.extxyz\.xz\.safetensors is damaged"):
        ready(tmp_path / "out")
    ready(tmp_path / "out", verify=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "s2e"}, "data.kind='s2e' must be one of s2ef, is2re"),
        ({"split": "frames"}, "data.split='frames' must be one of systems, blocks"),
        ({"energy": "free"}, "data.energy='free' must be one of auto, adsorption, total"),
        ({"val_fraction": 2.0}, "data.val_fraction=2.0"),
        ({"held_out": -1}, "data.held_out=-1"),
        ({"max_neighbors": 0}, "data.max_neighbors=0"),
        ({"batch_edges": 0}, "data.batch_edges=0"),
        ({"kind": "is2re"}, "data.kind=is2re has no forces to train on"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        OC20(cutoff=3.0, **options)


def test_systems_that_cannot_be_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_s2ef(tmp_path / "raw", {"random1": relaxation("Cu", "O"), "random2": relaxation("Pt", "C")})
    with pytest.raises(InputError, match=r"of 2 systems only 0 have elements .* data\.split=blocks"):
        ready(tmp_path / "raw")
    with pytest.raises(InputError, match=r"no trajectory has the 10 frames that data\.split=blocks needs"):
        ready(tmp_path / "raw", split="blocks")
    with pytest.raises(InputError, match="holds no file of OC20"):
        ready(tmp_path / "raw", files="*.traj")


def test_the_embedded_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ready(SAMPLE, held_out=3)
    assert len(data.train_graphs.library.systems) == 20
    assert all(name.startswith("emt") for name in data.train_graphs.library.systems)
    graph = data.train_graphs[0]
    assert graph.fixed.sum() == 8
    assert set(graph.tags.tolist()) == {0, 1, 2}
    assert sum(path.stat().st_size for path in SAMPLE.glob("emt*")) < 1.5e6


@pytest.mark.realdata
def test_the_real_frames_split(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ready(Path(os.environ["EQMOL_DATA"]) / "oc20", split="blocks", held_out=5)
    assert len(systems(data.test_graphs["held_out"])) == 5
    assert sum(len(frames) for frames in data._sets().values()) == 3837
    assert data._measured().rank_deficiency > 0
    assert data._measured().e0_source[0] == "least squares"

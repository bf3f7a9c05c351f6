"""Runs that start from a model, on labels of another level of theory and with other elements."""

from io import StringIO
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from omegaconf import OmegaConf
from rich.console import Console

from eqmol import checkpoint
from eqmol.checkpoint.warm_start import WarmStart, nearest_element
from eqmol.data.xyz.datamodule import FileSets
from eqmol.errors import InputError
from eqmol.graph import from_atoms
from eqmol.graph.contacts import SHORTEST
from eqmol.models import Potential
from eqmol.train.run import run
from eqmol.train.warm_energies import settle, show
from tests.recipes import recipe
from tests.train.runs import SAMPLE, configuration, shifted, train

SHIFTS = {"H": -2.5, "C": -980.0, "N": -1410.0, "O": -1940.0, "S": -9000.0, "Si": -7000.0}
NAMES = ["CH3OH", "C2H6", "H2O", "CO2", "C2H2", "C2H4", "H2CO", "CH3CHO"]
NEW = ["SiH4", "CH3SiH3", "H2O", "SiO"]
CUTOFF = 3.5


def saved(path: Path, **changes: Any) -> Potential:
    """A model of H, C, O, Cu with random weights and binding energies, and its file."""
    torch.manual_seed(1)
    constants = {"gain": 0.01, "binding": [-1.0, -5.0, -3.0, -2.0], "zbl": False}
    with checkpoint.default_dtype(torch.float64):
        model = checkpoint.build(recipe() | constants | changes).eval()
    assert isinstance(model, Potential)
    table = torch.rand(4, 4, dtype=torch.float64)
    model.set_domain(table + table.T, 5)
    checkpoint.save(model, path)
    return model


def labelled(model: Potential, names: list[str], shifts: dict[str, float]) -> tuple[list[ase.Atoms], float]:
    """Structures with the model's energies, some noise and shifts of each element; the noise's RMS per atom, eV."""
    rng, frames, errors = np.random.default_rng(0), [], []
    for name in names:
        atoms = molecule(name)
        atoms.rattle(0.05, rng=rng)
        known = atoms.copy()
        known.symbols = [{"Si": "C"}.get(symbol, symbol) for symbol in atoms.symbols]
        energy = float(model(from_atoms(known, CUTOFF))["energy"])
        noise = rng.normal(0, 0.3)
        errors.append(noise / len(atoms))
        energy += noise + sum(shifts.get(symbol, 0.0) for symbol in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.ones((len(atoms), 3)))
        frames.append(atoms)
    return frames, float(np.sqrt(np.mean(np.square(errors))))


def free(model: Potential, shifts: dict[str, float]) -> list[ase.Atoms]:
    """Isolated atoms with the model's E0s and shifts."""
    atoms = []
    for symbol, e0 in zip(["H", "C", "O"], model.recipe["e0"], strict=False):
        atom = ase.Atoms(symbol)
        atom.calc = SinglePointCalculator(atom, energy=e0 + shifts.get(symbol, 0.0), forces=np.zeros((1, 3)))
        atoms.append(atom)
    return atoms


def data_of(tmp_path: Path, frames: list[ase.Atoms], **options: Any) -> FileSets:
    write(tmp_path / "new.xyz", frames)
    files = {"train_file": tmp_path / "new.xyz", "val_file": tmp_path / "new.xyz"}
    data = FileSets(cutoff=CUTOFF, **files, **options)
    data.setup()
    return data


def error(model: Potential, statistics: dict[str, Any], data: FileSets) -> float:
    """RMSE per atom (eV) of the model with these statistics."""
    new = checkpoint.build(
        model.recipe | {"e0": statistics["e0"]} | {k: v for k, v in statistics["start"].items() if k == "binding"}
    )
    new.load_state_dict({k: v for k, v in model.state_dict().items() if k != "reference.e0"}, strict=False)
    new.double().eval()
    errors = [float((new(graph)["energy"] - graph.energy) / graph.num_nodes) for graph in data.train_graphs]
    return float(np.sqrt(np.mean(np.square(errors))))


def shown(data: FileSets) -> str:
    console = Console(width=200, file=StringIO())
    for table in data.tables():
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


# --- energies


@pytest.mark.parametrize("e0", ["isolated", "given", "keep"])
def test_energies_of_another_level_start_as_the_old_ones(tmp_path, e0):
    model = saved(tmp_path / "old.safetensors")
    shifts = {} if e0 == "keep" else SHIFTS
    frames, expected = labelled(model, NAMES, shifts)
    numbers = {s: e + shifts.get(s, 0.0) for s, e in zip(["H", "C", "O"], model.recipe["e0"], strict=False)}
    option = {"isolated": "fit", "given": numbers, "keep": "keep"}[e0]
    data = data_of(tmp_path, frames + (free(model, shifts) if e0 == "isolated" else []), e0=option)
    warm = WarmStart(tmp_path / "old.safetensors")
    statistics, words = settle(data, warm)
    old = dict(zip([1, 6, 8, 29], model.recipe["e0"], strict=True))
    assert statistics["e0"] == pytest.approx([*numbers.values(), old[29]], abs=1e-12)
    assert statistics["start"]["binding"] == model.recipe["binding"]
    assert error(warm.model, statistics, data) == pytest.approx(expected, rel=1e-7)
    assert f"RMSE of {1000 * expected:.4g} meV/atom" in words
    source = {"isolated": "new.xyz", "given": "data.e0", "keep": f"{warm.path} (kept)"}[e0]
    rows = [line for line in shown(data).splitlines() if " C " in line]
    assert f"{old[6]:.6f}" in rows[0]
    assert f"{numbers['C']:.6f}" in rows[0]
    assert source in rows[0]
    assert "kept" in next(line for line in shown(data).splitlines() if " Cu " in line)


def test_fitted_energies_do_not_depend_on_the_level_and_are_better_than_old_ones(tmp_path):
    model = saved(tmp_path / "old.safetensors")
    found = []
    for shifts in ({}, SHIFTS):
        frames, before = labelled(model, NAMES, shifts)
        data = data_of(tmp_path, frames)
        warm = WarmStart(tmp_path / "old.safetensors")
        statistics, _ = settle(data, warm)
        found.append(error(warm.model, statistics, data))
        assert "least squares of what the model leaves" in shown(data)
    assert found[1] == pytest.approx(found[0], rel=1e-7)
    assert 0.1 * before < found[1] <= before


def test_one_composition_leaves_energies_undetermined(tmp_path):
    model = saved(tmp_path / "old.safetensors")
    frames, before = labelled(model, ["CH3OH"] * 3, SHIFTS)
    data = data_of(tmp_path, frames)
    warm = WarmStart(tmp_path / "old.safetensors")
    statistics, words = settle(data, warm)
    assert error(warm.model, statistics, data) <= before
    assert "the compositions leave 2 combination(s) of atomic energies undetermined" in words


def test_isolated_atoms_after_fitted_energies_move_the_binding(tmp_path):
    fitted = [e0 - 4.0 for e0 in recipe()["e0"]]
    model = saved(tmp_path / "old.safetensors", e0=fitted, binding=None)
    frames, expected = labelled(model, NAMES, {})
    atoms = free(model, dict.fromkeys("HCO", 4.0))
    data = data_of(tmp_path, frames + atoms)
    warm = WarmStart(tmp_path / "old.safetensors")
    statistics, words = settle(data, warm)
    assert statistics["e0"][:3] == pytest.approx(recipe()["e0"][:3])
    assert statistics["start"]["binding"][:3] == pytest.approx([-4.0] * 3, abs=0.3)
    assert statistics["start"]["binding"][3] == 0.0
    assert error(warm.model, statistics, data) < 1.5 * expected
    assert "the model is -4." in words
    assert "binding of atoms with neighbours changes by H -" in words


@pytest.mark.parametrize(
    ("shifts", "message"),
    [
        (
            SHIFTS,
            r"new\.xyz.* has the energy -.* eV per atom away from the sum of the energies of its elements .*safetensors \(kept\)",
        ),
        (dict.fromkeys("HCO", 12.0), r"data\.e0=keep, but the energies .* are 12\.\d eV per atom \(median\) away"),
    ],
)
def test_kept_energies_of_another_level_stop(tmp_path, shifts, message):
    model = saved(tmp_path / "old.safetensors")
    frames, _ = labelled(model, NAMES, shifts)
    warm = WarmStart(tmp_path / "old.safetensors")
    with pytest.raises(InputError, match=message) as stopped:
        settle(data_of(tmp_path, frames, e0="keep"), warm)
    assert "data.e0=fit" in str(stopped.value)
    assert "data.implausible=warn" in str(stopped.value)
    statistics, _ = settle(data_of(tmp_path, frames, e0="keep", implausible="warn"), warm)
    assert statistics["e0"] == model.recipe["e0"]


def test_energies_of_a_configuration_are_shown_and_checked(tmp_path):
    model = saved(tmp_path / "old.safetensors")
    frames, _ = labelled(model, NAMES, SHIFTS)
    data = data_of(tmp_path, frames)
    fitted = data.statistics()
    show(data, fitted, "last.ckpt")
    assert data.statistics() == fitted
    assert "last.ckpt" not in shown(data)
    used = [e + 1.0 for e in fitted["e0"]]
    show(data, {"elements": fitted["elements"], "e0": used}, "last.ckpt")
    assert data.statistics()["e0"] == used
    assert "last.ckpt" in shown(data)
    with pytest.raises(InputError, match=r"C -49\.00 eV from last\.ckpt"):
        show(data, {"elements": fitted["elements"], "e0": [-10.0, -49.0, -100.0]}, "last.ckpt")


def test_energies_of_the_model_that_are_not_those_of_the_data_are_refused(tmp_path):
    cfg = configuration(tmp_path, "run", "predictor.e0=[-1.0,-2.0,-3.0,-4.0]")
    with pytest.raises(InputError, match=r"^predictor.e0=\[-1.0, .* is not what the data have .*data.e0="):
        run(cfg, Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_data_without_energies_keep_what_is_known(tmp_path):
    model = saved(tmp_path / "old.safetensors")
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, forces=np.ones((3, 3)))
    data = data_of(tmp_path, [atoms], required=("forces",))
    statistics, words = settle(data, WarmStart(tmp_path / "old.safetensors"))
    assert statistics["e0"] == model.recipe["e0"]
    assert "without energies" in words


# --- elements


PROPERTIES = {
    name: {"kind": kind, "unit": "eV", "e0": [0.1, 0.2, 0.3, 0.4], "mean": 0.0, "scale": 1.0, "spread": 1.0}
    for name, kind in (("U", "extensive"), ("gap", "intensive"))
}
RECIPES: dict[str, dict[str, Any]] = {
    "mace": recipe() | {"binding": [-1.0, -5.0, -3.0, -2.0]},
    "pairs": recipe(pair_radial=True, degree_out=1) | {"zbl": False, "forces": "direct"},
    "equiformer": recipe()
    | {
        "backbone": {
            "_target_": "eqmol.models.Equiformer",
            "backend": "cg",
            "family": "coupled",
            "parity": "o3",
            "degree": 1,
            "filter_degree": 1,
            "channels": 4,
            "layers": 2,
            "heads": 2,
            "alpha_channels": 4,
            "radial_hidden": [8, 8],
            "cutoff": 3.5,
            "elements": [1, 6, 8, 29],
            "avg_num_neighbors": 6.0,
        }
    },
    "properties": {
        "_target_": "eqmol.models.Properties",
        "elements": [1, 6, 8, 29],
        "statistics": PROPERTIES,
        "backbone": recipe()["backbone"],
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_new_elements_leave_the_function_of_old_ones(tmp_path, name):
    torch.manual_seed(3)
    with checkpoint.default_dtype(torch.float64):
        old = checkpoint.build(RECIPES[name]).eval()
    table = torch.rand(4, 4, dtype=torch.float64)
    old.set_domain(table + table.T, 5)
    checkpoint.save(old, tmp_path / "old.safetensors")
    warm = WarmStart(tmp_path / "old.safetensors")
    warm.add_elements([1, 7, 14, 79])
    assert warm.model.elements == [1, 6, 7, 8, 14, 29, 79]
    assert warm.copied == {7: 6, 14: 6, 79: 29}
    graph = from_atoms(molecule("CH3CHO"), CUTOFF)
    before, after = old(graph), warm.model(graph)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-10)
    rows, others, new = [0, 1, 3, 5], [2, 4, 6], warm.model.state_dict()
    differing = 0
    for parameter, tensor in old.state_dict().items():
        if tensor.shape == new[parameter].shape:
            assert torch.equal(tensor, new[parameter])
            continue
        differing += 1
        axis = next(i for i, size in enumerate(new[parameter].shape) if size != tensor.shape[i])
        assert new[parameter].shape[axis] == 7
        assert torch.equal(new[parameter].index_select(axis, torch.tensor(rows)), tensor)
        assert torch.equal(
            new[parameter].index_select(axis, torch.tensor(others)), tensor.index_select(axis, torch.tensor([1, 1, 3]))
        )
    assert differing == {"mace": 6, "pairs": 8, "equiformer": 8, "properties": 7}[name]
    contacts = warm.model.aux[SHORTEST]
    assert torch.equal(contacts[rows][:, rows], old.aux[SHORTEST])
    assert not contacts[others].any()


@pytest.mark.parametrize(
    ("number", "known", "nearest"),
    [
        (16, [1, 6, 8], 8),
        (9, [1, 6, 7, 8], 8),
        (17, [1, 6, 9], 9),
        (11, [1, 12], 12),
        (19, [3, 20], 3),
        (47, [29, 46], 29),
        (1, [3, 6], 3),
        (14, [6, 13], 6),
        (2, [4, 10], 10),
        (72, [40, 73], 40),
        (92, [60, 90], 60),
    ],
)
def test_nearest_element(number, known, nearest):
    assert nearest_element(number, known) == nearest


@pytest.mark.parametrize("with_atoms", [True, False])
def test_new_elements_get_their_own_energy(tmp_path, with_atoms):
    model = saved(tmp_path / "old.safetensors")
    frames, expected = labelled(model, NEW + NAMES, {"Si": -7000.0})
    atom = ase.Atoms("Si")
    atom.calc = SinglePointCalculator(atom, energy=model.recipe["e0"][1] - 7000.0, forces=np.zeros((1, 3)))
    data = data_of(tmp_path, frames + ([atom] if with_atoms else []), e0="keep")
    warm = WarmStart(tmp_path / "old.safetensors")
    warm.add_elements(data.statistics()["elements"])
    statistics, _ = settle(data, warm)
    assert statistics["elements"] == [1, 6, 8, 14, 29]
    assert [statistics["e0"][i] for i in (0, 1, 2, 4)] == model.recipe["e0"]
    assert statistics["e0"][3] == pytest.approx(model.recipe["e0"][1] - 7000.0, abs=1e-9 if with_atoms else 1.0)
    assert statistics["start"]["binding"] == [-1.0, -5.0, -3.0, -5.0, -2.0]
    # least squares of few totals follow their noise
    assert error(warm.model, statistics, data) < (1.01 if with_atoms else 1.5) * expected
    assert "new" in next(line for line in shown(data).splitlines() if " Si " in line)


# --- properties


@pytest.mark.parametrize("e0", ["fit", "keep"])
def test_properties_of_another_level_start_as_the_old_ones(tmp_path, e0):
    torch.manual_seed(3)
    with checkpoint.default_dtype(torch.float64):
        old = checkpoint.build(RECIPES["properties"]).eval()
    checkpoint.save(old, tmp_path / "old.safetensors")
    rng, frames = np.random.default_rng(0), []
    for name in [*NAMES, "SiH4"]:
        atoms = molecule(name)
        known = atoms.copy()
        known.symbols = [{"Si": "C"}.get(symbol, symbol) for symbol in atoms.symbols]
        output = old(from_atoms(known, CUTOFF))
        shift = sum(SHIFTS[symbol] for symbol in atoms.symbols)
        atoms.info = {"U": float(output["U"]) + shift, "gap": float(output["gap"]) + 2.0 + rng.normal(0, 1e-3)}
        frames.append(atoms)
    targets = {name: {"kind": entry["kind"], "unit": "eV"} for name, entry in PROPERTIES.items()}
    data = data_of(tmp_path, frames, targets=targets, required=("U", "gap"), e0=e0)
    warm = WarmStart(tmp_path / "old.safetensors")
    warm.add_elements(data.statistics()["elements"])
    statistics, table = settle(data, warm)
    found = statistics["properties"]
    assert statistics["elements"] == [1, 6, 8, 14, 29]
    if e0 == "fit":
        expected = [0.1 + SHIFTS["H"], 0.2 + SHIFTS["C"], 0.3 + SHIFTS["O"], 0.2 + SHIFTS["Si"], 0.4]
        assert found["U"]["e0"] == pytest.approx(expected, abs=1e-8)
        assert found["gap"]["mean"] == pytest.approx(2.0, abs=1e-2)
    else:
        assert [found["U"]["e0"][i] for i in (0, 1, 2, 4)] == [0.1, 0.2, 0.3, 0.4]
        assert found["gap"]["mean"] == 0.0
    assert warm.statistics["properties"]["U"]["e0"] == [0.1, 0.2, 0.3, 0.2, 0.4]
    console = Console(width=200, file=StringIO())
    console.print(table)
    assert "new" in next(line for line in console.file.getvalue().splitlines() if " Si " in line)  # type: ignore[attr-defined]


def test_properties_that_the_model_lacks_are_refused(tmp_path):
    with checkpoint.default_dtype(torch.float64):
        checkpoint.save(checkpoint.build(RECIPES["properties"]), tmp_path / "old.safetensors")
    atoms = molecule("H2O")
    atoms.info["mu"] = 1.0
    options = {"targets": {"mu": {"kind": "intensive"}}, "required": ("mu",)}
    with pytest.raises(InputError, match=r"predicts U, gap, but mu is to be trained on"):
        settle(data_of(tmp_path, [atoms], **options), WarmStart(tmp_path / "old.safetensors"))
    with pytest.raises(InputError, match=r"data\.e0 gives energies .* but mu are trained on"):
        data_of(tmp_path, [atoms], **options, e0={"H": -13.6, "O": -2040.0})


def test_a_model_of_another_kind_is_refused(tmp_path):
    saved(tmp_path / "old.safetensors")
    options = [
        "task=properties",
        "predictor=properties",
        "data.targets={energy_: {kind: extensive}}",
        "task.target=[energy_]",
    ]
    frames = read(SAMPLE / "train_300K.xyz", ":3")
    for atoms in frames:
        atoms.info["energy_"] = 1.0
    cfg = configuration(tmp_path, "run", f"init_from={tmp_path / 'old.safetensors'}", *options)
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}.xyz", frames)
    with pytest.raises(
        InputError, match=r"is a model of the kind eqmol\.models\.Potential, this run trains one of the kind"
    ):
        run(cfg, Console(file=StringIO()))


# --- runs


def test_a_run_on_another_level_and_with_a_new_element(tmp_path):
    first = train(tmp_path, "first", "trainer.max_epochs=1")
    shifted(tmp_path / "val.xyz", tmp_path / "level.xyz", SHIFTS)
    shifted(tmp_path / "train.xyz", tmp_path / "sulphur.xyz", SHIFTS, {"O": "S"})
    shifted(SAMPLE / "iso_atoms.xyz", tmp_path / "atoms.xyz", SHIFTS)
    out = StringIO()
    options = [
        f"init_from={tmp_path / 'first' / 'model.safetensors'}",
        f"data.train_file={tmp_path / 'sulphur.xyz'}",
        f"data.isolated_atoms_file={tmp_path / 'atoms.xyz'}",
        "data.test_files=null",
        "trainer.max_epochs=1",
        "task.optimizer.lr=1e-30",
    ]
    both = tmp_path / "both.xyz"
    both.write_text((tmp_path / "sulphur.xyz").read_text() + (tmp_path / "level.xyz").read_text())
    options[1] = f"data.train_file={both}"
    options.append(f"data.val_file={tmp_path / 'level.xyz'}")
    second = run(configuration(tmp_path, "second", *options), Console(file=out, width=200))
    key = "energy_rmse_mev"
    assert second["val"][key] == pytest.approx(first["val"][key], rel=1e-4)
    assert second["val"]["forces_rmse_mev_per_a"] == pytest.approx(first["val"]["forces_rmse_mev_per_a"], rel=1e-4)
    model = checkpoint.load(tmp_path / "second" / "model.safetensors")
    statistics = OmegaConf.load(tmp_path / "second" / "config.yaml").statistics
    assert model.elements == list(statistics.elements) == [1, 6, 7, 8, 16]
    assert model.recipe["e0"] == list(statistics.e0) == model.reference.e0.tolist()
    assert "S as O" in out.getvalue()
    assert "before / eV" in out.getvalue()

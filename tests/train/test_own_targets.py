"""Properties of one's own, declared on the command line, from files to predictions."""

import io

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from rich.console import Console
from scipy.spatial.transform import Rotation

import eqmol
from eqmol.cli.predict import main
from eqmol.data.xyz.datamodule import FileSets
from eqmol.errors import InputError
from eqmol.train.run import run
from tests.train.runs import configuration, train

TARGETS = '{alpha: {kind: tensor, unit: "a0^3"}, shift: {kind: atomic, key: nmr}, logS: {kind: intensive}}'
OPTIONS = ["task=properties", "predictor=properties", f"data.targets={TARGETS}", "task.target=[alpha,shift,logS]"]


def label(path) -> None:
    """Replace the labels of a file: tensors everywhere, numbers in half of the frames."""
    frames = read(path, ":")
    for number, atoms in enumerate(frames):
        atoms.calc = None
        arms = atoms.positions - atoms.positions.mean(0)
        atoms.info = {"alpha": arms.T @ arms / 10}
        if number % 2:
            atoms.info["logS"] = float(len(atoms))
        atoms.arrays["nmr"] = atoms.numbers.astype(float)
    write(path, frames)


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    from tests.train import runs

    original = runs.frames

    def frames(path, first, count):
        original(path, first, count)
        label(path)
        return path

    monkeypatch.setattr(runs, "frames", frames)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_a_run_on_own_targets_with_gaps(labelled):
    metrics = train(labelled, "run", *OPTIONS, "trainer.max_epochs=1", "data.isolated_atoms_file=null")
    assert metrics["units"] == {"alpha": "a0^3", "shift": "", "logS": ""}
    assert {"alpha_mae", "shift_rmse", "logS_mae"} <= metrics["test"]["later"].keys()
    model = eqmol.load(labelled / "run" / "model.safetensors", dtype="float64")
    assert model.label_keys == {"alpha": "alpha", "shift": "nmr", "logS": "logS"}
    assert model.backbone.degree_out == 2  # which tensors are read from
    assert {name: target.kind for name, target in model.targets.items()} == {
        "alpha": "tensor",
        "shift": "atomic",
        "logS": "intensive",
    }
    atoms = read(labelled / "test.xyz", "0")
    rotation = Rotation.random(random_state=1).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    before, after = eqmol.predict([atoms, turned], model)
    np.testing.assert_allclose(after["alpha"], rotation @ before["alpha"] @ rotation.T, atol=1e-10)
    assert before["shift"].shape == (len(atoms),)


def test_statistics_of_own_targets(labelled):
    from tests.train import runs

    path = runs.frames(labelled / "some.xyz", 0, 6)
    targets = {"logS": {"kind": "intensive"}, "nmr": {"kind": "atomic", "unit": "ppm"}, "alpha": {"kind": "tensor"}}
    data = FileSets(cutoff=3.0, train_file=path, val_fraction=0.2, targets=targets, required=("logS", "nmr", "alpha"))
    data.setup()
    found = data.statistics()
    elements, properties = found["elements"], found["properties"]
    np.testing.assert_allclose(properties["nmr"]["e0"], elements, atol=1e-9)  # labels are the atomic numbers
    assert properties["logS"]["mean"] == pytest.approx(27.0)
    traces = sum(float(np.trace(graph["target_alpha"][0])) for graph in data.train_graphs) / 3
    counts = sum(np.array([int((g.atomic_numbers == z).sum()) for z in elements]) for g in data.train_graphs)
    assert counts @ properties["alpha"]["e0"] == pytest.approx(traces)


@pytest.mark.parametrize(
    ("targets", "required", "message"),
    [
        ({}, ("alpha",), "the target alpha is not declared: add data.targets="),
        ({"alpha": {"kind": "matrix"}}, ("alpha",), "kind='matrix'; choose from extensive"),
        ({"alpha": "tensor"}, ("alpha",), "declare it as"),
        ({"alpha": {"kind": "tensor", "key": 3}}, ("alpha",), "data.targets.alpha.key=3"),
        (
            {"alpha": {"kind": "vector"}},
            ("alpha",),
            r"'alpha' in info has shape \[3, 3\], but the target alpha \(vector\) is \[3\]",
        ),
        (
            {"beta": {"kind": "tensor"}},
            ("beta",),
            r"frame 0: no frame of this file has 'beta'; set the key .* one of those there \(.*alpha",
        ),
    ],
)
def test_what_cannot_be_a_target(labelled, targets, required, message):
    from tests.train import runs

    path = runs.frames(labelled / "some.xyz", 0, 4)
    with pytest.raises(InputError, match=message):
        FileSets(cutoff=3.0, train_file=path, val_fraction=0.3, targets=targets, required=required).setup()


BESIDE = "{q: {kind: atomic, unit: e, key: part}, mu: {kind: dipole, unit: D}}"


@pytest.fixture
def with_charges(tmp_path, monkeypatch):
    """Energies, forces, and in half of the frames charges and a dipole moment."""
    from tests.train import runs

    original = runs.frames

    def frames(path, first, count):
        original(path, first, count)
        structures = read(path, ":")
        for number, atoms in enumerate(structures):
            if number % 2 == 0:
                atoms.arrays["part"] = 0.1 * (atoms.numbers == 1)
                atoms.info["mu"] = atoms.positions[0] - atoms.positions.mean(0)
        write(path, structures)
        return path

    monkeypatch.setattr(runs, "frames", frames)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*is an extrapolation:UserWarning")  # few frames
def test_own_targets_beside_energies_and_forces(with_charges):
    console = Console(file=io.StringIO(), width=150)
    options = [f"data.targets={BESIDE}", "+task.targets.mu={weight: 3.0, loss: mae}", "trainer.max_epochs=2"]
    metrics = run(configuration(with_charges, "run", *options), console)
    assert {"energy_mae_mev", "forces_rmse_mev_per_a", "q_mae", "mu_rmse"} <= metrics["test"]["later"].keys()
    assert metrics["units"] == {"q": "e", "mu": "D"}
    shown = console.file.getvalue()
    for words in ("val RMSE E ", "MAE q ", "│ q      │ squared", "│ mu     │ absolute", "6/12", "1.0", "3"):
        assert words in shown
    model = eqmol.load(with_charges / "run" / "model.safetensors")
    assert model.label_keys.items() >= {"q": "part", "mu": "mu", "energy": "energy"}.items()
    structures = read(with_charges / "test.xyz", ":")
    predicted = eqmol.predict(structures, model)
    for name, key in (("q", "arrays"), ("mu", "info")):
        label = "part" if name == "q" else "mu"
        errors = [
            np.abs(p[name] - getattr(s, key)[label])
            for p, s in zip(predicted, structures, strict=True)
            if "mu" in s.info
        ]
        assert metrics["test"]["later"][f"{name}_mae"] == pytest.approx(np.mean(errors), rel=1e-4)
    out = with_charges / "out.xyz"
    main([str(with_charges / "run" / "model.safetensors"), str(with_charges / "test.xyz"), "-o", str(out)])
    written = read(out, ":")
    assert all(atoms.arrays["eqmol_q"].shape == (27,) and atoms.info["eqmol_mu"].shape == (3,) for atoms in written)


def test_a_potential_learns_further_targets(with_charges):
    """The energies of the run that starts are those of the model, whatever it learns besides."""
    train(with_charges, "first", "trainer.max_epochs=1", "data.targets={q: {kind: atomic, unit: e, key: part}}")
    start = [f"init_from={with_charges / 'first' / 'model.safetensors'}", "trainer.max_epochs=1", "model.degree_out=1"]
    with pytest.raises(InputError, match=r"model\.degree_out=0, this run model\.degree_out=1"):
        train(with_charges, "wrong", *start, f"data.targets={BESIDE}")
    targets = "data.targets={q: {kind: atomic, unit: e, key: part}, p: {kind: extensive, key: free}}"
    path = with_charges / "more.xyz"
    structures = read(with_charges / "train.xyz", ":")
    for atoms in structures:
        atoms.info["free"] = float(len(atoms))
    write(path, structures)
    console = Console(file=io.StringIO(), width=200)
    cfg = configuration(with_charges, "second", *start[:2], targets, f"data.train_file={path}", f"data.val_file={path}")
    run(cfg, console)
    assert "new: heads.p.atoms" in console.file.getvalue()
    first, second = (eqmol.load(with_charges / name / "model.safetensors") for name in ("first", "second"))
    assert list(second.targets) == ["q", "p"]
    assert second.recipe["properties"]["q"] == first.recipe["properties"]["q"]
    with pytest.raises(InputError, match="has the unit 'e' for q, the data 'C'"):
        train(with_charges, "third", *start[:2], "data.targets={q: {kind: atomic, unit: C, key: part}}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["+task.targets.charge={weight: 1}"],
            "unknown target 'charge' in task.targets; choose among energy, forces, stress",
        ),
        (["data.targets={virial: {kind: tensor}}"], "virial names what a potential predicts"),
        (["data.targets={energy: {kind: extensive}}"], "energy names what a potential predicts"),
        (["data.targets={q: {kind: atomic}}"], r"no training frame has 'q'; set the key .* those there \(.*part"),
        (["predictor=properties", "data.targets={q: {kind: atomic, key: part}}"], "trained with predictor=potential"),
    ],
)
def test_what_cannot_be_learnt_beside_energies(with_charges, options, message):
    with pytest.raises(InputError, match=message):
        train(with_charges, "run", *options)
    assert not (with_charges / "run").exists()


def test_a_dipole_moment_of_a_periodic_frame_is_refused(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.info |= {"mu": np.ones(3), "energy": 1.0}
    atoms.arrays["forces"] = np.zeros((4, 3))
    write(tmp_path / "cu.xyz", [atoms] * 3)
    with pytest.raises(
        InputError, match=r"mu \(dipole\) is a property of molecules, but .*cu.xyz, frame 0 is periodic"
    ):
        FileSets(cutoff=3.0, train_file=tmp_path / "cu.xyz", targets={"mu": {"kind": "dipole"}}).setup()

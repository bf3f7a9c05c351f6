"""Properties of one's own, declared on the command line, from files to predictions."""

import numpy as np
import pytest
from ase.io import read, write
from scipy.spatial.transform import Rotation

import eqmol
from eqmol.data.xyz.datamodule import FileSets
from eqmol.errors import InputError
from tests.train.runs import train

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

"""What a model has to beat, and the sentence when it does not."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from ase.build import molecule
from rich.console import Console

from eqmol.graph import collate, from_atoms
from eqmol.graph.targets import ENERGY, FORCES, STRESS, Target
from eqmol.train import report
from eqmol.train.baseline import Simple, verdict
from eqmol.train.run import run
from tests.train.runs import configuration

ATOMIC = {1: -13.6, 6: -1029.0, 8: -2041.0}


def batch(names: Sequence[str], **labels):
    """Molecules with energies that their composition tells, and further labels."""
    graphs = []
    for index, name in enumerate(names):
        atoms = molecule(name)
        energy = sum(ATOMIC[number] for number in atoms.numbers.tolist())
        graph = from_atoms(atoms, 3.0, energy=energy, forces=np.ones((len(atoms), 3)), source=name)
        for key, values in labels.items():
            graph[key] = torch.tensor(values[index], dtype=torch.float64)[None]
        graphs.append(graph)
    return collate(graphs)


def test_energies_of_the_composition():
    baseline = Simple((ENERGY, FORCES, STRESS))
    first, second = batch(["H2O", "CH4", "CO2"]), batch(["CH3OH", "H2O"])
    first.energy[1] = torch.nan
    for learnt in (first, second):
        baseline.learn(learnt)
    new = batch(["C2H6", "CO", "CH3CH2OH"])
    found = baseline(new)
    torch.testing.assert_close(found["energy"], new.energy)
    assert not found["forces"].any()
    assert found["stress"].shape == (3, 3, 3)
    assert not Simple((ENERGY, FORCES, STRESS))(new)["energy"].any()  # of a training set without energies


def test_means_of_properties():
    targets = (Target("U", "extensive", "eV"), Target("mu", "intensive", "D"), Target("d", "vector", "D"))
    baseline = Simple(targets)
    names = ["H2O", "CH4", "CO2", "CH3OH"]
    energies = batch(names).energy.tolist()
    vectors = [[0.0, 0.0, 4.0 * k] for k in range(4)]
    learnt = batch(names, target_U=energies, target_mu=[1.0, 2.0, np.nan, 6.0], target_d=vectors)
    baseline.learn(learnt)
    found = baseline(learnt)
    torch.testing.assert_close(found["U"], learnt.energy)
    assert found["mu"].tolist() == [3.0] * 4
    assert found["d"].tolist() == [[0.0, 0.0, 6.0]] * 4


@pytest.mark.parametrize(
    ("energy", "forces", "sentence"),
    [
        (10.0, 100.0, None),
        (96.0, 100.0, "no better than X (RMSE at least 95 % of its RMSE): energies of val"),
        (200.0, 990.0, "no better than X (RMSE at least 95 % of its RMSE): energies of val; forces of val, hot"),
    ],
)
def test_the_sentence(energy, forces, sentence):
    own = {"e": energy, "f": forces}
    rows = {"val": (own, {"e": 100.0, "f": 1000.0}), "hot": (own, {"e": 1000.0, "f": 1000.0}), "bare": ({}, {})}
    rows["direct"] = (own, {"s": 1.0})  # a model without stress
    rows["exact"] = ({"e": 1e-9, "f": 1e-9}, {"e": 1e-9, "f": 0.0})  # rounding
    assert verdict({"e": "energies", "f": "forces", "s": "stress"}, rows, "X") == sentence


def test_a_run_that_learns_nothing_says_so(tmp_path):
    screen = io.StringIO()
    options = ["trainer.max_epochs=1", "task.optimizer.lr=1e-9"]
    metrics = run(configuration(tmp_path, "run", *options), Console(file=screen, width=80))
    line = [line for line in screen.getvalue().splitlines() if line.startswith("no better than")]
    assert len(line) == 1
    assert line[0].startswith(
        "no better than a fit of energies to the composition and no forces (RMSE at least 95 % of"
    )
    assert "forces of val, later" in line[0]
    assert "baseline" not in metrics[report.TRAIN]
    for split in (metrics["val"], metrics["test"]["later"]):
        assert split["baseline"]["forces_rmse_mev_per_a"] == pytest.approx(split["forces_rms_mev_per_a"])
        assert split["baseline"]["energy_rmse_mev"] > 0

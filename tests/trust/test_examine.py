"""Sound models pass; broken ones fail their own line and none that has nothing to do with it."""

import json
import re
import subprocess
from functools import partial
from itertools import permutations
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import eqmol
from eqmol import predict
from eqmol.checkpoint import save
from eqmol.cli import examine as command
from eqmol.errors import InputError
from eqmol.graph.dispersion import Dispersion
from eqmol.models import Potential
from eqmol.models.uncertainty import Factors, Posterior
from eqmol.ops import escn, grid
from eqmol.trust import cost
from eqmol.trust.confidence import confidence
from eqmol.trust.cost import PeakMemory
from eqmol.trust.degenerate import PAIRS, degenerate, ring
from eqmol.trust.dynamics import slope_of
from eqmol.trust.examine import examine
from eqmol.trust.labels import Frame, errors
from eqmol.trust.report import Report, Rows
from eqmol.trust.subject import Subject
from tests.models.systems import make_model

pytestmark = pytest.mark.usefixtures("float64")

CHROMIUM = Path("/usr/bin/chromium")


def structures() -> list[ase.Atoms]:
    """A molecule and a crystal of few atoms."""
    water = molecule("H2O")
    crystal = bulk("C", "diamond", a=3.6)
    for atoms in (water, crystal):
        atoms.rattle(0.05, seed=4)
    return [water, crystal]


class Detached(Potential):
    """Directions of edges from which no gradient comes back."""

    def features(self, graph, vectors, species):
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        return super().features(graph, lengths * (vectors / lengths).detach(), species)


class HardCutoff(Potential):
    """An energy for each edge, of whatever length."""

    def _site_energies(self, graph, features, vectors, species, forces):
        energies, direct = super()._site_energies(graph, features, vectors, species, forces)
        return energies.index_add(0, graph.edge_index[1], energies.new_full((len(vectors),), 0.02)), direct


class Changed(Potential):
    """Results that are changed afterwards."""

    def forward(self, graph, forces=True, stress=False):
        results = super().forward(graph, forces, stress)
        self.change(graph, results)
        return results


class HalfStress(Changed):
    def change(self, graph, results):
        if "stress" in results:
            results["stress"] /= 2


class NotConservative(Changed):
    def change(self, graph, results):
        if "forces" in results:
            results["forces"] *= (1 + 0.05 * (graph.atomic_numbers != 1))[:, None]


class Sign(Changed):
    def change(self, graph, results):
        if "forces" in results:
            results["forces"] *= -1


class WrongE0(Changed):
    def change(self, graph, results):
        results["energies"] += 1.0 * (graph.atomic_numbers == 8)
        owner = torch.zeros(len(graph.pos), dtype=torch.int64) if "batch" not in graph else graph.batch
        results["energy"] = torch.zeros_like(results["energy"]).index_add(0, owner, results["energies"])


class Batches(Changed):
    def change(self, graph, results):
        results["energy"] += 1e-3 * (len(graph.cell) - 1)


class SinglePrecision(Changed):
    def change(self, graph, results):
        results["energy"] = results["energy"].float().double()


class Small(Potential):
    """With a grid that has one row too few."""


#: What follows from forces that are no slope of the energy.
SLOPE = {"forces", "stretch", "order of the integrator", "drift", "supercell"}
#: Class -> its own line, and others that it may fail.
BROKEN = {
    Detached: ("forces", SLOPE | {"stress"}),
    HardCutoff: ("smooth at the cutoff", {"stretch", "order of the integrator", "drift"}),
    HalfStress: ("stress", set()),
    NotConservative: ("forces", SLOPE),
    Sign: ("forces", SLOPE),
    WrongE0: ("isolated atoms", set()),
    Batches: ("batches", set()),
    SinglePrecision: (
        "sum of energies",
        SLOPE | {"rotation, float64", "mirror, float64", "permutation, float64", "translation, float64", "extensivity"}
        | {"stress", "smooth at the cutoff", "isolated atoms", "batches"},
    ),
    Small: ("rotation, float64", {"rotation, as used", "mirror, float64", "backends, float64", "backends"}),
}  # fmt: skip


def broken(kind: type[Potential], monkeypatch: pytest.MonkeyPatch) -> Potential:
    """A model of a class."""
    options = {"family": "gaunt", "backend": "grid"} if kind is Small else {}
    if kind is Small:
        whole = grid.sphere_rule
        monkeypatch.setattr(grid, "sphere_rule", lambda degree, *rest, **more: whole(max(degree - 2, 0), *rest, **more))
    model = make_model(**options)
    model.__class__ = kind
    return model


FAST = (HalfStress,)
KINDS = [pytest.param(kind, id=kind.__name__, marks=[] if kind in FAST else pytest.mark.slow) for kind in BROKEN]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_model_fails_its_own_line(kind: type[Potential], monkeypatch: pytest.MonkeyPatch) -> None:
    own, others = BROKEN[kind]
    failed = set(examine(broken(kind, monkeypatch), structures(), picoseconds=0).failures())
    assert own in failed
    assert failed <= {own} | others


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_model_in_dynamics(kind: type[Potential], monkeypatch: pytest.MonkeyPatch) -> None:
    own, others = BROKEN[kind]
    failed = set(examine(broken(kind, monkeypatch), structures(), picoseconds=0.5).failures())
    assert own in failed
    assert failed <= {own} | others
    if kind in (NotConservative, Sign):
        assert "order of the integrator" in failed


SOUND = {
    "coupled": {},
    "gaunt": {"family": "gaunt", "backend": "grid"},
    "direct": {"variant": "equiformer-gate", "forces": "direct"},
    "float32": {"dtype": torch.float32},
    "so3": {"parity": "so3", "zbl": True},
    "S2": {"variant": "equiformer"},
}


def sound(name: str) -> Potential:
    options = dict(SOUND[name])
    torch.set_default_dtype(options.pop("dtype", torch.float64))
    return make_model(**options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct", "float32"])
def test_sound_models_pass(name: str) -> None:
    report = examine(sound(name), structures(), picoseconds=0)
    assert report.failures() == []
    assert len(report.lines) >= 13


@pytest.mark.slow
def test_a_sound_model_with_dispersion_passes() -> None:
    pytest.importorskip("dftd3.interface")
    model = sound("coupled")
    model.set_dispersion(Dispersion.choose("pbe"))
    assert examine(model, picoseconds=0).failures() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_sound_models_pass_in_dynamics(name: str) -> None:
    for given in (structures(), None):
        report = examine(sound(name), given, picoseconds=0.5)
        # in so short a time atoms still fall into a hole of these random energies, where larger forces fluctuate more
        settles = given is None and name == "S2"
        assert set(report.failures()) <= ({"drift"} if settles else set())
        ratio = next(line.value for line in report.lines if line.name == "order of the integrator")
        assert name == "direct" or ratio < 0.6


def test_a_calculator_of_ase() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    report = examine(EMT(), [atoms], picoseconds=0.01)
    assert report.failures() == []
    assert {"forces", "stress", "order of the integrator", "drift"} <= {line.name for line in report.lines}


def test_the_drift_is_a_slope_with_its_error() -> None:
    rng = np.random.default_rng(0)
    times = np.linspace(0, 10, 10_000)
    slopes = [slope_of(times, 0.3 * times + rng.normal(size=10_000)) for _ in range(50)]
    drifts, errors = np.array(slopes).T
    assert abs(drifts.mean() - 0.3) < 3 * drifts.std() / 50**0.5
    assert 0.6 < errors.mean() / drifts.std() < 1.6


def labelled(model: Potential) -> list[ase.Atoms]:
    """Structures with labels that are the model's but for a constant and some noise."""
    rng, found = np.random.default_rng(0), []
    for seed in range(4):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        result = eqmol.predict(atoms, model, close_contacts="warn")
        atoms.info["config_type"] = "ab"[seed % 2]
        forces = result["forces"] + rng.normal(0, 0.01, (3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=result["energy"] + 6.0, forces=forces)
        found.append(atoms)
    return found


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model()
    write(tmp_path / "a.xyz", labelled(model), format="extxyz")
    model.set_domain(torch.full((3, 3), 0.9), 4)
    save(model, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert command.main(["model.safetensors", "a.xyz", "--time", "0", "--card", "-o", "out"]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    lines = {line["name"]: line for line in report["lines"]}
    assert report["passed"]
    assert lines["constant in the energies"]["status"] == "warn"
    assert "-2e+03" in lines["constant in the energies"]["words"]
    assert report["facts"]["force RMSE"].endswith("meV/Å")
    *by_group, environments, cost = report["tables"]
    assert [table["title"][17:] for table in by_group] == ["by element", "by their size", "by config_type"]
    assert cost["title"].startswith("Energy and forces of 3 atoms, float64, CPU time on ")
    assert [row[0] for row in cost["rows"]] == ["cg", "escn"]
    assert all(float(value) > 0 for row in cost["rows"] for value in row[1:])
    assert lines["backends, float64"]["status"] == "pass"
    assert [row[2] for row in environments["rows"]] == ["yes", "yes"]
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<canvas") == 3
    names = ("http://www.w3.org", "http://purl.org", "http://creativecommons.org", "https://matplotlib.org")  # of SVG
    assert not [found for found in re.findall(r"https?://[\w.]+", page) if found not in names]
    card = (tmp_path / "out/card.md").read_text()
    assert "| ✓ | forces |" in card
    assert f"**{cost['title']}**" in card
    assert cost["title"] in page
    assert "Energies without those of free atoms against their labels" in page
    assert "Components of forces against their labels" in page
    assert "No check failed" in page
    assert "constant in the energies" in capsys.readouterr().out


@pytest.mark.slow
def test_a_broken_model_ends_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Potential, "element_values", lambda self, name: torch.zeros(3))
    save(make_model(), tmp_path / "model.safetensors")
    assert command.main([str(tmp_path / "model.safetensors"), "--time", "0", "-o", str(tmp_path)]) == 1
    assert "Failed: isolated atoms" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    model = make_model()
    examine(model, labelled(model), picoseconds=0).write(tmp_path)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [CHROMIUM, *options, f"--screenshot={picture}", "--window-size=1100,2600", (tmp_path / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert picture.stat().st_size > 30_000
    assert "CONSOLE" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((EMT(), None), "does not say which elements"),
        ((EMT(), []), "no structures"),
        ((EMT(), [molecule("H2O")], -1), "picoseconds=-1"),
    ],
)
def test_wrong_arguments(arguments, words: str) -> None:
    model, given, *time = arguments
    with pytest.raises(InputError, match=words):
        examine(model, given, picoseconds=time[0] if time else 0)


@pytest.mark.parametrize(
    ("options", "status", "alike"),
    [
        ({"correlation": 1, "layers": 1}, "fail", ["distances (two bodies)", "distances and angles (three bodies)"]),
        ({"correlation": 2, "layers": 1}, "warn", ["distances and angles (three bodies)"]),
        ({"correlation": 3, "layers": 1}, "pass", []),
    ],
    ids=["two bodies", "three bodies", "four bodies"],
)
def test_environments_that_few_bodies_do_not_tell_apart(options, status: str, alike: list[str]) -> None:
    tables: list[Rows] = []
    (line,) = degenerate(Subject(make_model(**options)), tables)
    assert (line.status, line.value) == (status, len(alike))
    assert [row[0] for row in tables[0].rows if row[2] == "no"] == alike


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_have_in_common_what_they_say(name: str) -> None:
    """Sorted distances from the centre, and with angles all distances, are equal; no motion maps one onto the other."""
    one, other = (ring(places, 1.1).get_all_distances() for places in PAIRS[name])
    np.testing.assert_allclose(one[0], other[0], atol=1e-12)
    all_equal = np.allclose(np.sort(one, axis=None), np.sort(other, axis=None), atol=1e-12)
    assert all_equal == ("angles" in name)
    images = [other[np.ix_((0, *order), (0, *order))] for order in permutations(range(1, 5))]
    assert min(np.abs(one - image).max() for image in images) > 0.1


def test_parity_is_of_labels_and_predictions() -> None:
    model = make_model()
    report = Report("")
    given = [
        Frame(atoms, {"energy": atoms.calc.results["energy"], "forces": atoms.calc.results["forces"]}, "")
        for atoms in labelled(model)
    ]
    errors(Subject(model), given, report)
    energies, forces = report.parities
    labels, predictions = energies.points["energies"]
    np.testing.assert_allclose(labels - predictions, 2.0, atol=1e-8)  # 6 eV of three atoms
    free = float(model.element_values("energy") @ torch.tensor([2.0, 0.0, 1.0]))
    assert labels[0] == pytest.approx((given[0].labels["energy"] - free) / 3)
    assert {name: pair[0].size for name, pair in forces.points.items()} == {"H": 4 * 2 * 3, "O": 4 * 3}
    np.testing.assert_array_equal(forces.points["O"][0][:3], given[0].labels["forces"][0])
    assert np.abs(forces.points["H"][1] - forces.points["H"][0]).max() < 0.1


def test_memory_is_that_of_all_tensors_at_once() -> None:
    kilobyte = torch.zeros(128, dtype=torch.float64)
    with PeakMemory(torch.nn.Linear(100, 100)) as memory:
        kept = kilobyte.repeat(3)
        kept.view(3, 128).add_(1)  # nothing new
        for _ in range(4):
            (kept * 2).sum()  # one of these at a time, beside the sum
    assert memory.peak == 2 * 3 * 1024 + 8


def test_a_backend_that_computes_something_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = escn.ESCNConvolution.forward
    monkeypatch.setattr(escn.ESCNConvolution, "forward", lambda self, *inputs: 1.1 * whole(self, *inputs))
    monkeypatch.setattr(cost, "for_prediction", partial(cost.for_prediction, verify=False))
    tables: list[Rows] = []
    (line,) = cost.backends(Subject(make_model()), molecule("H2O"), tables)
    assert (line.status, line.words) == ("fail", "cg, escn; largest for escn")


@pytest.mark.parametrize(("wrong", "statuses"), [(1.0, "pass"), (10.0, "fail"), (0.1, "fail")])
def test_an_uncertainty_that_is_not_calibrated_fails(wrong: float, statuses: str) -> None:
    """Labels have errors drawn from the std of the model, or from another one; one atom is where the model was never trained."""
    model, rng = make_model(), np.random.default_rng(0)
    root = torch.eye(model.num_last, dtype=torch.float64)
    means = torch.zeros(len(model.elements), model.num_last, dtype=torch.float64)
    Posterior(root, root, means, Factors(None, 0.1, None, 1e6, 10, 5)).write(model)
    frames = []
    for seed in range(6):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, seed=seed)
        result = predict(atoms, model)
        labels = result["forces"] + wrong * result["forces_std"][:, None] * rng.normal(size=(len(atoms), 3))
        frames.append(Frame(atoms, {"forces": labels}, f"frame {seed}"))
    lines = {line.name: line for line in confidence(Subject(model), frames)}
    assert lines["calibration"].status == statuses
    assert (lines["extrapolation"].status, lines["extrapolation"].value) == ("pass", 0.0)
    distances = np.concatenate([predict(frame.atoms, model)["forces_std"] for frame in frames]) / 0.1
    model.sections["uncertainty"]["farthest"] = float(np.sort(distances)[-10])
    far = next(confidence(Subject(model), frames))
    assert (far.status, far.value) == ("warn", pytest.approx(9 / len(distances)))


def test_models_without_uncertainty_have_no_lines_of_it() -> None:
    assert not list(confidence(Subject(make_model()), [Frame(molecule("H2O"), {}, "")]))

"""Loss, errors and averages against NumPy."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eqmol.data.oc20.metrics import OpenCatalystMetrics
from eqmol.errors import InputError
from eqmol.graph.targets import ENERGY, FORCES, Target, check_beside_energies
from eqmol.inference.errors import Errors
from eqmol.train.ema import average_
from eqmol.train.loss import Term, WeightedLoss, read_term
from eqmol.train.memory import OutOfMemoryError, memory_errors
from eqmol.train.remainder import fit
from eqmol.train.schedule import Budget, Cosine, Plateau, parse_duration
from eqmol.train.task import Validation


class Batch(SimpleNamespace):
    def __contains__(self, name):
        return name in vars(self)

    def __getitem__(self, name):
        return vars(self)[name]


def made_up():
    """A batch of two structures with three and two atoms, and predictions."""
    labels = {"energy": torch.randn(2).double(), "forces": torch.randn(5, 3).double()}
    output = {name: value + 0.1 * torch.randn_like(value) for name, value in labels.items()}

    ptr, batch = torch.tensor([0, 3, 5]), torch.tensor([0, 0, 0, 1, 1])
    fields = {"ptr": ptr, "batch": batch, "num_graphs": 2, "pos": torch.zeros(5, 3), "config_type": ["hot", "cold"]}
    return output, Batch(**labels, **fields)


def loss_of(settings: dict, raise_at: float = 1.0) -> WeightedLoss:
    return WeightedLoss({name: Term(**each) for name, each in settings.items()}, raise_at)


def huber(error: np.ndarray, delta: float) -> np.ndarray:
    size = abs(error)
    return np.where(size <= delta, size**2, delta * (2 * size - delta))


@pytest.mark.parametrize(("raised", "weight"), [(0.0, 2.0), (0.5, 10.0), (1.0, 50.0)])
def test_loss(raised, weight):
    output, batch = made_up()
    targets = {
        "energy": {"weight": 2.0, "final_weight": 50.0},
        "forces": {"weight": 3.0, "loss": "huber", "delta": 0.05},
    }
    loss = loss_of(targets, 0.5)
    energy = ((output["energy"] - batch.energy) / torch.tensor([3, 2])).numpy()
    forces = (output["forces"] - batch.forces).numpy()
    expected = weight * np.mean(energy**2) + 3.0 * np.mean(huber(forces, 0.05))
    assert float(loss(output, batch, raised)) == pytest.approx(expected, rel=1e-12)
    for steps in (None, 500, 9999):
        assert [loss.raised(progress, steps) for progress in (0.0, 0.5, 0.75, 1.0)] == [0.0, 0.0, 0.5, 1.0]
    # the last 250 steps, as of 500
    assert [loss.raised(progress, 250) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert [loss.raised(progress, 25) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])


@pytest.mark.parametrize("kind", ["mse", "mae", "norm"])
def test_forces_loss_is_that_of_free_atoms(kind):
    output, batch = made_up()
    batch.fixed = torch.tensor([True, False, False, True, False])
    forces = (output["forces"] - batch.forces).numpy()[[1, 2, 4]]
    size = {"mse": forces**2, "mae": abs(forces), "norm": np.linalg.norm(forces, axis=1)}[kind]
    loss = loss_of({"forces": {"weight": 3.0, "loss": kind}}, 1.0)
    assert float(loss(output, batch, 0.0)) == pytest.approx(3.0 * size.mean(), rel=1e-12)


SCALES = {"energy": 0.02, "forces": 1.5, "stress": 0.03}


@pytest.mark.parametrize(("kind", "power"), [("mse", 2), ("mae", 1), ("norm", 1), ("huber", None)])
def test_errors_are_divided_by_the_scales(kind, power):
    difference = torch.randn(6, 3).double()
    plain = Term(1.0, loss=kind, delta=0.4).errors(difference).numpy()
    divided = Term(1.0, loss=kind, delta=0.4, scale=1.5).errors(difference).numpy()
    expected = plain / 1.5**power if power else huber(difference.numpy(), 0.4) / 1.5**2
    np.testing.assert_allclose(divided, expected, rtol=1e-12)
    # the unit of labels, scales and delta does not matter, and without delta Huber's error turns linear at the scale
    assert Term(1.0, loss=kind, delta=400.0, scale=1500.0).errors(1e3 * difference).numpy() == pytest.approx(divided)
    if kind == "huber":
        given = Term(1.0, loss=kind, delta=1.5, scale=1.5).errors(difference)
        assert Term(1.0, loss=kind, scale=1.5).errors(difference).numpy() == pytest.approx(given.numpy())


@pytest.mark.parametrize(
    ("energy", "forces", "stress", "labels", "expected"),
    [
        ((None, 1.0), 100.0, None, SCALES, (0.01, 1.0, 10.0)),
        ((None, 1.0), 2.0, None, SCALES, (2e-4, 1.0, 0.2)),
        (
            (None, 1.0),
            2.0,
            None,
            SCALES | {"energy": 0.3},
            (0.02 * (0.3 / 1.5) ** 2, 1.0, 0.2),
        ),  # 0.01 (eV/atom)² beside 1 (eV/Å)²
        ((3.0, None), 5.0, 7.0, SCALES, (3.0, 3.0, 7.0)),
        ((None, 4.0), 0.0, None, SCALES, (4.0, 4.0, 0.4)),
        ((None, 4.0), 100.0, None, {"energy": 0.02, "forces": 2e-5}, (4.0, 4.0, 0.0)),  # forces are noise
        ((None, 1.0), 100.0, None, {"energy": 0.02, "forces": 1.5}, (0.01, 1.0, 0.0)),
    ],
)
def test_weights_that_are_not_given(energy, forces, stress, labels, expected):
    settings = {
        "energy": {"weight": energy[0], "final_weight": energy[1]},
        "forces": {"weight": forces},
        "stress": {"weight": stress},
    }
    loss = loss_of(settings, 0.75)
    assert ("stress" in loss.required) == (stress is not None)
    loss = loss.settled(labels)
    found = loss.terms["energy"].weight_at(0.0), loss.terms["energy"].weight_at(1.0), loss.terms["stress"].weight
    assert found == pytest.approx(expected)
    assert ("stress" in loss.used) == (expected[2] > 0)
    assert [term.scale for name, term in loss.terms.items() if name in labels] == list(labels.values())


def test_labels_that_a_structure_lacks_do_not_count():
    output, batch = made_up()
    loss = loss_of({"energy": {"weight": 2.0}, "forces": {"weight": 3.0}, "stress": {"weight": 1.0}})
    whole = {name: (output[name] - batch[name]).numpy() for name in ("energy", "forces")}
    batch.energy[0] = torch.nan
    batch.forces[3:] = torch.nan
    expected = 2.0 * (whole["energy"][1] / 2) ** 2 + 3.0 * np.mean(whole["forces"][:3] ** 2)
    assert float(loss(output, batch, 0.0)) == pytest.approx(expected, rel=1e-12)


def test_nothing_but_a_stress_that_is_nowhere_is_nothing_to_train_on():
    loss = loss_of({"energy": {"weight": 0.0}, "stress": {"weight": None}})
    with pytest.raises(InputError, match="every loss weight is zero"):
        loss.settled({"energy": 1.0})


def test_norm_is_for_vectors():
    with pytest.raises(InputError, match=r"energy.loss=norm is for vectors"):
        loss_of({"energy": {"weight": 1.0, "loss": "norm"}}, 1.0)


def test_stress_counts_only_where_it_is_defined_and_labelled():
    """Three cells: labelled, without a label, and without a volume."""
    cell = torch.stack((4.0 * torch.eye(3), 5.0 * torch.eye(3), torch.zeros(3, 3))).double()
    label = torch.full((3, 3, 3), torch.nan).double()
    label[0] = 0.01 * torch.randn(3, 3)
    strain = torch.randn(3, 3, 3).double().requires_grad_()
    volume = torch.tensor([64.0, 125.0, torch.nan]).double()
    output = {"virial": -strain, "stress": strain / volume[:, None, None]}
    pbc = torch.tensor([[True] * 3, [True] * 3, [False] * 3])
    batch = Batch(stress=label, cell=cell, pbc=pbc, pos=cell)
    loss = loss_of({"stress": {"weight": 7.0}}, 1.0)(output, batch, 0.0)
    expected = 7.0 * np.mean((strain[0].detach().numpy() / 64.0 - label[0].numpy()) ** 2)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, strain)
    assert gradient[0].abs().min() > 0
    assert not gradient[1:].any()


def test_labels_with_a_weight_at_any_time_are_required():
    targets = {"energy": {"weight": 0.0, "final_weight": 1.0}, "forces": {"weight": 0.0}}
    assert loss_of(targets, 0.5).required == ("energy",)
    with pytest.raises(InputError, match="every loss weight is zero"):
        loss_of({"forces": {"weight": 0.0}}, 0.5)


def test_errors():
    output, batch = made_up()
    errors = Errors((ENERGY, FORCES))
    errors.update(output, batch)
    energy = 1e3 * (output["energy"] - batch.energy).numpy()
    forces = 1e3 * (output["forces"] - batch.forces).numpy()
    summary = errors.summary()
    assert summary["energy_rmse_mev"] == pytest.approx(np.sqrt(np.mean(energy**2)))
    assert summary["energy_mae_mev_per_atom"] == pytest.approx(np.mean(abs(energy) / [3, 2]))
    assert summary["forces_mae_mev_per_a"] == pytest.approx(np.mean(abs(forces)))
    assert summary["forces_rmse_mev_per_a"] == pytest.approx(np.sqrt(np.mean(forces**2)))
    groups = errors.by_config_type()
    assert set(groups) == {"hot", "cold"}
    assert groups["cold"]["forces_rmse_mev_per_a"] == pytest.approx(np.sqrt(np.mean(forces[3:] ** 2)))


def test_metrics_of_the_open_catalyst_project():
    output, batch = made_up()
    batch.fixed = torch.tensor([True, False, False, False, False])
    output = {"energy": batch.energy + torch.tensor([0.019, -0.021]), "forces": batch.forces.clone()}
    output["forces"][0] += 1.0  # fixed
    output["forces"][1, 2] += 0.029
    output["forces"][4] = -batch.forces[4]
    errors = Errors((ENERGY, FORCES), OpenCatalystMetrics())
    errors.update(output, batch)
    summary = errors.summary()
    assert summary["energy_mae"] == pytest.approx(0.02)
    assert summary["forces_mae"] == pytest.approx((0.029 + 2 * float(batch.forces[4].abs().sum())) / 12)
    cosine = torch.cosine_similarity(output["forces"][1], batch.forces[1], dim=0)
    assert summary["forces_cos"] == pytest.approx((float(cosine) + 2.0 - 1.0) / 4)
    assert summary["forces_mae_of_zero"] == pytest.approx(float(batch.forces[1:].abs().mean()))
    assert summary["efwt"] == 0.5
    assert errors.by_config_type()["hot"]["efwt"] == 1.0
    assert summary["forces_mae_mev_per_a"] == pytest.approx(1e3 * summary["forces_mae"])
    assert "efwt" not in Errors((ENERGY, FORCES)).summary()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_errors_name_the_largest_structure(error):
    _, batch = made_up()
    batch.edge_index = torch.tensor([[0, 1, 3, 4, 3], [1, 0, 4, 3, 4]])
    batch.source = ["a.xyz, frame 7", "a.xyz, frame 8"]
    sentence = r"5 atoms and 5 edges.*a.xyz, frame 8 with 2 atoms and 3 edges; lower"
    with pytest.raises(OutOfMemoryError, match=sentence), memory_errors(batch):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(batch):
        raise RuntimeError("shapes differ")


def test_average_follows_its_recurrence():
    values = [torch.randn(3) for _ in range(20)]
    average, expected = [values[0].clone()], values[0].clone()
    for n, value in enumerate(values[1:], start=1):
        average_(0.9, average, [value], n)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average[0], expected)


def test_cosine_warms_up_and_ends_at_its_floor():
    schedule = Cosine(warmup_steps=10, floor=0.01)
    factors = [schedule.factor(step, step / 100) for step in range(101)]
    assert factors[0] < 0.2
    assert max(factors) == pytest.approx(1.0, abs=0.05)
    assert factors[-1] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(factors[11:]))


@pytest.mark.parametrize("schedule", [Cosine(50, floor=1.0), Plateau(50)], ids=["cosine", "plateau"])
@pytest.mark.parametrize("steps", [20, 100, 500, 5000])
def test_the_warm_up_takes_a_tenth_of_the_run_at_most(schedule, steps):
    factors = [schedule.factor(step, step / steps) for step in range(steps)]
    full = min(50, steps // 10)
    assert factors[0] == pytest.approx(1 / 51)
    assert factors[full - 1] < 1.0
    assert factors[full:] == [1.0] * (steps - full)
    assert factors == sorted(factors)


def test_plateau_reduces_as_torch_does():
    scores = [5.0, 4.0, 4.0, 4.1, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    schedule = Plateau(warmup_steps=0, factor=0.5, patience=1, threshold=1e-3, floor=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = {"factor": 0.5, "patience": 1, "threshold": 1e-3, "min_lr": 0.1}
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    for score in scores:
        schedule.validated(score)
        reference.step(score)
        assert schedule.factor(100, 0.0) == pytest.approx(optimizer.param_groups[0]["lr"])
        again = Plateau(warmup_steps=0, factor=0.5, patience=1, threshold=1e-3, floor=0.1)
        again.load_state_dict(schedule.state_dict())
        schedule = again


def test_a_run_ends_with_what_comes_first():
    budget = Budget(steps=100, seconds=60.0)
    assert budget.progress(50, 6.0) == 0.5
    assert budget.progress(5, 30.0) == 0.5
    assert budget.progress(200, 0.0) == 1.0
    with pytest.raises(InputError, match="never end"):
        Budget(None, None)


@pytest.mark.parametrize(
    ("steps", "step", "elapsed", "expected"),
    [
        (10_000, 1, 3.0, 10_000),  # of which nothing is known yet
        (10_000, 60, 30.0, 120),  # the time ends first
        (None, 60, 30.0, 120),
        (100, 90, 30.0, 100),  # the epochs do
    ],
)
def test_steps_are_expected_as_it_goes(steps, step, elapsed, expected):
    assert Budget(steps, 60.0).expected_steps(step, elapsed) == expected
    assert Budget(1000, None).expected_steps(step, elapsed) == 1000


def test_durations():
    assert parse_duration("01:02:03:04") == 93784.0
    with pytest.raises(InputError, match="leaves no time"):
        parse_duration("00:00:00:00")


def test_a_property_may_have_the_name_of_a_label():
    """A column "energy" of a table of molecules is compared as it is, and not per atom."""
    output, batch = made_up()
    target = Target("energy", "extensive", "eV")
    vars(batch)[target.field] = batch.energy + torch.tensor([0.3, -0.5])
    loss = WeightedLoss({"energy": Term(2.0, loss="mae")}, 1.0, (target,))
    expected = 2.0 * (output["energy"] - batch[target.field]).abs().mean()
    assert float(loss(output, batch, 0.0)) == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(InputError, match="energy names what a potential predicts"):
        check_beside_energies(["q", "energy"])


def test_terms_from_settings():
    assert read_term("q", {"loss": "mae"}) == Term(None, loss="mae")
    for settings in ({"los": "mae"}, {"scale": 2.0}, 3.0):
        with pytest.raises(
            InputError, match=r"task\.targets\.q=.* must be {weight: 1\.0, loss: mse}, of weight, final_weight"
        ):
            read_term("q", settings)


def test_constants_of_energies_do_not_count_in_validation():
    loss = WeightedLoss({"energy": Term(1.0), "forces": Term(2.0)})
    composition = np.tile([[0.5, 0.5], [0.25, 0.75]], (5, 1))
    noise = np.random.default_rng(0).normal(size=10)
    for shift, counted in ((0.0, noise), (30.0, fit(composition, noise)[1])):
        validation = Validation(Errors((ENERGY, FORCES)), loss)
        left = noise + composition @ [shift, -shift]
        validation.add({"energy": (float(np.square(left).sum()), 10), "forces": (12.0, 3)})
        for part in (slice(6), slice(6, 10)):
            other = Validation(Errors((ENERGY, FORCES)), loss)
            other.leave(composition[part], left[part])
            validation.extend(other)
        assert validation.score == pytest.approx(np.square(counted).mean() + 2.0 * 4.0)

"""The report's numbers come out of the operations: a broken operation shows."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eqmol.analysis import report as analysis_report
from eqmol.analysis import spaces
from eqmol.analysis.cost import _Counter, fitted_exponent, measure_cost
from eqmol.analysis.powers import chirality, containments
from eqmol.analysis.spaces import Samples, all_maps, basis, measure, rank
from eqmol.cli.report import WIDTH, main
from eqmol.ops import Spec
from eqmol.ops.contract import RadialWeight, TensorProduct
from eqmol.ops.grid import OnSphere
from eqmol.ops.registry import candidates, create
from eqmol.so3.layout import degree_slice, degrees
from eqmol.so3.quadrature import ProductRule, sphere_rule
from tests.ops.cases import spec_id

L = 2
SPECS = [
    Spec(operation, family, parity, L, 0 if operation == "power" else L, L, 3 if operation == "power" else 1)
    for operation in ("convolution", "product", "power")
    for family in ("coupled", "gaunt")
    for parity in ("o3", "so3")
]
MEASURED = [(spec, backend) for spec in SPECS for backend in candidates(spec)]


@pytest.mark.parametrize(("spec", "backend"), MEASURED, ids=spec_id)
def test_space_of_every_algorithm(spec: Spec, backend: str) -> None:
    samples = Samples.draw(spec)
    space, coupled = measure(spec, backend, samples), measure(all_maps(spec, spec.parity), "cg", samples)
    assert space.right
    assert space.expressivity == spec.num_weights
    assert space.full == coupled.expressivity == all_maps(spec, spec.parity).num_paths
    assert space.part_outside(coupled) < 1e-10
    assert not space.forbidden
    np.testing.assert_allclose(space.coefficients[:, space.allowed], expected(spec), atol=1e-10)
    if spec.family == "coupled":
        assert space.layered == space.full
        assert not space.missed
    else:
        assert coupled.part_outside(space) > 0.1
        assert space.expressivity < space.layered < space.full
    if spec.operation != "power":
        assert not space.missed  # with the curl pairing also under so3


def expected(spec: Spec) -> np.ndarray:
    """Own weights in the basis of all paths of the spec's parity."""
    all_paths = spaces.paths_of(all_maps(spec, spec.parity))
    result = np.zeros((spec.num_weights, len(all_paths)))
    result[:, [all_paths.index(path) for path in spaces.paths_of(spec)]] = spec.paths * spec.path_normalization
    return result


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_layers_around_a_gaunt_product(degree: int) -> None:
    # one factor per degree in, in the filter and out, of which two fix nothing
    space = measure(Spec("product", "gaunt", "o3", degree, degree, degree), "grid")
    assert space.layered == 3 * (degree + 1) - 2


@pytest.mark.parametrize("parity", ["o3", "so3"])
@pytest.mark.parametrize("family", ["coupled", "gaunt"])
def test_interactions_against_isolated_degrees(family: Any, parity: Any) -> None:
    """Zero all degrees of the inputs but one: what comes out is what the report says."""
    spec = Spec("product", family, parity, L, L, L)
    backend = "cg" if family == "coupled" else "grid"
    found = measure(spec, backend).interactions()
    op, samples = create(spec, backend).double(), Samples.draw(spec)
    for l1 in range(L + 1):
        for l2 in range(L + 1):
            x, y = (t * torch.tensor(degrees(L) == l) for t, l in ((samples.x, l1), (samples.y, l2)))
            out = spaces.evaluate(op, replace(samples, x=x, y=y))
            reached = [l3 for l3 in range(L + 1) if np.abs(out[..., degree_slice(l3)]).max() > 1e-10]
            assert found.get((l1, l2), []) == reached
            assert reached == [
                l for l in range(L + 1) if abs(l1 - l2) <= l <= l1 + l2 and (parity == "so3" or (l1 + l2 + l) % 2 == 0)
            ]


@pytest.mark.parametrize("spec", [all_maps(spec) for spec in SPECS if spec.family == "coupled"], ids=spec_id)
def test_basis_is_complete(spec: Spec) -> None:
    """The number of equivariant maps, counted by characters of rotations by an angle t about an axis."""
    t, weight = np.polynomial.legendre.leggauss(60)
    angle = (t + 1) * np.pi / 2
    measure_of = weight * (1 - np.cos(angle)) / 2
    character = lambda l, a: np.sin((2 * l + 1) * a / 2) / np.sin(a / 2)  # noqa: E731
    field = lambda degree, a: sum(character(l, a) for l in range(degree + 1))  # noqa: E731
    if spec.operation == "power":
        one, two, three = (field(L, k * angle) for k in (1, 2, 3))
        inputs = one + (one**2 + two) / 2 + (one**3 + 3 * one * two + 2 * three) / 6
    else:
        inputs = field(L, angle) ** 2
    count = float((measure_of * inputs * field(L, angle)).sum())
    rows = basis(spec, Samples.draw(spec)).reshape(spec.num_paths, -1)
    assert rank(rows) == spec.num_paths == pytest.approx(count, abs=1e-6)


def test_powers() -> None:
    found = containments(3, "o3", 3)
    assert max(c.outside for c in found) < 1e-10
    assert next(c.coupled / c.gaunt for c in found if c.order == 2) == 2.5
    assert all(c.coupled >= 2 * c.gaunt for c in found)


def test_chirality_needs_differently_mixed_fields() -> None:
    shares = chirality(2, 3)
    for name in ("power of a, gaunt", "product of a with a, gaunt", "scalar of a with b, gaunt"):
        assert shares[name] < 1e-12
    for name in ("power of a, coupled", "product of a with b, gaunt", "scalar of (a with b) with c, gaunt"):
        assert shares[name] > 0.05


# --- defects show


def wrapped(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let ``change`` alter the operation that the registry makes for grid."""

    def defective(spec: Spec, backend: str) -> TensorProduct:
        op = create(spec, backend)
        return change(op) if backend == "grid" else op

    monkeypatch.setattr(spaces, "create", defective)


def without_curl(op: TensorProduct) -> TensorProduct:
    """The same operation, deaf to the weights of the curl pairing."""
    keep = torch.tensor([float(own[0] == 0) for own in op.spec.own_weights]).double()
    forward = op.forward

    def deaf(*args: Any) -> Tensor:
        if op.spec.operation == "product":
            return forward(*args[:-1], args[-1] * keep[:, None])
        x, geometry, weight, *rest = args
        return forward(x, geometry, RadialWeight(weight.hidden, weight.matrix * keep[:, None]), *rest)

    op.forward = deaf
    return op


@pytest.mark.parametrize("operation", ["convolution", "product"])
def test_missing_curl_shows(operation: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    spec = Spec(operation, "gaunt", "so3", L, L, L)
    assert measure(spec, "grid").right
    wrapped(monkeypatch, without_curl)
    space = measure(spec, "grid")
    assert not space.right
    assert space.expressivity == L + 1
    assert all(sum(path) % 2 for path in space.missed)
    assert (1, 1, 1) in space.missed
    arguments = ["--degree", str(L), "--parity", "so3", "--operation", operation, "--no-cost", "-o", str(tmp_path)]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert f"{operation} of gaunt (grid) misses" in printed.out
    assert f"not equal to the reference: {operation}, gaunt by grid" in printed.err


@pytest.mark.parametrize("spec", [s for s in SPECS if s.family == "gaunt" and s.parity == "o3"], ids=spec_id)
def test_one_row_too_few_shows(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(spec, "grid").right

    def coarse(self: OnSphere, band: int, degree_out: int) -> ProductRule:
        return sphere_rule(band, degree_out, rows=(band + degree_out) // 2)

    monkeypatch.setattr(OnSphere, "rule", coarse)
    space = measure(spec, "grid")
    assert not space.right
    assert space.error > 1e-3
    assert space.outside > 1e-3  # no longer equivariant


# --- cost


def test_counter() -> None:
    x, y = torch.ones(10, 20), torch.ones(20, 30)
    with _Counter() as counter:
        z = x @ y
        z = z + 1
        z = z * 2
    assert counter.operations == 2 * 10 * 20 * 30 + 2 * 300
    assert counter.moved == 4 * ((200 + 600 + 300) + 2 * (300 + 300))
    assert counter.peak == 4 * 600  # the first result is freed when the third is made


@pytest.mark.parametrize("spec", [s for s in SPECS if s.parity == "so3"], ids=spec_id)
def test_cost_is_positive(spec: Spec) -> None:
    cost = measure_cost(spec, "cg", channels=2, budget=0.0, rows=20)
    assert min(cost.operations, cost.moved, cost.peak, cost.seconds) > 0


def test_fitted_exponent() -> None:
    assert fitted_exponent([1, 2, 3], [2.0**3, 3.0**3, 4.0**3]) == pytest.approx(3)


# --- command line


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_report, "measure_cost", lambda *args: measure_cost(*args, budget=0.0, rows=20))
    assert main(["--degree", "2", "--parity", "so3", "--channels", "2", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.removesuffix(str(tmp_path) + "\n").splitlines())) <= WIDTH
    for word in (
        "Expressivity",
        "Interactability of the product",
        "Power",
        "Chirality",
        "Cost",
        "power of gaunt (cg, gaunt, gaunt_fft, grid) misses",
    ):
        assert word in printed
    with open(tmp_path / "products.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["operation"], r["family"], r["algorithm"]) for r in rows} == {
        (spec.operation, spec.family, backend) for spec, backend in MEASURED
    }
    assert all(row["equals_reference"] == "True" and float(row["microseconds"]) > 0 for row in rows)
    assert {path.name for path in tmp_path.iterdir()} == {
        "products.csv", "degrees.csv", "interactions.csv", "powers.csv", "time_against_degree.png"
    }  # fmt: skip


def test_choosing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--degree", "1", "--family", "gaunt", "--operation", "product", "--no-cost", "-o", str(tmp_path)]) == 0
    with open(tmp_path / "products.csv", newline="") as file:
        assert {(r["operation"], r["family"]) for r in csv.DictReader(file)} == {("product", "gaunt")}
    assert "Cost" not in capsys.readouterr().out


WRONG = [
    (["--degre", "2", "--x"], "unrecognized arguments: --x"),
    (["--degree", "9"], "argument --degree: '9' is not an integer from 1 to 8"),
    (["--family", "coupled", "best"], "argument --family: invalid choice: 'best'"),
    (["fast"], "unrecognized arguments: fast"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_commands(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error

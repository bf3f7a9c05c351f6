"""The table of algorithms: what runs what, and what is refused."""

import pytest

from eqmol.errors import InputError
from eqmol.ops import Spec, convolution, mixing, power, product
from eqmol.ops.registry import ALGORITHMS, algorithm, candidates, create
from tests.ops.cases import MIXINGS, PAIRS, POWERS, spec_id


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Spec("convolution", "coupled", "o3", 1, 2, 1), ("cg", "escn")),
        (Spec("convolution", "gaunt", "o3", 1, 2, 1), ("cg", "escn", "gaunt", "gaunt_fft", "grid")),
        (Spec("convolution", "gaunt", "o3", 0, 2, 1), ("cg",)),
        (Spec("convolution", "gaunt", "o3", 2, 2, 0), ("cg",)),
        (Spec("product", "coupled", "o3", 1, 1, 1), ("cg",)),
        (Spec("mixing", "coupled", "o3", 1, 2, 1), ("cg", "escn")),
        (Spec("product", "gaunt", "so3", 1, 1, 1), ("cg", "gaunt", "gaunt_fft", "grid")),
        (Spec("power", "gaunt", "o3", 1, 0, 1, 2), ("cg", "gaunt", "gaunt_fft", "grid")),
    ],
    ids=spec_id,
)
def test_candidates_differ_and_begin_with_the_reference(spec, expected):
    assert candidates(spec) == expected


@pytest.mark.parametrize("spec", PAIRS + POWERS, ids=spec_id)
def test_every_backend_is_a_candidate_or_the_same_as_one_or_refuses(spec):
    offered = {algorithm(spec, name) for name in candidates(spec)}
    for name in ALGORITHMS:
        try:
            assert algorithm(spec, name) in offered
        except InputError:
            assert name not in candidates(spec)


@pytest.mark.parametrize("spec", [s for s in PAIRS + POWERS if s.family == "coupled"][:3], ids=spec_id)
@pytest.mark.parametrize("name", ["gaunt", "gaunt_fft", "grid"])
def test_coupled_specs_are_refused_by_name(spec, name):
    with pytest.raises(InputError, match=f"{name}.*coupled"):
        create(spec, name)


@pytest.mark.parametrize("spec", [Spec("product", "gaunt", "so3", 2, 2, 2), POWERS[0]], ids=spec_id)
def test_escn_says_that_cg_runs_what_has_no_axis(spec):
    assert type(create(spec, "escn")) is type(create(spec, "cg"))


def test_a_mixture_names_one_algorithm_per_operation():
    mixture = {"convolution": "escn", "product": "grid", "power": "cg"}
    for operation, name in mixture.items():
        spec = Spec(operation, "gaunt", "o3", 1, 1, 1)
        assert type(create(spec, mixture)) is type(create(spec, name))


def test_what_cannot_mix_channels_names_what_can():
    with pytest.raises(InputError, match=r"'grid' .* cannot mix channels; use backend cg or escn, .* for mixing"):
        mixing(MIXINGS[0], "grid")
    assert type(mixing(MIXINGS[0], {"mixing": "escn"})) is type(create(MIXINGS[0], "escn"))


def test_unknown_backend_lists_the_known():
    with pytest.raises(InputError, match=r"'gird'.*cg, escn, gaunt, gaunt_fft, grid"):
        create(PAIRS[0], "gird")


@pytest.mark.parametrize("make", [convolution, mixing, product, power])
@pytest.mark.parametrize("spec", [PAIRS[0], MIXINGS[0], PAIRS[-20], POWERS[0]], ids=spec_id)
def test_public_functions_make_their_operation_and_refuse_others(make, spec):
    if make.__name__ == spec.operation:
        assert type(make(spec)) is algorithm(spec, "cg")
    else:
        with pytest.raises(InputError, match=rf"{make.__name__}\(\) got .* of a {spec.operation}; "):
            make(spec)

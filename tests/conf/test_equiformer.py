"""What the presets of the Equiformer-style model choose, and what the command line still decides."""

import pytest

from tests.conf.test_compose import recipe


@pytest.mark.parametrize(
    ("options", "backend", "family"),
    [
        (["model=gaunt"], "grid", "gaunt"),
        (["model=gaunt", "backend=cg"], "cg", "gaunt"),
        (["backend=escn", "model=gaunt", "data=3bpa"], "escn", "gaunt"),
        (["model=equiformer", "backend=escn"], "escn", "coupled"),
        (["model=equiformer", "backend=grid"], "grid", "gaunt"),
    ],
    ids=" ".join,
)
def test_the_command_line_wins(options: list[str], backend: str, family: str) -> None:
    backbone = recipe(*options)["backbone"]
    assert (backbone["backend"], backbone["family"]) == (backend, family)


@pytest.mark.parametrize(("option", "convolution"), [(None, "escn"), ("backend=cg", "cg")])
def test_selfmix_has_a_family_per_operation(option: str | None, convolution: str) -> None:
    backbone = recipe("experiment=equiformer_selfmix", *([option] if option else []))["backbone"]
    assert backbone["backend"] == {"convolution": convolution, "product": "grid"}
    assert backbone["family"] == {"convolution": "coupled", "product": "gaunt"}
    assert backbone["selfmix"]

"""Models of one's own: what can be registered, and how the configuration fills them in."""

import re

import pytest
from torch import Tensor

from eqmol.cli import train as cli
from eqmol.cli.registered import choices
from eqmol.errors import InputError
from eqmol.models import Backbone, Potential, register
from eqmol.models.registry import BACKBONES

pytestmark = pytest.mark.usefixtures("registration")


class Own(Backbone):
    def __init__(self, elements: list[int], width: int, backend: str = "cg", sizes: tuple[int, ...] = (1, 2)) -> None:
        super().__init__()

    def forward(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> list[Tensor]:
        raise NotImplementedError


class Half(Backbone):
    pass


class Loose(Own):
    def __init__(self, **options: int) -> None:
        pass


class Odd(Own):
    def __init__(self, layer: type = Backbone) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("eqmol.models.MACE", Own, "a letter followed by"),
        ("my.Model", Own, "a letter followed by"),
        (None, Own, "a letter followed by"),
        ("own", Potential, "is no subclass of eqmol.models.Backbone"),
        ("own", "os.system", "'os.system' is no subclass of eqmol.models.Backbone"),
        ("own", Half, "Half lacks the methods forward"),
        ("own", Loose, "the argument **options: int of Loose has no name"),
        ("own", Odd, "of Odd is no JSON"),
    ],
)
def test_what_cannot_be_registered(name, model, message) -> None:
    before = dict(BACKBONES)
    with pytest.raises(InputError, match=re.escape(message)):
        register(name, model)
    assert before == BACKBONES


def test_arguments_are_filled_in() -> None:
    register("own", Own)
    expected = {"_target_": "own", "elements": "${statistics.elements}", "width": "???", "backend": "${backend.name}"}
    assert choices()["model"] == {"own": expected | {"sizes": [1, 2]}}


def test_an_argument_without_a_default_must_be_given(tmp_path, capsys) -> None:
    register("own", Own)
    with pytest.raises(SystemExit) as stop:
        cli.main(["model=own", f"output_dir={tmp_path / 'run'}"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("error: model.width must be given: this model has no default\n")
    assert not (tmp_path / "run").exists()

"""Arguments of a wrong type: one sentence each, at every door of the library."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule

import eqmol
from eqmol.checkpoint import save
from eqmol.errors import InputError
from tests.recipes import model

WRONG: list[Any] = [3, -1.5, "", "nonsense", ["a"], {"a": 1}, object(), b"x", float("nan"), np.array([1, 2]), len]
#: Argument -> what the sentence says.
ARGUMENTS = {
    "model": "^a model is given by the path|cannot read the model file nonsense",
    "atoms": "^predict takes ase.Atoms or several of them, not ",
    "backend": "^backend=|: backend .* is unknown",
    "device": "^device .* is not available here",
    "dtype": "^dtype .* is unknown",
    "verify": "^verify=.* must be True or False",
    "radial_table": "^radial_table=.* is unknown",
    "kernels": "^kernels=.* is unknown",
    "close_contacts": "^close_contacts=.* is unknown",
    "electronic_state": "^electronic_state=.* is unknown",
    "batch_size": "^batch_size=.* must be a positive integer",
    "skin": "^skin=.* must be a length",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(model(), file)
    return file


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_types(path: Path, name: str) -> None:
    def use(value: Any) -> None:
        if name == "skin":
            eqmol.Calculator(path, skin=value)
        else:
            eqmol.predict(**{"atoms": molecule("H2O"), "model": path, name: value})

    for value in WRONG[1:] if name in ("batch_size", "skin") else WRONG:
        with pytest.raises(InputError, match=ARGUMENTS[name]) as error:
            use(value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300
    if name not in ("atoms", "batch_size", "skin"):
        with pytest.raises(InputError, match=ARGUMENTS[name]):
            eqmol.Calculator(**{"path_or_model": path, {"model": "path_or_model"}.get(name, name): object()})


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    eqmol.save(model(), "~/m=(1).safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["m=(1).safetensors"]
    assert eqmol.load("~/m=(1).safetensors").elements == model().elements

"""What a configuration may build."""

import os
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from eqmol.cli.train import _for_hydra
from eqmol.errors import InputError
from eqmol.models import Equiformer, register
from eqmol.train.code import check_targets


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "eqmol.data.places.os.system",  # reachable through a module of eqmol
        "eqmol.files.paths.Path",
        "eqmol.checkpoint.save",  # a function
        "eqmol.nowhere.Model",
        "torch.load",
        "mypackage.Model",
        3,
        ["eqmol.models.MACE"],
    ],
)
@pytest.mark.parametrize("place", ["model", "trainer.inner", "data.list"])
def test_foreign_code_is_refused(target: object, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"_target_": target, "command": "true"}
    tree = {"allow_code": False, "model": {"_target_": "eqmol.models.MACE"}}
    tree |= {"model": part} if place == "model" else {"trainer": {"inner": part}} if place == "trainer.inner" else {}
    tree |= {"data": {"list": [part]}} if place == "data.list" else {}
    with pytest.raises(InputError, match=r"_target_=.* is no class of eqmol: .* allow_code=true"):
        check_targets(OmegaConf.create(tree))
    tree["allow_code"] = True
    monkeypatch.setattr(sys, "path", list(sys.path))
    check_targets(OmegaConf.create(tree))


def test_allowed_code_is_found_in_the_current_folder_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for allowed, expected in ((False, 0), (True, 1), (True, 1)):
        check_targets(OmegaConf.create({"allow_code": allowed}))
        assert sys.path.count(str(tmp_path)) == expected
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.usefixtures("registration")
def test_registered_models_are_allowed() -> None:
    tree = OmegaConf.create({"allow_code": False, "model": {"_target_": "own"}})
    with pytest.raises(InputError, match=r"model._target_=own is not registered here; .* eqmol.models.register\('own'"):
        check_targets(tree)
    register("own", Equiformer)
    check_targets(tree)


@pytest.mark.parametrize("target", ["eqmol.models.MACE", "eqmol.train.muon.Muon", "torch.optim.AdamW"])
def test_own_classes_are_allowed(target: str) -> None:
    check_targets(OmegaConf.create({"allow_code": False, "a": [{"_target_": target}]}))


def test_a_run_can_be_repeated_from_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    arguments = _for_hydra(["config.yaml", "seed=3", "output_dir=new"])
    assert arguments[:6] == [
        "--config-dir",
        os.fspath(tmp_path),
        "--config-name",
        "config.yaml",
        "seed=3",
        "output_dir=new",
    ]
    for text in ("hydra:\n  callbacks: {a: {_target_: os.system}}\n", "defaults: [model: mace]\n", "- 3\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match="nothing for Hydra"):
            _for_hydra(["config.yaml", "output_dir=new"])
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(InputError, match="give output_dir=NEW"):
        _for_hydra(["config.yaml"])
    with pytest.raises(InputError, match="is no file"):
        _for_hydra(["other.yaml", "output_dir=new"])

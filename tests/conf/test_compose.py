"""Every combination of the configuration composes to a recipe that builds."""

from itertools import product

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from eqmol.checkpoint import build
from eqmol.cli.train import CONF
from eqmol.ops.registry import ALGORITHMS, can_run
from eqmol.tuning import AUTO

E0 = [-13.6, -1029.5]
STATISTICS = {
    "elements": [1, 6],
    "avg_num_neighbors": 16.0,
    "e0": E0,
    "scale": 0.9,
    "properties": {"U0": {"kind": "extensive", "unit": "eV", "e0": E0, "mean": 0.0, "scale": 0.3, "spread": 1.0}},
}
SMALL = ["model.channels=2", "model.filter_degree=1", "model.radial_hidden=[4]"]


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def recipe(*options: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", list(options))
    cfg.statistics = STATISTICS
    return OmegaConf.to_container(cfg.predictor, resolve=True)


@pytest.mark.parametrize(("model", "backend", "data"), list(product(names("model"), ALGORITHMS, names("data"))))
def test_every_model_backend_and_data_set(model, backend, data):
    composed = recipe(f"model={model}", f"backend={backend}", f"data={data}", *SMALL)
    family = composed["backbone"]["family"]
    assert composed["backbone"]["backend"] == backend
    assert can_run(backend, family)
    assert family == ("coupled" if backend in ("cg", "escn") and model != "gaunt" else "gaunt")
    build(composed)


def test_every_backend_has_a_file():
    assert names("backend") == sorted([*ALGORITHMS, AUTO])


@pytest.mark.parametrize("group", ["debug", "experiment"])
def test_every_preset_composes(group):
    for name in names(group):
        recipe(f"{group}={name}", *SMALL)


def test_the_family_can_be_chosen_apart_from_the_backend():
    assert recipe("backend=cg", "model.family=gaunt")["backbone"]["family"] == "gaunt"


def test_the_gaunt_model_chooses_a_backend_that_the_command_line_overrides():
    assert recipe("model=gaunt")["backbone"]["backend"] == "grid"
    assert recipe("model=gaunt", "backend=cg")["backbone"]["backend"] == "cg"
    assert recipe("backend=escn", "model=gaunt", "data=3bpa")["backbone"]["backend"] == "escn"

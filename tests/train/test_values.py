"""Options of training that are no numbers as they should be: one sentence, before anything is read."""

import math
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from eqmol.cli.train import CONF
from eqmol.errors import InputError
from eqmol.train.run import run
from eqmol.train.values import NUMBERS, TARGET, check_numbers

#: What no number may be.
WRONG = ["abc", [1], {"a": 1}, "", True, -1, math.nan, math.inf]


@cache
def composed(*options: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*options])


def configuration(option: str, value: object) -> DictConfig:
    """One with another value of an option."""
    groups = ["data=qm9_sample"] if option.startswith("task.noise") else []
    if option in ("task.schedule.factor", "task.schedule.patience", "task.schedule.threshold"):
        groups.append("task/schedule=plateau")
    cfg = composed(*groups).copy()
    assert OmegaConf.select(cfg, option.rpartition(".")[0] or option) is not None or "." not in option
    OmegaConf.update(cfg, option, value, merge=False, force_add=False)
    return cfg


@pytest.mark.parametrize("option", NUMBERS)
def test_values_of_options(option: str) -> None:
    number = NUMBERS[option]
    for value in [*WRONG, *([] if number.null else [None]), *([1.5] if number.integer else [])]:
        with pytest.raises(InputError, match=rf"^{option}=.* must be an? (number|integer) ") as error:
            check_numbers(configuration(option, value))
        assert str(error.value).endswith("or null") == number.null
    check_numbers(configuration(option, 1 if number.integer else 0.5))


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
@pytest.mark.parametrize("key", TARGET)
def test_weights(name: str, key: str) -> None:
    option = f"task.targets.{name}.{key}"
    for value in WRONG:
        with pytest.raises(InputError, match=rf"^{option}=.* must be a number .*, or null"):
            check_numbers(configuration(option, value))
    for value in (0.5, 2, None):
        check_numbers(configuration(option, value))


def test_classes_of_a_user_have_their_own_options() -> None:
    cfg = configuration("task.schedule.floor", "none")
    cfg.task.schedule._target_ = "my.Schedule"
    check_numbers(cfg)


@pytest.mark.parametrize("value", ["abc", [1], 3, True])
def test_statistics(value: object) -> None:
    with pytest.raises(InputError, match=r"^statistics=.* must be null or the statistics"):
        check_numbers(configuration("statistics", value))


@pytest.mark.parametrize(
    ("option", "value", "words"), [("trainer.overfit", "abc", "of at least 1"), ("trainer.ema_decay", 1, "below 1")]
)
def test_a_run_that_is_refused_leaves_nothing(tmp_path, option: str, value: object, words: str) -> None:
    cfg = configuration(option, value)
    cfg.output_dir = str(tmp_path / "run")
    with pytest.raises(InputError, match=words):
        run(cfg)
    assert not list(tmp_path.iterdir())

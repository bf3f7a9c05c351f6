"""The configuration of a run: what can be refused before anything is read or written, and objects made from it."""

from typing import Any, NamedTuple, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from eqmol.errors import InputError
from eqmol.train.code import check_targets
from eqmol.train.precision import BFLOAT16
from eqmol.train.schedule import Budget, parse_duration
from eqmol.train.values import check_numbers

PRECISIONS = {
    "float32": torch.float32,
    "32-true": torch.float32,
    "float64": torch.float64,
    "64-true": torch.float64,
    BFLOAT16: torch.float32,
}
ACCELERATORS = ("auto", "cpu", "gpu")
VERIFY = {"on": True, "true": True, "off": False, "false": False}


class Settings(NamedTuple):
    """What a run is told in words.

    Attributes:
        verify: compare algorithms with the reference.
        max_time: seconds of all starts together, or None.
    """

    verify: bool
    max_time: float | None


def check(cfg: DictConfig) -> Settings:
    """Read what does not depend on data; refuse what cannot work.

    Raises:
        InputError: a wrong option.
    """
    check_targets(cfg)
    check_numbers(cfg)
    check_trainer(cfg.trainer)
    max_time = cfg.trainer.max_time
    return Settings(parse_verify(cfg.verify), None if max_time is None else parse_duration(max_time))


def plain(settings: DictConfig) -> dict[str, Any]:
    """Return settings as plain values, with all references resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))


def make(settings: DictConfig, **options: Any) -> Any:
    """Build the object that settings describe; what the user got wrong is told without Hydra's words around it."""
    try:
        return instantiate(settings, **options)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def check_trainer(settings: DictConfig) -> None:
    """Refuse what cannot work before any work is done."""
    if settings.precision not in PRECISIONS:
        raise InputError(f"trainer.precision={settings.precision} is unknown; choose one of {', '.join(PRECISIONS)}")
    if type(settings.tf32) is not bool:
        raise InputError(f"trainer.tf32={settings.tf32} must be true or false")
    if settings.accelerator not in ACCELERATORS:
        raise InputError(f"trainer.accelerator={settings.accelerator} is unknown; choose {', '.join(ACCELERATORS)}")
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator=gpu, but torch finds no GPU here; use trainer.accelerator=cpu")
    available = torch.cuda.device_count() if torch.cuda.is_available() else settings.devices
    if settings.accelerator != "cpu" and settings.devices > available:
        raise InputError(
            f"trainer.devices={settings.devices}, but torch finds {available} GPUs here; lower it, or use "
            "trainer.accelerator=cpu"
        )
    Budget(settings.max_epochs, None if settings.max_time is None else parse_duration(settings.max_time))


def parse_verify(value: Any) -> bool:
    """Read ``verify=on`` or ``verify=off``."""
    text = str(value).lower()
    if text not in VERIFY:
        raise InputError(f"verify={value} is unknown; choose on or off")
    return VERIFY[text]

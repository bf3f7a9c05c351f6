"""What the numbers of a configuration may be, found out before anything is read or written."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from eqmol.errors import InputError


class Number(NamedTuple):
    """What one option may be.

    Attributes:
        low, high: bounds.
        low_too, high_too: whether the bounds themselves may be.
        integer: no fractions.
        null: or null.
    """

    low: float = 0.0
    high: float = math.inf
    low_too: bool = True
    high_too: bool = True
    integer: bool = False
    null: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value may be."""
        if value is None:
            return self.null
        if isinstance(value, bool) or not isinstance(value, int if self.integer else int | float):
            return False
        above = value > self.low or (self.low_too and value == self.low)
        below = value < self.high or (self.high_too and value == self.high)
        return above and below and math.isfinite(value)

    def words(self) -> str:
        """For a person: "an integer of at least 1, or null"."""
        bounds = f"{'of at least' if self.low_too else 'above'} {self.low:g}"
        if self.high < math.inf:
            bounds += f" and {'at most' if self.high_too else 'below'} {self.high:g}"
        return f"{'an integer' if self.integer else 'a number'} {bounds}{', or null' * self.null}"


_COUNT, _PART = Number(1, integer=True), Number(high=1)
NUMBERS = {
    "trainer.devices": _COUNT,
    "trainer.num_nodes": _COUNT,
    "trainer.max_epochs": _COUNT._replace(null=True),
    "trainer.ema_decay": Number(high=1, high_too=False, null=True),
    "trainer.gradient_clip_val": Number(low_too=False, null=True),
    "trainer.early_stopping": _COUNT._replace(null=True),
    "trainer.check_val_every_n_epoch": _COUNT,
    "trainer.checkpoint_minutes": Number(low_too=False, null=True),
    "trainer.overfit": _COUNT._replace(null=True),
    "model.degree_out": Number(integer=True),
    "task.optimizer.lr": Number(low_too=False),
    "task.raise_at": _PART,
    "task.noise": Number(),
    "task.noise_weight": Number(),
    "task.schedule.warmup_steps": Number(integer=True),
    "task.schedule.floor": _PART,
    "task.schedule.factor": Number(high=1, low_too=False),
    "task.schedule.patience": Number(integer=True),
    "task.schedule.threshold": Number(),
}
#: Where classes come from whose options these are.
OWN = ("eqmol.", "torch.")
TARGET = {"weight": Number(null=True), "final_weight": Number(null=True), "delta": Number(low_too=False, null=True)}


def check_numbers(cfg: DictConfig) -> None:
    """Refuse options that are no such numbers, and statistics that are none.

    Raises:
        InputError: names the option, what it is and what it may be.
    """
    for option, value, number in _given(cfg):
        if not number.allows(value):
            shown = "null" if value is None else repr(value)
            raise InputError(f"{option}={shown:.80} must be {number.words()}")
    statistics = OmegaConf.select(cfg, "statistics")
    if statistics is not None and not isinstance(statistics, DictConfig):
        raise InputError(f"statistics={statistics!r:.80} must be null or the statistics of another run's config.yaml")


def _given(cfg: DictConfig) -> Iterator[tuple[str, Any, Number]]:
    """Yield the options that are there, with their values; those of a user's own class have their own meaning."""
    for option, number in NUMBERS.items():
        group, _, key = option.rpartition(".")
        node = OmegaConf.select(cfg, group)
        if isinstance(node, DictConfig) and key in node and str(node.get("_target_", "eqmol.")).startswith(OWN):
            yield option, node[key], number
    targets = OmegaConf.select(cfg, "task.targets", default={})
    for name, target in targets.items() if isinstance(targets, Mapping | DictConfig) else ():
        for key, number in TARGET.items() if isinstance(target, Mapping | DictConfig) else ():
            if key in target:
                yield f"task.targets.{name}.{key}", target[key], number

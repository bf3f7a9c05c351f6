"""What a finished run says about itself in words: each judgement is one function, which returns a sentence or nothing."""

from collections.abc import Mapping
from typing import NamedTuple

from eqmol.train.baseline import ROUNDING, SHARE
from eqmol.units import number

#: Part of the highest learning rate that is left where a run is called complete.
FALLEN = 0.1
#: Errors so many times those of validation are said to be of other structures.
MANY = 3.0
#: Part of the error of the baseline below which a quantity is learnt; errors so many times those of training ask for data.
LEARNT, APART = 0.1, 1.5

Summary = Mapping[str, float]


class Ending(NamedTuple):
    """What is known at the end of a run.

    Attributes:
        judged: errors by their names in summaries -> what a person calls the quantity.
        train, val: errors on these sets.
        baseline: errors of the baseline on the validation set.
        tests: errors by name of the test set.
        progress: part of the run that is over by steps or by time, 0 to 1.
        rate: learning rate at the end as part of the highest.
        backend: of the products, "" without.
    """

    judged: Mapping[str, str]
    train: Summary
    val: Summary
    baseline: Summary
    tests: Mapping[str, Summary]
    progress: float = 1.0
    rate: float = 0.0
    backend: str = ""


def sentences(ending: Ending) -> list[str]:
    """Return what is to be said."""
    found = (unlike_validation(ending), cut(ending.progress, ending.rate), next_step(ending))
    return [sentence for sentence in found if sentence is not None]


def cut(progress: float, rate: float) -> str | None:
    """Return that a run ended before its learning rate had fallen, which is when errors fall most."""
    if rate <= FALLEN:
        return None
    return (
        f"the run ended with the learning rate at {100 * rate:.0f} % of its highest, {100 * progress:.0f} % of the way: errors "
        "fall most while it falls. Let it end: resume=auto with more time, a larger trainer.early_stopping, or fewer "
        "trainer.max_epochs"
    )


def unlike_validation(ending: Ending) -> str | None:
    """Return on which test sets errors are many times those on the validation set."""
    found = []
    for name, errors in ending.tests.items():
        shown = []
        for key, quantity in ending.judged.items():
            own, other = ending.val.get(key, 0.0), errors.get(key, 0.0)
            if other > MANY * max(own, ROUNDING):
                shown.append(f"{quantity} {number(other)} ({other / max(own, ROUNDING):.1f} times)")
        if shown:
            found.append(f"{name}: {', '.join(shown)}")
    if not found:
        return None
    return (
        f"errors are many times those on the validation set on {'; '.join(found)}. These structures are unlike those of training: "
        "add some of their kind, and see whether the errors are one constant"
    )


def next_step(ending: Ending) -> str | None:
    """Return what is worth trying next, by the quantity that is learnt least; nothing where all are learnt."""
    parts = {key: ending.val[key] / value for key, value in ending.baseline.items() if _counts(key, value, ending)}
    if not parts:
        return None
    key = max(parts, key=lambda name: parts[name])
    quantity, part = ending.judged[key], parts[key]
    if part < LEARNT:
        return None
    words = f"next: the error of {quantity} is {100 * part:.0f} % of that of the baseline on the validation set"
    others = [other for name, other in parts.items() if name != key]
    apart = ending.val[key] / max(ending.train.get(key, ending.val[key]), ROUNDING)
    if part >= SHARE and quantity == "energies" and others and min(others) < LEARNT:
        return (
            f"{words}, while the rest is learnt: give E0s (data.isolated_atoms_file, data.e0), or more weight at the end "
            "(task.targets.energy.final_weight)"
        )
    if part >= SHARE and apart < APART:
        return (
            f"{words}, and no less on what was trained on: look at units and labels with eqmol doctor, at the scale above, and "
            "train longer (trainer.max_epochs)"
        )
    if apart >= APART:
        return f"{words}, {apart:.1f} times that on the training set: more data helps most"
    faster = "" if ending.backend in ("", "auto") else ", with backend=auto for more steps in the same time"
    return f"{words}, nearly as on the training set: train longer (trainer.max_epochs, trainer.max_time){faster}, or a larger model"


def _counts(key: str, value: float, ending: Ending) -> bool:
    return key in ending.judged and key in ending.val and value > ROUNDING


def forgetting(
    judged: Mapping[str, str], before: Mapping[str, float], after: Mapping[str, float], allowed: float
) -> tuple[str, dict[str, float]] | None:
    """Compare errors on old data with those of the model that a run started from.

    Args:
        judged: errors by their names in summaries -> what a person calls the quantity.
        before: errors of the model that was started from.
        after: of the model that was trained.
        allowed: growth that is accepted, relative.

    Returns:
        A sentence; growth by quantity. None where nothing can be compared.
    """
    growth, shown = {}, []
    for key, quantity in judged.items():
        if key in before and key in after:
            growth[quantity] = after[key] / max(before[key], ROUNDING) - 1.0
            change = f"{100 * growth[quantity]:+.0f} %"
            shown.append(f"{quantity} {number(before[key])} -> {number(after[key])} ({change})")
    if not growth:
        return None
    words = f"errors on the old data before and after: {', '.join(shown)}"
    if max(growth.values()) <= allowed:
        return f"{words}; within the {100 * allowed:.0f} % that data.replay.growth allows", growth
    return (
        f"{words}; that is more than the {100 * allowed:.0f} % that data.replay.growth allows: the model forgets. Raise "
        "data.replay.share, leave more as it is (task.freeze), or lower task.optimizer.lr",
        growth,
    )

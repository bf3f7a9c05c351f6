"""From configuration and data to the model that is trained."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig, open_dict
from rich.console import RenderableType

from eqmol import checkpoint, tuning
from eqmol.checkpoint.warm_start import WarmStart
from eqmol.data.atomic_energies import KEEP
from eqmol.data.datamodule import GraphSets
from eqmol.data.loader import first_batch
from eqmol.data.replay import REPLAY
from eqmol.errors import InputError
from eqmol.graph.contacts import SHORTEST
from eqmol.graph.targets import DEGREES
from eqmol.inference.errors import Errors
from eqmol.models import Potential
from eqmol.models.predictor import Predictor
from eqmol.models.repulsion import AUTO
from eqmol.train import processes, start, warm_energies
from eqmol.train.folder import RunFolder
from eqmol.train.objectives import Objective
from eqmol.train.precision import BFLOAT16, allow_tf32, multiply_in_bfloat16
from eqmol.train.resume import algorithms, compare_compiled_code
from eqmol.train.settings import PRECISIONS, plain

START = "start"  #: name among the statistics of what :func:`eqmol.train.start.measure` returns
STATISTICS_TOLERANCE = 1e-6  #: relative; the same data give the same numbers up to the order of summation


def complete(
    cfg: DictConfig, data: GraphSets, out: RunFolder, warm: WarmStart | None, objective: Objective
) -> RenderableType | None:
    """Freeze into the configuration what follows from the data: statistics, the degree of the last features, constants.

    Returns:
        What a run that starts from a model does with constants of the elements.
    """
    shown = fill_statistics(cfg, data, out, warm)
    check_energies(cfg)
    raise_degree(cfg)
    fill_start(cfg, data, out, warm)
    fill_repulsion(cfg, out, warm)
    fill_errors(cfg, data, warm, objective)
    return shown


def fill_statistics(
    cfg: DictConfig, data: GraphSets, out: RunFolder, warm: WarmStart | None = None
) -> RenderableType | None:
    """Freeze the statistics of the training set into the configuration, unless the user gave them.

    A resumed run takes those of its checkpoint, and this tells whether its data are still the same. A run that starts from a
    model takes those of the model, with the elements and the energies of elements of the data.

    Returns:
        What a run that starts from a model does with constants of the elements.

    Raises:
        InputError: the data of a resumed run have changed, or their energies are implausible.
    """
    if data.e0 == KEEP and cfg.init_from is None:
        raise InputError("data.e0=keep keeps the E0s of a model, but there is none: give init_from=MODEL.safetensors")
    given = {} if cfg.statistics is None else plain(cfg.statistics)
    if warm is not None and "heads" in data.statistics():
        raise InputError(f"init_from={warm.path}: a run with data=heads starts from no model; leave init_from out")
    if warm is not None:
        warm.check_kind(cfg.predictor._target_)
        warm.add_elements(given.get("elements", data.statistics()["elements"]))
    if given:
        warm_energies.show(data, given, "statistics of the configuration")
        cfg.statistics = data.statistics() | given
        return None
    if warm is not None:
        beside = warm.properties_of(data.statistics())
        chosen, words = warm_energies.settle(data, warm)
        cfg.statistics = data.statistics() | beside | chosen
        return words
    if out.config is None:
        cfg.statistics = data.statistics()
        return None
    earlier = {name: value for name, value in out.config["statistics"].items() if name != START}
    if cfg.init_from is None and not _close(data.statistics(), earlier):
        raise InputError(
            f"cannot resume: the statistics of the training data are {data.statistics()}, those of {out.checkpoint} are "
            f"{earlier}; give the same data"
        )
    warm_energies.show(data, earlier, f"{out.checkpoint}")
    cfg.statistics = earlier
    return None


def check_energies(cfg: DictConfig) -> None:
    """Refuse atomic energies of the model that are not those of the statistics, which are checked against the labels.

    Raises:
        InputError: they differ.
    """
    predictor, statistics = plain(cfg.predictor), plain(cfg.statistics)
    if "e0" in predictor and "e0" in statistics and not _close(predictor["e0"], statistics["e0"]):
        raise InputError(
            f"predictor.e0={predictor['e0']} is not what the data have ({statistics['e0']}); give atomic energies as "
            "data.e0={H: -13.6, O: -2040.0}"
        )


def fill_start(cfg: DictConfig, data: GraphSets, out: RunFolder, warm: WarmStart | None) -> None:
    """Freeze what gives the untrained model the size of its labels into the statistics, unless the user gave it.

    A resumed run and one that starts from a model keep what they have, be it nothing.
    """
    if START in cfg.statistics:
        return
    if out.config is not None:
        constants = out.config["statistics"].get(START, {})
    elif warm is not None:
        constants = warm.statistics[START]
    else:
        constants = start.measure(build(cfg), data.sample())
    if constants:
        with open_dict(cfg):
            cfg.statistics[START] = constants


def fill_repulsion(cfg: DictConfig, out: RunFolder, warm: WarmStart | None) -> None:
    """Give a model that starts from another, or continues, the kind of repulsion that it had, unless the user gave one."""
    if cfg.predictor.get("zbl") != AUTO:
        return
    if out.config is not None:
        cfg.predictor.zbl = out.config["predictor"]["zbl"]
    elif warm is not None:
        cfg.predictor.zbl = warm.model.recipe.get("zbl", False)


@torch.no_grad()
def fill_errors(cfg: DictConfig, data: GraphSets, warm: WarmStart | None, objective: Objective) -> None:
    """Freeze the errors on old data of the model that a run starts from into the statistics; a resumed run has them.

    Raises:
        InputError: there are old data, but no model.
    """
    if data.replay is None or REPLAY in cfg.statistics or data.few is not None:
        return
    if cfg.init_from is None:
        raise InputError("data.replay has old data of a model, but there is none: give init_from=MODEL.safetensors")
    assert warm is not None
    errors = Errors(objective.targets(warm.model))
    for batch in data.evaluation_dataloaders()[REPLAY]:
        errors.update(objective.ask(warm.model, batch, batch), batch)
    with open_dict(cfg):
        cfg.statistics[REPLAY] = {name: float(f"{error:.6g}") for name, error in errors.summary().items()}


def raise_degree(cfg: DictConfig) -> None:
    """Give the last features the degree that the targets are read from: 1 for vectors, 2 for tensors."""
    kinds = [entry["kind"] for entry in cfg.statistics.get("properties", {}).values()]
    needed = max((DEGREES.get(kind, 0) for kind in kinds), default=0)
    if cfg.model.get("degree_out", 0) < needed:
        cfg.model.degree_out = needed


def _close(a: Any, b: Any) -> bool:
    """Return whether two trees of numbers are equal up to rounding."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_close, a, b))
    if isinstance(a, str):
        return bool(a == b)
    return isinstance(b, int | float) and math.isclose(a, b, rel_tol=STATISTICS_TOLERANCE, abs_tol=STATISTICS_TOLERANCE)


def build(cfg: DictConfig) -> Predictor:
    """Build the untrained model from its recipe."""
    pl.seed_everything(cfg.seed, verbose=False)  # after the data, so that the weights do not depend on them
    with checkpoint.default_dtype(PRECISIONS[cfg.trainer.precision]):
        predictor = checkpoint.build(plain(cfg.predictor))
    allow_tf32(cfg.trainer.tf32)
    if cfg.trainer.precision == BFLOAT16:
        multiply_in_bfloat16(predictor)
    return predictor


def make(cfg: DictConfig, data: GraphSets, warm: WarmStart | None) -> tuple[Predictor, list[str | None]]:
    """Make the model that is trained, with what its file says of the training set; return what to print about it too."""
    predictor = build(cfg)
    predictor.set_domain(data.shortest_distances(predictor.elements), len(data.train_graphs))
    predictor.set_state(data.electronic_state())
    predictor.set_labels(data.label_keys())
    predictor.set_dispersion(data.dispersion)
    started = None if warm is None else warm.fill(predictor)
    repulsion = predictor.repulsion if isinstance(predictor, Potential) else None
    if repulsion is None or not repulsion.beside_data:
        return predictor, [started]
    repulsion.settle(predictor.aux[SHORTEST])
    return predictor, [started, repulsion.words(predictor.aux[SHORTEST])]


def settle_algorithms(
    model: Predictor, data: GraphSets, out: RunFolder, device: torch.device, check: bool
) -> list[RenderableType]:
    """Choose algorithms for backend=auto on the first batch of the run, or as the checkpoint has them; verify them.

    Returns:
        What to print about the choice, and about compiled code other than that of the checkpoint.

    Raises:
        VerificationError: the model would compute something else than the reference.
    """
    model.to(device).train()
    auto = model.recipe["backbone"].get("backend") == tuning.AUTO
    if auto and out.state is not None:  # other algorithms round differently, and the run would not be the same
        tuning.apply(model, out.state["eqmol"]["algorithms"])
    measure, is_first = auto and out.state is None, processes.is_first()
    if measure and not is_first:
        tuning.apply(model, processes.of_first({}))
    batch = first_batch(data.train_dataloader())
    tuned = tuning.settle(model, batch.to(device), "training" if measure and is_first else None, check)
    if measure and is_first:
        processes.of_first(algorithms(model))
    shown: list[RenderableType] = [] if tuned is None else [tuned.table()]
    if auto and tuned is None:
        shown.append(f"backend=auto: the algorithms are those of {out.checkpoint}")
    if out.checkpoint is not None and out.state is not None:
        code = compare_compiled_code(out.checkpoint, out.state["eqmol"]["kernels"], model)
        shown += [] if code is None else [code]
    return shown

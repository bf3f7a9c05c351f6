"""Model files: tensors and a recipe, readable without running anything that the file says.

The recipe is the resolved ``predictor`` configuration (:mod:`eqmol.checkpoint.recipe`); :mod:`eqmol.checkpoint.header`
describes the file. The tensors' names, shapes and types are compared with a model built on the meta device before any
is read.
"""

import copy
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eqmol import __version__
from eqmol.checkpoint import heads
from eqmol.checkpoint import recipe as recipes
from eqmol.checkpoint.header import AUX, FORMAT, SECTIONS, UNITS, Header, ModelFile, digest, read_header
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.graph.contacts import SHORTEST, check_shortest
from eqmol.graph.dispersion import Dispersion, library
from eqmol.graph.electronic import ElectronicState
from eqmol.models import Potential
from eqmol.models.arguments import check_integer
from eqmol.models.predictor import Predictor
from eqmol.models.uncertainty import Posterior
from eqmol.ops.contract import KernelMode, default_dtype
from eqmol.ops.kernels import check_mode
from eqmol.ops.registry import ALGORITHMS
from eqmol.so3.layout import CONVENTION
from eqmol.tuning import AUTO, at_first_use, default_backend, operations, use_kernels

__all__ = ["build", "for_prediction", "load", "read_header", "save"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build(recipe: Mapping[str, Any]) -> Predictor:
    """The untrained model of a recipe, see :func:`eqmol.checkpoint.recipe.build`.

    With backend ``auto`` it has the algorithms of its family's default backend until it is tuned.
    """
    model = recipes.build(_portable(recipe))
    if _is_auto(recipe):
        model.recipe["backbone"]["backend"] = AUTO
    return model


def save(
    model: Predictor,
    path: str | os.PathLike[str],
    *,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file; an existing file is replaced only when the new one is complete.

    Args:
        model: its weights are written as they are, so average them first if averages are wanted; its ``sections`` go with them.
        path: ``.safetensors`` by custom.
        recipe: taken from ``model.recipe`` if not given; backend ``auto`` is written as the family's default.
        metrics: errors to remember with the model; non-finite numbers become null.

    Raises:
        InputError: non-finite weights, a model without a recipe, or a path that cannot be written.
    """
    recipe = model.recipe if recipe is None else recipe
    if not recipe:
        raise InputError("the model has no recipe; build it with eqmol.checkpoint.build or pass recipe=")
    _check_sections(model)
    if recipe.get("readout_heads") is not None:
        model.sections["heads"] = {"names": list(recipe["readout_heads"])}
    everything = model.state_dict() | model.aux
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in everything.items()}
    _check_finite(tensors, "the model")
    document = {
        "format": FORMAT,
        "eqmol": __version__,
        "recipe": _portable(recipe),
        "elements": list(model.elements),
        "units": UNITS,
        "convention": CONVENTION,
        "metrics": plain(metrics or {}),
        **model.sections,
    }
    document = json.loads(json.dumps(document, allow_nan=False))  # as it will be read
    text = json.dumps(document | {"digest": digest(document, tensors)})
    with replacing(path, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={"eqmol": text}))


def load(
    path: str | os.PathLike[str],
    backend: str | Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    verify: bool = True,
    kernels: str | None = None,
    head: str | None = None,
) -> Predictor:
    """Read a model file, ready to predict (evaluation mode). Runs nothing that the file contains.

    Args:
        path: what :func:`save` or a training run wrote.
        backend: algorithm of the tensor products; ``"auto"`` measures on the first batch which is fastest and keeps it for
            later ones of any size; None keeps the one it was trained with, or warns where that is not registered and takes the
            default of its family, which computes the same.
        device: ``"cpu"``, ``"cuda"``, ...
        dtype: ``"float32"`` or ``"float64"``; None keeps the stored one.
        verify: compare the algorithms with the reference on a small part of the first batch; a difference is a
            :class:`eqmol.errors.VerificationError`.
        kernels: whether tensor products are compiled for this machine, see :mod:`eqmol.ops.kernels`: ``"auto"`` where there is a
            compiler, ``"off"``, or ``"require"``; None as ``$EQMOL_KERNELS`` says, else ``"auto"``.
        head: of a model with several; the model that is returned has this one alone. None: all of them.

    Raises:
        InputError: not a model file, damaged, made by a newer eqmol, a recipe that cannot be built or does not fit the
            tensors, non-finite weights, a backend that cannot compute the model's family, or kernels that are required and
            cannot be made.
    """
    return _load(path, backend, device, dtype, verify, kernels, False, head, needed=False)


def _load(
    path: str | os.PathLike[str],
    backend: str | Mapping[str, str] | None,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    verify: bool,
    kernels: str | None,
    tables: bool,
    head: str | None,
    needed: bool,
) -> Predictor:
    check_verify(verify)
    file = ModelFile(path)
    header = file.header
    mode = None if kernels is None else check_mode(kernels)
    target, dtype = as_device(device), header.dtype if dtype is None else as_dtype(dtype)
    written = header.document["recipe"]
    recipe = _with_known_backend(written) if backend is None else _with_backend(written, backend)
    try:
        with torch.random.fork_rng(devices=[]):
            with _Unfilled(), default_dtype(header.dtype):
                skeleton = build(recipe)
            _compare(skeleton, header)
            tensors = file.tensors()
            _check_finite(tensors, "the file")
            weights: Mapping[str, Tensor] = {name: tensors[name] for name in header.shapes}
            chosen, weights = heads.choose(recipe, weights, head, needed)
            model = _filled(chosen, weights, target, dtype, verify, mode, tables)
            model.aux = {name: tensors[name].clone() for name in header.aux}
            model.sections = {name: header.document[name] for name in SECTIONS if name in header.document}
            _check_sections(model)
            _check_heads(recipe, model.sections)
            if chosen is not recipe:
                del model.sections["heads"]
            _add_dispersion(model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if backend is None and recipe != written:
        warnings.warn(
            f"{path}: the algorithm {written['backbone']['backend']!r:.80} is not registered here (eqmol.ops.register); "
            f"{recipe['backbone']['backend']!r:.80} computes the same",
            stacklevel=2,
        )
    return model


def for_prediction(
    path_or_model: str | os.PathLike[str] | Predictor,
    backend: str | Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    verify: bool = True,
    kernels: str | None = None,
    radial_table: str | None = None,
    head: str | None = None,
) -> Predictor:
    """A private, frozen copy of a model for prediction, from its file or from itself.

    Args:
        path_or_model, backend, device, dtype, verify, kernels: as in :func:`load`.
        head: of a model with several, which must be chosen.
        radial_table: ``"auto"`` lets a float32 model on the CPU read its radial weights from tables whose error in the forces of
            the first batch is below the rounding of the network, ``"off"`` evaluates the network; None as ``$EQMOL_RADIAL_TABLE``
            says, else ``"auto"``.

    Raises:
        InputError: as :func:`load`, and an unknown ``radial_table``.
    """
    tables = _may_tabulate(radial_table)
    check_verify(verify)
    if isinstance(path_or_model, Predictor):
        model = path_or_model
        recipe = model.recipe if backend is None else _with_backend(model.recipe, backend)
        tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        own = (operation.kernels for operation in operations(model).values())
        mode = next(own, None) if kernels is None else check_mode(kernels)
        with torch.random.fork_rng(devices=[]):
            target = model.dtype if dtype is None else as_dtype(dtype)
            chosen, weights = heads.choose(recipe, tensors, head, needed=True)
            model = _filled(chosen, weights, as_device(device), target, verify, mode, tables)
        model.sections, model.aux = copy.deepcopy(path_or_model.sections), dict(path_or_model.aux)
        if chosen is not recipe:
            model.sections.pop("heads", None)
        _add_dispersion(model)
    else:
        model = _load(path_or_model, backend, device, dtype, verify, kernels, tables, head, needed=True)
    return model.requires_grad_(False)


def plain(value: Any) -> Any:
    """``value`` fit for JSON: numbers of NumPy and torch as Python's, tuples as lists, non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """``"float32"`` or ``"float64"``, or the torch dtype itself.

    Raises:
        InputError: any other.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype {name!r} is unknown; choose float32 or float64")
    return DTYPES[name]


def check_verify(verify: object) -> None:
    """Refuse what is not a truth value; ``"off"`` would mean on."""
    if not isinstance(verify, bool):
        raise InputError(f"verify={verify!r:.80} must be True or False")


def as_device(device: str | torch.device) -> torch.device:
    """The torch device of a name.

    Raises:
        InputError: an unknown name, or a device that this machine does not have.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise InputError(f"device {str(device)!r:.80} is not available here; choose cpu, or cuda with a GPU") from None
    return found


def _filled(
    recipe: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    verify: bool,
    kernels: KernelMode | None,
    tables: bool,
) -> Predictor:
    with default_dtype(dtype):
        model = build(recipe)
    model.load_state_dict(dict(tensors))  # casts to the model's types
    use_kernels(model, kernels)
    at_first_use(model, _is_auto(recipe), verify, tables and dtype == torch.float32 and device.type == "cpu")
    return model.to(device).eval()


class _Unfilled(TorchFunctionMode):
    """Makes weights without values or memory; small tables have theirs.

    ``torch.device("meta")`` would do the same, but imports the compiler of torch for drawing random numbers.
    """

    FACTORIES = torch.randn, torch.rand, torch.ones, torch.zeros, torch.empty

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in self.FACTORIES and given.get("device") is None:
            return torch.empty(*args, **{**given, "device": "meta"})
        return func(*args, **given)


def _may_tabulate(radial_table: object) -> bool:
    name = "EQMOL_RADIAL_TABLE" if radial_table is None else "radial_table"
    value = (os.environ.get("EQMOL_RADIAL_TABLE") or "auto") if radial_table is None else radial_table
    if not isinstance(value, str) or value not in ("auto", "off"):
        raise InputError(f"{name}={value} is unknown; choose auto or off")
    return value == "auto"


def _is_auto(recipe: Mapping[str, Any]) -> bool:
    backbone = recipe.get("backbone")
    return isinstance(backbone, Mapping) and backbone.get("backend") == AUTO


def _portable(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe with a backend that runs anywhere in place of ``auto``."""
    return _with_backend(recipe, default_backend(recipe["backbone"].get("family"))) if _is_auto(recipe) else recipe


def _with_known_backend(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe with the default of its family in place of algorithms that are not registered in this process."""
    backbone = recipe.get("backbone")
    backend = backbone.get("backend") if isinstance(backbone, Mapping) else None
    if not isinstance(backbone, Mapping) or not isinstance(backend, str | Mapping):
        return recipe  # which cannot be built
    default = default_backend(backbone.get("family"))

    def known(name: Any) -> Any:
        return default if isinstance(name, str) and name not in (AUTO, *ALGORITHMS) else name

    if isinstance(backend, str):
        return _with_backend(recipe, known(backend))
    return _with_backend(recipe, {operation: known(name) for operation, name in backend.items()})


def _with_backend(recipe: Mapping[str, Any], backend: str | Mapping[str, str]) -> dict[str, Any]:
    backbone = recipe.get("backbone")
    if not isinstance(backbone, Mapping):
        raise InputError("recipe.backbone is missing")
    if not isinstance(backend, str | Mapping):
        raise InputError(f"backend={backend!r:.80} must be the name of an algorithm, or a name for each operation")
    return {**recipe, "backbone": {**backbone, "backend": backend if isinstance(backend, str) else dict(backend)}}


def _compare(skeleton: Predictor, header: Header) -> None:
    expected = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in skeleton.state_dict().items()}
    for name in sorted(expected.keys() | header.shapes.keys()):
        if name not in header.shapes:
            raise InputError(f"tensor {name!r}, which the recipe asks for, is not in the file")
        if name not in expected:
            raise InputError(f"tensor {name!r} has no place in the model of the recipe")
        if expected[name] != header.shapes[name]:
            (dtype, shape), (found_dtype, found_shape) = expected[name], header.shapes[name]
            raise InputError(
                f"tensor {name!r} is {found_dtype} {list(found_shape)}, but the recipe makes it {dtype} {list(shape)}"
            )


def _check_sections(model: Predictor) -> None:
    """Refuse sections that are no small, plain JSON, tensors that belong to none, and values that make no sense."""
    sections, aux = model.sections, model.aux
    for name, section in sections.items():
        if name not in SECTIONS:
            raise InputError(f"a model file has no section {name[:80]!r}; it may have {', '.join(SECTIONS)}")
        recipes.check_plain(section, name)
    ElectronicState.read(sections.get("domain", {}))
    Dispersion.read(sections.get("dispersion"))
    for label, key in sections.get("labels", {}).items():
        if not isinstance(key, str):
            raise InputError(f"labels.{label:.80}={key!r:.80} must be the name of a label in the training files")
    for name in aux:
        if not name.startswith(tuple(f"{AUX}{section}." for section in sections)):
            raise InputError(f"tensor {name[:80]!r} belongs to no section of the model")
    if SHORTEST in aux:
        check_shortest(aux[SHORTEST], len(model.elements))
        check_integer("domain.structures", sections["domain"].get("structures"), 0, 2**53)
    Posterior.read(model)


def _check_heads(recipe: Mapping[str, Any], sections: Mapping[str, Any]) -> None:
    """Refuse names of heads that are not those of the recipe."""
    names = sections.get("heads", {}).get("names")
    if names != recipe.get("readout_heads"):
        raise InputError(f"the section heads names {names!r:.80}, the recipe {recipe.get('readout_heads')!r:.80}")


def _add_dispersion(model: Predictor) -> None:
    """Let a model predict with the dispersion that its labels were lessened by.

    Raises:
        InputError: it is no potential, or s-dftd3 is missing.
    """
    model.dispersion = model.trained_without
    if model.dispersion is None:
        return
    if not isinstance(model, Potential):
        raise InputError("a section dispersion belongs to a potential, and this model predicts properties")
    library()


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"tensor {name!r} of {where} holds NaN or infinity; such a model predicts nothing")

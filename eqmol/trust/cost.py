"""What a prediction costs on this machine by each algorithm that can run a model, and whether they agree."""

from collections.abc import Iterator, Mapping
from typing import Any

import ase
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eqmol.checkpoint import for_prediction
from eqmol.errors import InputError
from eqmol.models import Potential
from eqmol.ops.registry import ALGORITHMS, can_run
from eqmol.trust.laws import difference
from eqmol.trust.report import Line, Rows, judge
from eqmol.trust.subject import Evaluate, Subject, evaluation, seconds
from eqmol.tuning.cache import hardware

#: The algorithm that a file names, among the others.
OWN = "as the file says"


def backends(subject: Subject, atoms: ase.Atoms, tables: list[Rows]) -> Iterator[Line]:
    """Time and memory of energy and forces of one structure by each backend, and how much their results differ.

    Args:
        subject: a potential whose recipe chooses a backend, or there is nothing to compare.
        atoms: the structure.
        tables: gets one more.
    """
    models = _models(subject)
    if not models:
        return
    used: dict[str, Evaluate] = {name: evaluation(model) for name, model in models.items()}
    results = {name: evaluate([atoms])[0] for name, evaluate in used.items()}  # what is compiled is compiled here
    times = seconds(list(used.values()), atoms)
    rows: list[tuple[str, ...]] = []
    for (name, evaluate), time in zip(used.items(), times, strict=True):
        with PeakMemory(models[name]) as memory:
            evaluate([atoms])
        mebibytes = memory.peak / 2**20
        rows.append((name, f"{1e3 * time:.3g}", f"{1e6 * time / len(atoms):.3g}", f"{mebibytes:.3g}"))
    header = ("backend", "time / ms", "time per atom / µs", "tensors at once / MiB")
    kind = str(next(iter(models.values())).dtype).removeprefix("torch.")
    title = f"Energy and forces of {len(atoms)} atoms, {kind}, CPU time on {hardware(torch.device('cpu'))}"
    tables.append(Rows(title, header, rows))
    reference = next(iter(results.values()))
    errors = {name: difference(reference, result) for name, result in results.items()}
    worst = max(errors, key=lambda name: errors[name])
    words = f"{', '.join(results)}" + (f"; largest for {worst}" if errors[worst] > 0 else "")
    yield judge(f"backends, {kind}", errors[worst], subject.kinds, words)


def _models(subject: Subject) -> dict[str, Potential]:
    """The model by each backend that can run it, its own first."""
    model = subject.native if subject.potential is not None else None
    backbone: Mapping[str, Any] = {} if model is None else model.recipe.get("backbone", {})
    if model is None or "backend" not in backbone or "family" not in backbone:
        return {}
    own, family = backbone["backend"], backbone["family"]
    families = {family} if isinstance(family, str) else set(family.values())
    names = [own] if own in ALGORITHMS else [OWN]
    names += [name for name in ALGORITHMS if name != own and all(can_run(name, each) for each in families)]
    found = {}
    for name in names:
        try:
            made = for_prediction(model, backend=None if name == OWN else name)
        except InputError:  # no algorithm for an operation of the model
            continue
        assert isinstance(made, Potential)
        found[name] = made
    return found


class PeakMemory(TorchDispatchMode):
    """How many bytes of tensors there are at once, at most, besides what a model holds.

    Tensors are counted as PyTorch makes them; what compiled operations use for themselves while they run is not.

    Args:
        model: whose parameters and buffers do not count.

    Attributes:
        peak: bytes.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self._held = {storage._cdata for storage in self._storages}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what it made."""
        result = func(*args, **(kwargs or {}))
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._held:
                    self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result

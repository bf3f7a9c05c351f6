"""Relaxations from files to a file, which go on after any end of the process.

A folder beside the output holds records of finished structures (and, where wanted, of every step) in the order in which they
came, and a state: how much of these files counts, and the structures on their way with all that their optimisers remember. The
state is replaced as a whole; what was written after it is cut off when the work goes on, and done again. The output is written
once, when all is done.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import IO, Any

import ase
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eqmol.errors import InputError, reason_of, short
from eqmol.files import replacing, to_disk
from eqmol.graph.electronic import StateGuard
from eqmol.inference.extxyz import write_frame
from eqmol.inference.relax import Relaxation, Relaxer, Settings, Start
from eqmol.inference.structures import attach
from eqmol.models import Potential

STATE = "state.safetensors"
SAVE_SECONDS = 30.0  #: between two states; what an end of the process costs at most


def progress_folder(output: Path) -> Path:
    """Return where the work towards an output is kept until it is done."""
    return output.with_name(f"{output.name}.progress")


def relax_files(
    model: Potential,
    starts: Iterable[Start],
    output: Path,
    settings: Settings,
    *,
    trajectory: Path | None = None,
    options: Mapping[str, Any] | None = None,
    close_contacts: str = "stop",
    electronic_state: str = "stop",
    tell: Callable[[Relaxer, int, bool], None] = lambda relaxer, finished, saved: None,
) -> None:
    """Relax structures; continue where an earlier call with the same output was.

    Each structure is written as it came, at its last positions, with ``eqmol_energy`` (eV), ``eqmol_forces`` (eV/Å),
    ``eqmol_converged``, ``eqmol_steps``, ``eqmol_fmax`` (eV/Å, the largest force on a movable atom) and ``eqmol_source``, or with
    ``eqmol_problem`` where it could not be computed.

    Args:
        model: in evaluation mode.
        starts: structures with their sources; the same at every call.
        output: extended XYZ, in the order of the input; replaced only when all is done.
        settings: how to relax.
        trajectory: extended XYZ of every step of one structure after the other, with ``eqmol_step``.
        options: what else the results depend on, for continuing with the same alone; values of JSON.
        close_contacts, electronic_state: see :class:`eqmol.Calculator`.
        tell: is called after every step of all structures with the number of finished ones, and whether a state was kept.

    Raises:
        InputError: the work was begun with other options, its state is damaged, or what ``starts`` raise.
    """
    with ExitStack() as stack:
        targets = [stack.enter_context(replacing(path, "wb")) for path in (output, trajectory) if path is not None]
        folder = progress_folder(output)
        folder.mkdir(exist_ok=True)
        known = {**asdict(settings), "trajectory": trajectory is not None, **(options or {})}
        del known["batch_size"]  # which may be smaller where memory was too little
        state = _State(folder / STATE, known)
        finished = stack.enter_context(Records(folder / "finished.xyz", state.array("finished")))
        steps: Records | None = None
        if trajectory is not None:
            steps = stack.enter_context(Records(folder / "steps.xyz", state.array("steps")))
        relaxer = Relaxer(model, settings, close_contacts, StateGuard(model.electronic_state, electronic_state))
        rest = iter(starts)
        state.restore(relaxer, rest)
        saved = time.monotonic()
        while relaxer.fill(rest):
            relaxer.evaluate()
            for one in relaxer.active:
                if steps is not None and not one.problem:
                    steps.add(one.number, one.steps, _now(one, model, {"step": one.steps}))
            for one in relaxer.advance():
                finished.add(one.number, one.steps, _now(one, model, _outcome(one, settings)))
            if keep := time.monotonic() - saved >= SAVE_SECONDS:
                state.keep(relaxer, finished, steps)
                saved = time.monotonic()
            tell(relaxer, len(finished), keep)
        for records, target in zip((finished, steps), targets, strict=False):
            assert records is not None
            records.copy(target)
        to_disk(*targets)
    shutil.rmtree(folder, ignore_errors=True)  # a lock in it may be open


class Records:
    """Frames in a file of their own, in the order in which they come; a context manager.

    Args:
        path: extended XYZ.
        index: [R, 4] structure, step, first byte, and byte after the last of each record that counts; the file is cut off there.
    """

    def __init__(self, path: Path, index: NDArray[np.int64]) -> None:
        self._rows: list[tuple[int, ...]] = [tuple(map(int, row)) for row in index]
        self._end = self._rows[-1][3] if self._rows else 0
        self._file = open(path, "r+b" if self._rows else "w+b")  # noqa: SIM115 (closed by __exit__)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, number: int, step: int, atoms: ase.Atoms) -> None:
        """Add a frame."""
        text = StringIO()
        write_frame(text, atoms)
        content = text.getvalue().encode()
        self._file.write(content)
        self._rows.append((number, step, self._end, self._end + len(content)))
        self._end += len(content)

    def index(self) -> NDArray[np.int64]:
        """Return where the records are [R, 4], after all of them are on the disk."""
        to_disk(self._file)
        return np.array(self._rows, np.int64).reshape(-1, 4)

    def copy(self, target: IO[bytes]) -> None:
        """Write all frames in the order of structures and steps."""
        for _, _, begin, end in sorted(self._rows):
            self._file.seek(begin)
            target.write(self._file.read(end - begin))


class _State:
    """What an earlier process has kept, or nothing.

    Args:
        path: of the file.
        options: those of now.

    Raises:
        InputError: they are others than those of the beginning, or the file is damaged.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self._path, self._options = path, dict(options)
        self._arrays: dict[str, NDArray[Any]] = {}
        self._document: dict[str, Any] = {"begun": 0, "active": []}
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="np") as file:
                self._document = json.loads(file.metadata()["eqmol"])
                self._arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            before = self._document["options"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({reason_of(error)}); remove the folder {path.parent} to begin anew"
            ) from None
        now = json.loads(json.dumps(options))
        for name in {**now, **before}:
            if now.get(name) != before.get(name):
                raise InputError(
                    f"{path.parent} was begun with {name}={short(before.get(name))} and cannot go on with "
                    f"{short(now.get(name))}; give the same, or remove the folder to begin anew"
                )

    def array(self, name: str) -> NDArray[np.int64]:
        """Return the index of records, see :class:`Records`."""
        return self._arrays.get(name, np.zeros((0, 4), np.int64))

    def restore(self, relaxer: Relaxer, starts: Iterator[Start]) -> None:
        """Pass over the structures that were begun, and go on with those that are on their way."""
        going = {entry["number"]: (place, entry) for place, entry in enumerate(self._document["active"])}
        for number in range(self._document["begun"]):
            atoms, source = next(starts)
            one = relaxer.begin(atoms, source)
            if number in going:
                place, entry = going[number]
                mark = f"{place}."
                kept = {name.removeprefix(mark): a for name, a in self._arrays.items() if name.startswith(mark)}
                atoms.positions = kept.pop("now")
                one.optimizer.restore(kept)
                one.steps = entry["steps"]
                relaxer.active.append(one)

    def keep(self, relaxer: Relaxer, finished: Records, steps: Records | None) -> None:
        """Replace the state by that between two steps."""
        arrays = {"finished": finished.index()} | ({} if steps is None else {"steps": steps.index()})
        for place, one in enumerate(relaxer.active):
            values = {"now": one.atoms.positions, **one.optimizer.state()}
            arrays |= {f"{place}.{name}": np.ascontiguousarray(value) for name, value in values.items()}
        active = [{"number": one.number, "steps": one.steps} for one in relaxer.active]
        document = {"options": self._options, "begun": relaxer.begun, "active": active}
        with replacing(self._path, "wb") as file:
            file.write(save(arrays, {"eqmol": json.dumps(document)}))


def _now(one: Relaxation, model: Potential, further: Mapping[str, Any]) -> ase.Atoms:
    """Return a structure at its present positions with what the model says, unless that failed, and more."""
    atoms = one.atoms.copy()
    attach(atoms, {**({} if one.problem else one.result), **further, "source": one.source}, model)
    return atoms


def _outcome(one: Relaxation, settings: Settings) -> dict[str, Any]:
    """Return how a relaxation ended."""
    outcome: dict[str, Any] = {"converged": one.converged(settings.fmax), "steps": one.steps}
    return outcome | ({"problem": one.problem} if one.problem else {"fmax": one.largest})

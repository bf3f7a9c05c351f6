"""The output folder: all of one run lies there, and nothing of two runs."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from eqmol.errors import InputError
from eqmol.files import clear_temporaries, replacing
from eqmol.train import resume
from eqmol.train.export import best_of
from eqmol.train.lock import FolderLock
from eqmol.train.log import read_rows

MODEL = "model.safetensors"  #: the best model by validation
LAST = "last.ckpt"  #: continues the run
CONFIG = "config.yaml"  #: the complete configuration, statistics included
LOG = "log.csv"  #: one row per epoch
METRICS = "metrics.json"  #: final errors
PARITY_DATA = "parity.npz"  #: what parity.png shows
PARITY = "parity.png"
CALIBRATION_DATA = "calibration.npz"  #: what calibration.png shows
CALIBRATION = "calibration.png"
LEARNING_CURVE = "learning_curve.png"
TENSORBOARD = "tensorboard"
SHORT_WAIT = 10.0  #: seconds to wait for another run that reads the same checkpoint
FILES = (
    MODEL,
    LAST,
    CONFIG,
    LOG,
    METRICS,
    PARITY_DATA,
    PARITY,
    CALIBRATION_DATA,
    CALIBRATION,
    LEARNING_CURVE,
    TENSORBOARD,
)

#: What a resumed run may change: where it writes, how long it goes on, what it shows, how batches are fetched.
CHANGEABLE = (
    "output_dir",
    "resume",
    "logger",
    "verify",
    "data.num_workers",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.checkpoint_minutes",
)


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and the checkpoint from which it continues, if any.

    Args:
        path: the folder; exists and can be written.
        checkpoint: the last.ckpt to continue from.
        state: its contents.
        created: the folders made for it, innermost first.
        carried: files of the folder of the checkpoint, by name, where the run continues in another one.
        lock: held until the run ends; other processes of the run have none.
    """

    path: Path
    checkpoint: Path | None = None
    state: dict[str, Any] | None = None
    created: tuple[Path, ...] = ()
    carried: dict[str, bytes] = field(default_factory=dict)
    lock: FolderLock | None = None

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the run that is continued."""
        return None if self.state is None else self.state["eqmol"]["config"]

    def check(self, config: dict[str, Any]) -> None:
        """Refuse a configuration that is not the one of what the folder holds.

        Raises:
            InputError: it differs from the checkpoint's, or the folder has a model that this run would overwrite.
        """
        if self.config is not None:
            check_unchanged(config, self.config)
        elif (self.path / MODEL).exists():  # of a run that was killed before its first checkpoint
            best_of(self.path / MODEL, run_name(config))

    def begin(self, config: DictConfig) -> None:
        """Write the configuration; a run that continues elsewhere takes its log and its best model along."""
        for name in FILES:  # of a killed run, on whatever machine; the lock says that it does not live
            clear_temporaries(self.path / name, of_others=True)
        with replacing(self.path / CONFIG) as file:
            file.write(OmegaConf.to_yaml(config, resolve=True))
        for name, content in self.carried.items():
            with replacing(self.path / name, "wb") as file:
                file.write(content)

    def __getstate__(self) -> dict[str, Any]:
        """Return what the other processes get: the first one alone holds the lock and cleans up."""
        return self.__dict__ | {"lock": None, "created": (), "carried": {}}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the folder to others; remove the folders that were made for a run that never began."""
        if self.lock is not None:
            self.lock.release()
        _remove_empty(self.created)


def open_folder(output_dir: str | None, resume_from: str | None) -> RunFolder:
    """Find or make the folder of a run and lock it, before any work is done.

    Args:
        output_dir: the folder; None for outputs/<date>/<time>, or the checkpoint's own.
        resume_from: None for a new run, "auto" for the folder's last.ckpt if there is one, or a last.ckpt or a folder
            with one.

    Raises:
        InputError: it cannot be written, another process writes there or in the folder of the checkpoint, it holds a run
            that is not to be continued, or there is no such checkpoint, or what lies beside it is not of the same run.
    """
    if resume_from == "auto" and output_dir is None:
        raise InputError("resume=auto needs the folder of the run: give output_dir=DIR")
    given: Path | None = None
    if resume_from not in (None, "auto"):
        assert resume_from is not None
        given = Path(resume_from) / LAST if Path(resume_from).is_dir() else Path(resume_from)
        if not given.exists():
            raise InputError(f"there is no checkpoint {given}; resume=auto starts anew when there is none")
    if output_dir is not None:
        path = Path(output_dir)
    elif given is not None:
        path = given.parent
    else:
        path = Path("outputs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    created = tuple(folder for folder in (path, *path.parents) if not folder.exists())
    with ExitStack() as undo:
        undo.callback(_remove_empty, created)
        lock = _lock(path)
        undo.callback(lock.release)
        checkpoint = given
        if resume_from == "auto" and (path / LAST).exists():
            checkpoint = path / LAST
        present = [name for name in FILES if (path / name).exists()]
        elsewhere = checkpoint is not None and checkpoint.parent.resolve() != path.resolve()
        if present and (resume_from is None or elsewhere):
            raise InputError(
                f"output_dir={path} already holds a run ({', '.join(present)}); "
                "give another folder, or resume=auto to continue that run"
            )
        if checkpoint is None and METRICS in present:
            raise InputError(f"output_dir={path} holds a finished run without {LAST}, so it cannot be resumed")
        state: dict[str, Any] | None = None
        carried: dict[str, bytes] = {}
        if checkpoint is not None and elsewhere:
            with _reading(checkpoint.parent):
                state = _load_run(checkpoint)
                files = [name for name in (MODEL, LOG) if (checkpoint.parent / name).exists()]
                carried = {name: (checkpoint.parent / name).read_bytes() for name in files}
        elif checkpoint is not None:
            state = _load_run(checkpoint)
        undo.pop_all()
    return RunFolder(path, checkpoint, state, created, carried, lock)


def _lock(path: Path) -> FolderLock:
    """Make a folder, lock it and try to write there; ``os.access`` does not tell for root or for network drives."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path, f"output_dir={path}")
        try:
            probe = path / f".write_test.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError:
            lock.release()
            raise
    except OSError as error:
        raise InputError(f"cannot write to output_dir={path}: {error.strerror}; give another folder") from None
    return lock


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Keep other runs from writing in a folder while it is read, unless this process cannot write there itself."""
    try:
        lock = FolderLock(path, f"the folder {path} of the checkpoint", SHORT_WAIT)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _load_run(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint, and check that the model and the log beside it are of the same run."""
    state = resume.load(checkpoint)
    if (checkpoint.parent / MODEL).exists():
        best_of(checkpoint.parent / MODEL, state["eqmol"]["run"])
    if (checkpoint.parent / LOG).exists():
        read_rows(checkpoint.parent / LOG)
    return state


def _remove_empty(folders: tuple[Path, ...]) -> None:
    """Remove folders, innermost first, as far as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # not empty, or gone
            return


def run_name(config: dict[str, Any]) -> str:
    """Return what tells a run from others, also when it is repeated: a digest of all settings that a resumed run keeps."""
    kept = {key: value for key, value in _flat(config).items() if not _is_changeable(key)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_unchanged(config: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Compare the configuration of a run with the one it continues.

    Raises:
        InputError: a difference that would make it another run; names the first ones.
    """
    new, old = _flat(config), _flat(earlier)
    different = [key for key in sorted({*new, *old}) if new.get(key) != old.get(key) and not _is_changeable(key)]
    if different:
        named = ", ".join(f"{key}={_show(new.get(key))} (was {_show(old.get(key))})" for key in different[:4])
        more = f" and {len(different) - 4} more" if len(different) > 4 else ""
        raise InputError(
            f"cannot resume with a changed configuration: {named}{more}; "
            "repeat the options of the first command, or start a new run in another output_dir"
        )


def _is_changeable(key: str) -> bool:
    """Return whether a resumed run may have another value."""
    return any(key == free or key.startswith(f"{free}.") for free in CHANGEABLE)


def _show(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return "null" if value is None else str(value)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": value} of nested mappings; lists are values."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }

"""The output folder: all of one run lies there, and nothing of two runs."""

import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.train import resume

MODEL = "model.safetensors"  #: the best model by validation
LAST = "last.ckpt"  #: continues the run
CONFIG = "config.yaml"  #: the complete configuration, statistics included
LOG = "log.csv"  #: one row per epoch
METRICS = "metrics.json"  #: final errors
PARITY_DATA = "parity.npz"  #: what parity.png shows
PARITY = "parity.png"
LEARNING_CURVE = "learning_curve.png"
TENSORBOARD = "tensorboard"
FILES = (MODEL, LAST, CONFIG, LOG, METRICS, PARITY_DATA, PARITY, LEARNING_CURVE, TENSORBOARD)

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
    """

    path: Path
    checkpoint: Path | None = None
    state: dict[str, Any] | None = None
    created: tuple[Path, ...] = ()

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the run that is continued."""
        return None if self.state is None else self.state["eqmol"]["config"]

    def begin(self, config: DictConfig) -> None:
        """Write the configuration; a run that continues elsewhere takes its log and its best model along."""
        with replacing(self.path / CONFIG) as file:
            file.write(OmegaConf.to_yaml(config, resolve=True))
        if self.checkpoint is not None and self.checkpoint.parent.resolve() != self.path.resolve():
            for name in (MODEL, LOG):
                if (self.checkpoint.parent / name).exists():
                    shutil.copy2(self.checkpoint.parent / name, self.path / name)
        for leftover in self.path.glob(".*.tmp"):  # of a killed session
            leftover.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the folders that were made for a run that never began."""
        for made in self.created:
            try:
                made.rmdir()
            except OSError:  # not empty, or gone
                return


def open_folder(output_dir: str | None, resume_from: str | None) -> RunFolder:
    """Find or make the folder of a run, before any work is done.

    Args:
        output_dir: the folder; None for outputs/<date>/<time>, or the checkpoint's own.
        resume_from: None for a new run, "auto" for the folder's last.ckpt if there is one, or a last.ckpt or a folder
            with one.

    Raises:
        InputError: it cannot be written, it holds a run that is not to be continued, or there is no such checkpoint.
    """
    if resume_from == "auto" and output_dir is None:
        raise InputError("resume=auto needs the folder of the run: give output_dir=DIR")
    checkpoint: Path | None = None
    if resume_from == "auto":
        assert output_dir is not None
        checkpoint = Path(output_dir) / LAST if (Path(output_dir) / LAST).exists() else None
    elif resume_from is not None:
        checkpoint = Path(resume_from) / LAST if Path(resume_from).is_dir() else Path(resume_from)
    state = None if checkpoint is None else resume.load(checkpoint)
    if output_dir is not None:
        path = Path(output_dir)
    elif checkpoint is not None:
        path = checkpoint.parent
    else:
        path = Path("outputs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    present = [name for name in FILES if (path / name).exists()]
    elsewhere = checkpoint is not None and checkpoint.parent.resolve() != path.resolve()
    if present and (resume_from is None or elsewhere):
        raise InputError(
            f"output_dir={path} already holds a run ({', '.join(present)}); "
            "give another folder, or resume=auto to continue that run"
        )
    if checkpoint is None and METRICS in present:
        raise InputError(f"output_dir={path} holds a finished run without {LAST}, so it cannot be resumed")
    return RunFolder(path, checkpoint, state, _make_writable(path))


def _make_writable(path: Path) -> tuple[Path, ...]:
    """Make a folder and try to write there; ``os.access`` does not tell for root or for network drives.

    Returns:
        The folders that were made, innermost first.
    """
    probe = path / f".write_test.{os.getpid()}"
    created = tuple(folder for folder in (path, *path.parents) if not folder.exists())
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to output_dir={path}: {error.strerror}; give another folder") from None
    return created


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

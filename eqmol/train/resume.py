"""``last.ckpt``: everything that continues a run as if it had never stopped.

Lightning's checkpoint (averaged and raw weights, optimiser, loops, the loader's cursor, early stopping) plus the
schedule, the random states, the clock, the best score, the algorithms, their compiled code and the configuration. It holds
plain values and tensors only, so it is loaded with ``weights_only=True``. The SHA-256 of all other bytes ends the file, as
the comment of its zip archive; :func:`torch.load` reads it all the same.
"""

import io
import os
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import nn

from eqmol import tuning
from eqmol.data.loader import ResumableLoader
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.models.predictor import Predictor
from eqmol.ops import kernels
from eqmol.train import processes
from eqmol.train.deadline import Deadline
from eqmol.train.stop import Clock, Interrupt
from eqmol.train.task import Task

FORMAT = 8
#: What the restored parts of a checkpoint are; what they hold is checked by whoever takes them over.
PARTS: dict[str, type] = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "schedule": dict,
    "averages": list,
    "loader": dict,
    "eqmol": dict,
}
OWN_PARTS: dict[str, type] = {"format": int, "config": dict, "algorithms": dict, "kernels": dict, "run": str}
SEAL = b"eqmol sha256 "  #: followed by the digest in hexadecimal digits
SEAL_BYTES = len(SEAL) + 2 * sha256().digest_size


@dataclass(eq=False)
class LastCheckpoint(Callback):
    """Write ``last.ckpt`` at the end of every epoch, every so many minutes, and when the run stops inside an epoch.

    Must be the last callback: what the others do at the end of an epoch belongs into the checkpoint.

    Args:
        path: where.
        config: the resolved configuration.
        run: the run's name, which its model file has too.
        clock: started here.
        interrupt: asked after every batch.
        deadline: asked after every batch.
        minutes: time between two checkpoints inside an epoch, or None for none.
        held: raises when the folder is another process's by now.
    """

    path: Path
    config: dict[str, Any]
    run: str
    clock: Clock
    interrupt: Interrupt
    deadline: Deadline
    minutes: float | None = None
    held: Callable[[], None] | None = None
    began: bool = field(default=False, init=False)  # the training, with everything restored
    _saved_at: float = field(default=0.0, init=False)  # training time
    _inside_epoch: bool = field(default=False, init=False)
    _stopped_early: bool = field(default=False, init=False)
    _random: list[dict[str, Any]] | None = field(default=None, init=False)
    _loader: dict[str, Any] | None = field(default=None, init=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; a run that is complete already does not go on."""
        if self._loader is not None and not self._inside_epoch:
            # Lightning restores the loader of an unfinished epoch only, and so would begin with the first epoch's order
            _loader(trainer).load_state_dict(self._loader)
        if self._random is not None and self._inside_epoch:
            # Opening the loader drew from the generators; inside an epoch the uninterrupted run did not draw again.
            set_random_state(self._random[processes.rank()])
        self.interrupt.listen()
        self.clock.start()
        self._saved_at, _ = self._look()
        self.deadline.begin()
        trainer.should_stop |= self._stopped_early or self._saved_at >= self.deadline.until
        self.began = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to time the epoch."""
        self.clock.begin_lap()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.clock.stop()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stop or save between two batches; after the last batch the end of the epoch will do it."""
        elapsed, interrupted = self._look()
        stop = elapsed >= self.deadline.until
        if stop or (trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs):
            trainer.check_val_every_n_epoch = 1  # no run ends with weights that were never validated
        if trainer.is_last_batch:
            return
        is_due = self.minutes is not None and elapsed - self._saved_at >= 60.0 * self.minutes
        if stop or interrupted or is_due:
            self._inside_epoch = True
            self._save(trainer)
        if interrupted:
            self.interrupt.check()
        trainer.should_stop |= stop  # Lightning validates once more, then ends

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; an epoch that the clock cut off keeps the checkpoint of its last batch."""
        if not trainer.is_last_batch:
            if not trainer.should_stop:
                raise RuntimeError(f"epoch {trainer.current_epoch + 1} ended before its last batch for no known reason")
            return
        self._inside_epoch = False
        self._stopped_early = trainer.should_stop
        elapsed, interrupted = self._look()
        self._save(trainer)
        if interrupted:
            self.interrupt.check()
        trainer.should_stop |= elapsed >= self.deadline.until

    def state_dict(self) -> dict[str, Any]:
        """Return clock and random states."""
        return {
            "clock": self.clock.state_dict(),
            "random": processes.gather(random_state()),
            "inside_epoch": self._inside_epoch,
            "stopped_early": self._stopped_early,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.clock.load_state_dict(state_dict["clock"])
        self._inside_epoch, self._stopped_early = state_dict["inside_epoch"], state_dict["stopped_early"]
        if not isinstance(self._inside_epoch, bool) or not isinstance(self._stopped_early, bool):
            raise TypeError("inside_epoch and stopped_early must be true or false")
        self._random = state_dict["random"]
        set_random_state(state_dict["random"][processes.rank()])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration, the algorithms, the identity of their compiled code and the loader's cursor."""
        assert isinstance(pl_module, Task)
        checkpoint["eqmol"] = {
            "format": FORMAT,
            "config": self.config,
            "algorithms": algorithms(pl_module.predictor),
            "kernels": compiled_code(pl_module.predictor),
            "run": self.run,
        }
        checkpoint["loader"] = _loader(trainer).state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the loader's cursor until there is a loader; Lightning ignores callbacks whose state is missing."""
        stateful = (c.state_key for c in trainer.callbacks if type(c).state_dict is not Callback.state_dict)  # type: ignore[attr-defined]
        for name in stateful:
            if not isinstance(checkpoint["callbacks"].get(name), dict):
                raise TypeError(f"the state of {name} is missing")
        self._loader = checkpoint["loader"]

    def _look(self) -> tuple[float, bool]:
        """Return the training time and whether a stop was requested, the same in all processes."""
        if self.held is not None:
            self.held()
        self.clock.seen, signum = processes.highest(self.clock.elapsed(), self.interrupt.requested or 0)
        if signum > 0:
            self.interrupt.requested = int(signum)
        return self.clock.seen, signum > 0

    def finish(self) -> None:
        """Add what followed the training to the time in the checkpoint."""
        if self.path.exists():
            state = load(self.path)
            saved = state["callbacks"][self.state_key]["clock"]
            saved["besides"] = self.clock.elapsed() + self.clock.besides() - saved["elapsed"]
            write(state, self.path)

    def _save(self, trainer: pl.Trainer) -> None:
        """Replace the checkpoint; it is that of all processes, written by the first."""
        self._saved_at = self.clock.seen
        trainer.save_checkpoint(self.path)


def _loader(trainer: pl.Trainer) -> ResumableLoader:
    """Return the loader of training batches."""
    loader = trainer.train_dataloader
    assert isinstance(loader, ResumableLoader)
    return loader


def algorithms(model: nn.Module) -> dict[str, str]:
    """Return the algorithm of every operation of a model."""
    return {name: tuning.backend_of(operation) for name, operation in tuning.operations(model).items()}


def compiled_code(model: Predictor) -> dict[str, str]:
    """Return what identifies the compiled code of a model that is trained, see :func:`eqmol.ops.kernels.identity`."""
    device = next(model.parameters()).device
    return kernels.identity(tuning.operations(model).values(), device, model.dtype)


def compare_compiled_code(path: Path, saved: Mapping[str, str], model: Predictor) -> str | None:
    """Return what to say where a run continues with other compiled code, which rounds differently.

    Args:
        path: of the checkpoint.
        saved: its ``kernels``.
        model: that continues.

    Raises:
        InputError: it is other code, and kernels are required.
    """
    found = compiled_code(model)
    if found == saved:
        return None
    if saved and found:
        different = [name for name in ("compiler", "flags", "processor") if found[name] != saved.get(name)]
        change = f"by tensor products compiled otherwise ({', '.join(different) or 'by another version of eqmol'})"
    else:
        change = f"{'with' if saved else 'without'} compiled tensor products, unlike this run"
    if any(kernels.mode(operation) == "require" for operation in tuning.operations(model).values()):
        raise InputError(
            f"{path} was trained {change}, and EQMOL_KERNELS=require refuses to continue it; EQMOL_KERNELS=auto continues with "
            "other rounding"
        )
    return f"{path} was trained {change}: results differ by rounding from those of an uninterrupted run"


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        InputError: not there, damaged, or not a checkpoint of this program.
    """
    try:
        content = path.read_bytes()
        _check_seal(content)
        _check_members(content)
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}; resume=auto starts anew when there is none") from None
    except Exception as error:  # torch raises half a dozen kinds for a file that is none
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}); give another one") from None
    wrong = _wrong_part(checkpoint)
    if wrong is not None:
        raise InputError(f"{path} is not a last.ckpt of this version of eqmol ({wrong}); start the run anew with it")
    return checkpoint


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Replace a checkpoint in one step.

    Raises:
        InputError: the disk is full.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with replacing(path, "wb") as file:
        file.write(seal(content.getvalue()))


def seal(archive: bytes) -> bytes:
    """Return what :func:`torch.save` wrote, followed by its SHA-256."""
    if not archive.endswith(b"\0\0"):
        raise ValueError("this is no zip archive without a comment")
    content = archive[:-2] + struct.pack("<H", SEAL_BYTES)  # the length of the comment is the last field of the archive
    return content + SEAL + sha256(content).hexdigest().encode()


def _check_seal(content: bytes) -> None:
    """Compare the content of a file with its SHA-256."""
    body, found = content[:-SEAL_BYTES], content[-SEAL_BYTES:]
    if not found.startswith(SEAL):
        raise ValueError("it does not end with the checksum that eqmol writes, so it is truncated or not from eqmol")
    if found != SEAL + sha256(body).hexdigest().encode():
        raise ValueError("its checksum does not fit its content, so it is damaged")


def _check_members(content: bytes) -> None:
    """Refuse an archive that unpacks to more than its own size; torch stores everything as it is."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its members are compressed")
    if sum(member.file_size for member in members) > len(content):
        raise ValueError("its members are larger than the file")


def _wrong_part(checkpoint: Any) -> str | None:
    """Return what makes loaded content no checkpoint of this program, or None."""
    if not isinstance(checkpoint, dict):
        return f"it holds a {type(checkpoint).__name__}"
    own = checkpoint.get("eqmol")
    if isinstance(own, dict) and own.get("format") != FORMAT:
        return f"its format is {own.get('format')}, not {FORMAT}"
    for parts, holder in ((PARTS, checkpoint), (OWN_PARTS, own)):
        for name, kind in parts.items():
            value = holder.get(name) if isinstance(holder, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                return f"{name!r} is missing or of another type"
    statistics = own["config"].get("statistics")  # type: ignore[index]
    return None if isinstance(statistics, dict) else "the statistics are missing"


class CheckpointFile(TorchCheckpointIO):
    """Hands Lightning the checkpoint that was read and checked already, and writes checkpoints where they belong at once.

    Lightning's own way goes through a file in the folder for temporary files, which may be full, and leaves it there when it is
    interrupted.

    Args:
        state: what :func:`load` returned, or None for a new run.
    """

    def __init__(self, state: dict[str, Any] | None):
        self.state = state

    def load_checkpoint(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return it, whatever lies at the path by now."""
        assert self.state is not None
        return dict(self.state)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], *_: Any, **__: Any) -> None:
        """Write a checkpoint."""
        write(checkpoint, Path(path))


def random_state() -> dict[str, Any]:
    """Return the states of all random number generators, as tensors and plain values."""
    name, words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, python_words, python_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(words).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(python_words), python_gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, python_words, python_gauss = state["python"]
    random.setstate((version, tuple(python_words), python_gauss))

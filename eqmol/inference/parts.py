"""Structures shared out among processes or the jobs of an array: each does some frames, whoever comes last joins the files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from filelock import FileLock

from eqmol.errors import InputError
from eqmol.files import replacing

T = TypeVar("T")


class Part:
    """Part K of N: frames K, K + N, K + 2 N, ..., in a file beside the output, complete or absent.

    A part that was stopped is done again, one that is there is not. When all are there, the output is written, every frame once
    and in the order of the input, and the parts are removed; ``job.json`` stays and says so.

    Args:
        output: what all parts become.
        index: K, from 1.
        total: N.
        model: model file.
        inputs: the files of frames, in their order.
        options: what else the results depend on, the same for all parts; values of JSON.

    Raises:
        InputError: no such part, the folder cannot be written, or it holds parts of other work.
    """

    def __init__(
        self,
        output: Path,
        index: int,
        total: int,
        model: Path,
        inputs: Sequence[Path],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not 1 <= index <= total:
            raise InputError(f"there is no part {index} of {total}; parts are counted from 1")
        self.output = output
        self.index, self.total = index, total
        self._folder = output.with_name(f"{output.name}.parts")
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {output}: {error.strerror}; check the folder") from None
        self._job = self._folder / "job.json"
        own = {
            "model": hashlib.sha256(model.read_bytes()).hexdigest(),
            "inputs": [[str(path.resolve()), path.stat().st_size] for path in inputs],
            "parts": total,
            "options": dict(options or {}),
        }
        with self._lock():
            if self._job.exists():
                self._check({key: self._read()[key] for key in own}, own)
            else:
                self._write(own)

    @property
    def path(self) -> Path:
        """The file of this part."""
        return self._path(self.index)

    def is_done(self) -> bool:
        """Whether this part need not be done any more."""
        return self.path.exists() or "structures" in self._read()

    def own(self, frames: Iterable[T]) -> Iterator[T]:
        """The frames of this part among all frames."""
        return islice(frames, self.index - 1, None, self.total)

    def join(self) -> int | None:
        """Write the output if all parts are there; return how many frames it has, None if parts are missing."""
        with self._lock():
            job = self._read()
            if "structures" in job:
                return int(job["structures"])
            paths = [self._path(index) for index in range(1, self.total + 1)]
            if not all(path.exists() for path in paths):
                return None
            number = 0
            files = [path.open(encoding="utf-8") for path in paths]
            try:
                with replacing(self.output) as joined:
                    while frame := _next_frame(files[number % self.total]):
                        joined.writelines(frame)
                        number += 1
                    assert not any(file.read(1) for file in files)
            finally:
                for file in files:
                    file.close()
            self._write(job | {"structures": number})
            for path in paths:
                path.unlink()
            return number

    def missing(self) -> int:
        """How many parts are not there yet; none once they are joined."""
        if "structures" in self._read():
            return 0
        return sum(not self._path(index).exists() for index in range(1, self.total + 1))

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}-of-{self.total}.xyz"

    def _lock(self) -> FileLock:
        return FileLock(self._folder / "lock")

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._job.read_text(encoding="utf-8"))
            return {"model": None, "inputs": None, "parts": None, "options": None, **found}
        except (ValueError, TypeError):
            raise InputError(f"{self._job} is damaged; remove {self._folder} to begin again") from None

    def _write(self, job: dict[str, Any]) -> None:
        with replacing(self._job) as file:
            file.write(json.dumps(job, indent=2) + "\n")

    def _check(self, found: dict[str, Any], own: dict[str, Any]) -> None:
        different = next((key for key in own if found[key] != own[key]), None)
        if different is not None:
            raise InputError(
                f"{self._folder} holds parts of other work ({different} differ); remove it, or give another output"
            )


def _next_frame(file: IO[str]) -> list[str]:
    """The lines of the next frame of extended XYZ; none at the end."""
    first = file.readline()
    return [first, *(file.readline() for _ in range(int(first) + 1))] if first else []

"""Raw files into shards.

Several processes work, each on files of its own. A shard appears when it is complete; what exists already and was made
from the same bytes is kept, so that an interrupted run continues and ends with the same files.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eqmol.data.oc20.frame import Frame, Reading, read_tags, why_dropped
from eqmol.data.oc20.readers.find import FORMATS, Unit, find, parts, reader, units
from eqmol.data.oc20.shards import FORMAT, INDEX, Entry, Index, Shard, file_hash, pack
from eqmol.data.parallel import run_parallel
from eqmol.errors import InputError
from eqmol.files import replacing

TAGS = "inferred_tags.json"  #: tags apart from the files, in the folder of raw files


def prepare(
    folder: Path,
    out: Path,
    *,
    files: str = "**/*",
    infer_tags: bool = False,
    total: bool = False,
    workers: int | None = None,
    console: Console | None = None,
) -> Index:
    """Turn raw files into shards, unless that was done before.

    Args:
        folder: raw files, at any depth.
        out: folder of shards.
        files: pattern of the raw files below ``folder``.
        infer_tags, total: see :class:`eqmol.data.oc20.frame.Reading`.
        workers: processes; None for one per core.
        console: where to print; None for nowhere.

    Raises:
        InputError: what is wrong with which frame of which file; complete shards are kept.
    """
    sources = find(folder, files)
    if not sources:
        raise InputError(f"{folder} holds no file of OC20 ({FORMATS}) that matches data.files={files}")
    stamps = {source: [n for path in parts(folder, source) for n in _stamp(path)] for source in sources}
    options = {"files": files, "infer_tags": infer_tags, "total": total, "tags": _tags_hash(folder)}
    if (out / INDEX).is_file():
        index = Index.read(out)
        if (index.sources, index.options) == (stamps, options):
            return index
    reading = Reading(infer_tags, read_tags(folder / TAGS) if options["tags"] else {}, total)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write shards to {out}: {error.strerror}; give another folder") from None
    planned = [unit for source in sources for unit in units(folder, source)]
    if console is not None:
        console.print(f"preparing {len(sources)} files of {folder} into {out}", soft_wrap=True, highlight=False)
    entries = run_parallel(_make, [(folder, out, unit, reading) for unit in planned], "shards", workers, console)
    index = Index(entries, stamps, options)
    index.write(out)
    if console is not None:
        console.print(report(index))
    return index


def report(index: Index) -> Table:
    """Return what was read, and which frames were dropped why."""
    table = Table("kind", "files", "frames", "dropped", "why", title="prepared shards")
    for kind in sorted({entry.kind for entry in index.shards}):
        entries = [entry for entry in index.shards if entry.kind == kind]
        reasons = Counter(reason for entry in entries for _, reason in entry.dropped)
        why = "; ".join(f"{reason}: {number}" for reason, number in reasons.items())
        frames, files = sum(entry.frames for entry in entries), len({entry.source for entry in entries})
        table.add_row(kind, str(files), str(frames), str(reasons.total()), why)
    return table


def _make(folder: Path, out: Path, unit: Unit, reading: Reading) -> Entry:
    """Make one shard, or keep the one that was made from the same bytes in the same way."""
    path = out / unit.shard
    name = Path(unit.source).name
    tags = reading.tags.get(name)
    origin = {
        "format": FORMAT,
        "source": unit.source,
        "sha256": [file_hash(part) for part in parts(folder, unit.source)],
        "entries": [unit.start, unit.stop],
        "infer_tags": reading.infer_tags,
        "total": reading.total,
        "tags": None if tags is None else tags.tolist(),
    }
    known = _header(path)
    if any(known.get(key) != value for key, value in origin.items()):
        frames, dropped = _read(folder, unit, reading)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            file.write(pack(frames, {**origin, "dropped": dropped}))
    shard = Shard(path)
    return Entry(
        file=unit.shard,
        source=unit.source,
        kind=shard.header["kind"],
        frames=len(shard.array("energy")),
        bytes=path.stat().st_size,
        sha256=file_hash(path),
        dropped=shard.header["dropped"],
    )


def _header(path: Path) -> dict[str, Any]:
    """Return the header of a shard that exists and is whole, else nothing."""
    try:
        return Shard(path).header if path.is_file() else {}
    except InputError:  # not whole: made again
        return {}


def _read(folder: Path, unit: Unit, reading: Reading) -> tuple[list[Frame], list[list[str]]]:
    """Return the good frames, and place and reason of each bad one."""
    frames: list[Frame] = []
    dropped: list[list[str]] = []
    for frame, source in _frames(folder / unit.source, unit, reading):
        if (reason := why_dropped(frame)) is not None:
            dropped.append([os.path.relpath(source, folder), reason])
            continue
        if frames and (frame.forces is None) != (frames[0].forces is None):
            raise InputError(f"{source}: some frames of this file have forces and some have not; separate them")
        frames.append(frame)
    return frames, dropped


def _frames(path: Path, unit: Unit, reading: Reading) -> Iterator[tuple[Frame, str]]:
    """Yield what the reader does; whatever else a damaged file makes it raise becomes one sentence."""
    source = "before its first frame"
    try:
        for frame, source in reader(unit.source)(path, unit.start, unit.stop, reading):
            yield frame, source
    except InputError:
        raise
    except Exception as error:
        place = source if source.startswith("before") else f"after {source.removeprefix(f'{path}, ')}"
        raise InputError(
            f"{path} cannot be read {place}: {type(error).__name__} {error}; is it truncated or of another format?"
        ) from error


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _tags_hash(folder: Path) -> str | None:
    path = folder / TAGS
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

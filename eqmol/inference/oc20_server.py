"""Predictions for the evaluation server of OC20: ``python -m eqmol.inference.oc20_server MODEL id=DATA ood_ads=DATA ... -o OUT.npz``.

For every split the file holds, each named "<split>_<array>" (S frames, A free atoms of all of them):

- ``ids`` [S]: "<system>_<frame>", the system by its number alone: frame 45 of random123 is "123_45";
- ``energy`` [S] float32, eV: of the kind that the model was trained on, which for the server are adsorption energies;
- ``forces`` [A, 3] float16, eV/Å: of free atoms, frame after frame; half precision keeps the file small;
- ``chunk_idx`` [S - 1]: where ``numpy.split`` cuts the forces into those of the frames.
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import ase
import numpy as np
from numpy.typing import NDArray

from eqmol.checkpoint import prepare
from eqmol.cli.options import exit_code
from eqmol.data.oc20.frames import Frame
from eqmol.data.oc20.reading import Reading
from eqmol.data.oc20.shards import INDEX, S2EF, Index, Shard
from eqmol.data.oc20.sources import FORMATS, find, reader
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.graph import AtomGraph
from eqmol.graph.contacts import CloseContacts
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from eqmol.models.predictor import Predictor

MAX_EDGES = 200_000  #: in a batch; bounds the memory


def write_predictions(
    model: str | os.PathLike[str] | Predictor,
    splits: Mapping[str, str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    close_contacts: str = "stop",
) -> dict[str, int]:
    """Predict energies and forces of all frames and write the file for the server.

    Args:
        model: a model file or a model.
        splits: name ("id", "ood_ads", "ood_cat", "ood_both") -> a file or folder of OC20, or shards; the name "" for arrays
            without a prefix.
        path: ``.npz``; replaced only when all is predicted.
        backend, device: see :func:`eqmol.load`.
        batch_size: most frames evaluated together.
        close_contacts: see :class:`eqmol.Calculator`.

    Returns:
        The number of frames of each split.

    Raises:
        InputError: no frames, a frame that occurs twice, what the model does not know, or a result that is not finite.
    """
    potential = prepare(model, backend, device)
    if not isinstance(potential, Potential):
        raise InputError("the model predicts properties of molecules; the leaderboard asks for energies and forces")
    with replacing(path, "wb") as file:  # opened first: a folder that cannot be written is found at once
        contacts = guard_of(potential, close_contacts)
        arrays: dict[str, NDArray[np.generic]] = {}
        numbers: dict[str, int] = {}
        for name, data in splits.items():
            predicted = predict_split(potential, frames_of(Path(data)), batch_size, contacts)
            numbers[name] = len(predicted["ids"])
            if numbers[name] == 0:
                raise InputError(f"{data} holds no frames to predict")
            arrays |= {f"{name}_{key}" if name else key: value for key, value in predicted.items()}
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return numbers


def predict_split(
    model: Potential, frames: Iterable[tuple[Frame, str]], batch_size: int, contacts: CloseContacts
) -> dict[str, NDArray[np.generic]]:
    """Return "ids", "energy", "forces" and "chunk_idx" of frames given with their sources."""
    ids: dict[str, str] = {}
    energies: list[float] = []
    forces: list[NDArray[np.float16]] = []
    for batch in _batches(model, frames, batch_size, contacts):
        results = evaluate_graphs(model, [graph for _, _, graph in batch])
        for (frame, source, _), result in zip(batch, results, strict=True):
            name = f"{frame.system.removeprefix('random')}_{frame.number}"
            if name in ids:
                raise InputError(f"{source} and {ids[name]} are both frame {frame.number} of {frame.system}; give one")
            ids[name] = source
            energies.append(result["energy"])
            forces.append(result["forces"][~frame.fixed].astype(np.float16))
    return {
        "ids": np.array(list(ids)),
        "energy": np.array(energies, np.float32),
        "forces": np.concatenate([np.zeros((0, 3), np.float16), *forces]),
        "chunk_idx": np.cumsum([len(part) for part in forces])[:-1],
    }


def _batches(
    model: Potential, frames: Iterable[tuple[Frame, str]], batch_size: int, contacts: CloseContacts
) -> Iterator[list[tuple[Frame, str, AtomGraph]]]:
    """Frames with their graphs, as many at a time as fit."""
    batch: list[tuple[Frame, str, AtomGraph]] = []
    edges = 0
    for frame, source in frames:
        atoms = ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        graph = graph_of(model, atoms, source, contacts=contacts)
        if batch and (len(batch) == batch_size or edges + graph.num_edges > MAX_EDGES):
            yield batch
            batch, edges = [], 0
        batch.append((frame, source, graph))
        edges += graph.num_edges
    if batch:
        yield batch


def frames_of(path: Path) -> Iterator[tuple[Frame, str]]:
    """Every frame of a file, of a folder of files, or of shards, with its source.

    Shards lack the frames that were dropped when they were made.

    Raises:
        InputError: not there, or no file of OC20.
    """
    if (path / INDEX).is_file():
        index = Index.read(path)
        index.verify(path)
        for entry in index.shards:
            shard = Shard(path / entry.file)
            for row in range(entry.frames if entry.kind == S2EF else 0):
                yield shard.frame(row), f"{path / entry.file}, frame {row}"
        return
    files = [path] if path.is_file() and find(path.parent, path.name) else [path / name for name in find(path)]
    if not files:
        raise InputError(f"{path} is no file of OC20 ({FORMATS}), nor a folder with some")
    for file in files:
        # no model reads tags
        yield from reader(file.name)(file, 0, None, Reading(infer_tags=True, labels=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 2 after bad input, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m eqmol.inference.oc20_server",
        description="Write the predictions that the evaluation server of OC20 takes.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model.safetensors of a training run")
    add("data", nargs="+", metavar="[SPLIT=]DATA", help="file or folder of a split: id, ood_ads, ood_cat, ood_both")
    add("-o", "--output", type=Path, required=True, metavar="OUT.npz", help="file to write")
    add("--backend", metavar="NAME", help="tensor-product algorithm (default: the model's)")
    add("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    add("--batch-size", type=int, default=32, metavar="N", help="frames at a time (default: 32)")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    splits = _splits(arguments.data)
    options = {"backend": arguments.backend, "device": arguments.device, "batch_size": arguments.batch_size}
    numbers = write_predictions(arguments.model, splits, arguments.output, **options)
    for name, number in numbers.items():
        print(f"{f'{name}: ' if name else ''}{number} frames -> {arguments.output}")


def _splits(data: Sequence[str]) -> dict[str, str]:
    """Paths by the name of their split."""
    if len(data) == 1 and "=" not in data[0]:
        return {"": data[0]}
    splits: dict[str, str] = {}
    for item in data:
        name, separator, path = item.partition("=")
        if not separator or not name or name in splits:
            raise InputError(f"{item!r} must name a split of its own, like id=DATA ood_ads=DATA")
        splits[name] = path
    return splits


if __name__ == "__main__":
    raise SystemExit(main())

"""Predictions for the evaluation server of OC20, in the file that it takes.

For every split the file holds, each named "<split>_<array>" (S frames, A free atoms of all of them):

- ``ids`` [S]: "<system>_<frame>", the system by its number alone: frame 45 of random123 is "123_45";
- ``energy`` [S] float32, eV: of the kind that the model was trained on, which for the server are adsorption energies;
- ``forces`` [A, 3] float16, eV/Å: of free atoms, frame after frame; half precision keeps the file small;
- ``chunk_idx`` [S - 1]: where ``numpy.split`` cuts the forces into those of the frames.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray

from eqmol.checkpoint import for_prediction
from eqmol.data.oc20.frame import Frame, Reading
from eqmol.data.oc20.readers.find import FORMATS, find, reader
from eqmol.data.oc20.shards import INDEX, S2EF, Index, Shard
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.graph.contacts import CloseContacts
from eqmol.inference.batches import batches
from eqmol.inference.evaluate import close_contacts as guard_of
from eqmol.inference.evaluate import evaluate_graphs, graph_of
from eqmol.models import Potential
from eqmol.models.predictor import Predictor


def write_predictions(
    model: str | os.PathLike[str] | Predictor,
    splits: Mapping[str, Sequence[str | os.PathLike[str]]],
    path: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    close_contacts: str = "stop",
    **options: Any,
) -> dict[str, int]:
    """Predict energies and forces of all frames and write the file for the server.

    Args:
        model: a model file or a model.
        splits: name ("id", "ood_ads", "ood_cat", "ood_both") -> files or folders of OC20, or shards, one after the other; the
            name "" for arrays without a prefix.
        path: ``.npz``; replaced only when all is predicted.
        batch_size: most frames evaluated together.
        close_contacts: see :class:`eqmol.Calculator`.
        options: backend, device and others of :func:`eqmol.checkpoint.for_prediction`.

    Returns:
        The number of frames of each split.

    Raises:
        InputError: no frames, a frame that occurs twice, what the model does not know, or a result that is not finite.
    """
    potential = for_prediction(model, **options)
    if not isinstance(potential, Potential):
        raise InputError("the model predicts properties of molecules; the leaderboard asks for energies and forces")
    with replacing(path, "wb") as file:  # opened first: a folder that cannot be written is found at once
        contacts = guard_of(potential, close_contacts)
        arrays: dict[str, NDArray[np.generic]] = {}
        numbers: dict[str, int] = {}
        for name, data in splits.items():
            frames = chain.from_iterable(frames_of(Path(path)) for path in data)
            predicted = predict_split(potential, frames, batch_size, contacts)
            numbers[name] = len(predicted["ids"])
            if numbers[name] == 0:
                raise InputError(f"{', '.join(map(str, data))} holds no frames to predict")
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
    graphs = (((frame, source), graph_of(model, _atoms(frame), source, contacts=contacts)) for frame, source in frames)
    for batch in batches(graphs, batch_size):
        results = evaluate_graphs(model, [graph for _, graph in batch])
        for ((frame, source), _), result in zip(batch, results, strict=True):
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


def _atoms(frame: Frame) -> ase.Atoms:
    return ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)


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

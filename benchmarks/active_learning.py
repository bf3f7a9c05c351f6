"""How many labelled frames training needs when `eqmol select` picks them, beside random picking.

    python benchmarks/active_learning.py label data/3bpa FOLDER      # once; needs the package tblite
    python benchmarks/active_learning.py run FOLDER [--seeds 0 1 2 3 4] [--csv docs/benchmarks/active_learning.csv]

`label` takes frames of 3BPA and labels them by GFN2-xTB: a pool of 500 frames of 300 K, 28 of 600 K and 28 of a scan of dihedral
angles, and frames of three temperatures that are not in the pool. `run` starts from 50 random frames and adds 25 in each round, by
either arm; each round trains the model of the first 50 frames further, on all frames picked so far, for the same number of steps on
batches of the same size. A run that was stopped continues. It writes all errors (CSV) and their curves (PNG).
"""

import argparse
import csv
import json
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread, write
from ase.optimize import BFGS
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from eqmol import predict
from eqmol.cli.main import main as eqmol
from eqmol.plots import COLORS, write_png

START, ROUND, REFERENCE, LAST = 50, 25, 200, 225
#: Optimiser steps of the first training and of each round, which starts from the first model.
FIRST, STEPS = 1500, 400
BATCH, VALIDATION = 5, 0.1
MODEL = ("backend=grid", "model.channels=16", "task.optimizer.lr=0.01")
ARMS = ("random", "select")
TESTS = ("300K", "600K", "1200K")
#: Selection ends when it has random picking's errors on these.
JUDGES = TESTS[:2]
#: train_mixedT.xyz says no temperatures; energies tell that these are its blocks.
BLOCKS = {"300K": slice(0, 167), "600K": slice(167, 334), "1200K": slice(334, 500)}
#: Frames of 600 K in the pool.
HOT = 28
#: Two dihedral angles between the rings, their values in degrees, and the first atom of those that turn along.
SCAN = (((4, 1, 5, 13), (0, 50, 100, 150, 210, 260, 310), 13), ((1, 5, 13, 14), (70, 130, 180, 280), 14))
#: Steps by which each structure of the scan is relaxed.
RELAXED = 15

Row = dict[str, Any]


def labelled(frames: Sequence[Atoms], kind: str) -> list[Atoms]:
    """Copies of frames with energies and forces by GFN2-xTB."""
    from tblite.ase import TBLite

    found = []
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions, info={"config_type": kind})
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        atoms.get_forces()
        found.append(atoms)
    return found


def scan(start: Atoms) -> list[Atoms]:
    """Every combination of the scanned angles, relaxed a little."""
    found = []
    for angles in product(*(values for _, values, _ in SCAN)):
        (turned,) = labelled([start], "dihedral")
        for (atoms, _, first), angle in zip(SCAN, angles, strict=True):
            turned.set_dihedral(*atoms, angle, indices=range(first, len(turned)))
        BFGS(turned, logfile=None).run(fmax=0.05, steps=RELAXED)
        found.append(turned)
    return found


def label(source: Path, folder: Path, seed: int) -> None:
    """Write pool.xyz and the frames to judge by, with energies and forces by GFN2-xTB."""
    rng = np.random.default_rng(seed)
    cold, mixed = (list(iread(source / f"train_{name}.xyz")) for name in ("300K", "mixedT"))
    positions = np.array([atoms.positions for atoms in cold])
    known = [np.abs(positions - atoms.positions).max(axis=(1, 2)).min() < 1e-6 for atoms in mixed[BLOCKS["300K"]]]
    apart = [atoms for atoms, seen in zip(mixed[BLOCKS["300K"]], known, strict=True) if not seen]
    hot = [mixed[BLOCKS["600K"]][index] for index in rng.permutation(len(mixed[BLOCKS["600K"]]))]
    folder.mkdir(parents=True, exist_ok=True)
    pool = [*labelled(cold, "300K"), *labelled(hot[:HOT], "600K"), *labelled(scan(cold[0]), "dihedral")]
    for number, atoms in enumerate(pool):
        atoms.info["place"] = number
    write(folder / "pool.xyz", pool)
    for name, frames in (("300K", apart), ("600K", hot[HOT:]), ("1200K", mixed[BLOCKS["1200K"]])):
        write(folder / f"test_{name}.xyz", labelled(frames, name))


def train(frames: Sequence[Atoms], folder: Path, seed: int, start: Path | None = None) -> Path:
    """Train a model, from that of a file or from fresh weights, unless it is done already; its file."""
    model = folder / "model.safetensors"
    if (folder / "metrics.json").exists():
        return model
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.xyz", frames)
    epochs = round((STEPS if start else FIRST) / -(-round(len(frames) * (1 - VALIDATION)) // BATCH))
    file = folder / "train.xyz"
    data = f"data=xyz data.train_file={file} data.val_fraction={VALIDATION} data.batch_size={BATCH}".split()
    trainer = f"trainer.max_epochs={epochs} trainer.check_val_every_n_epoch={epochs} trainer.accelerator=cpu".split()
    others = f"verify=off resume=auto seed={seed} output_dir={folder}".split()
    first = [f"init_from={start}"] if start else []
    if eqmol(["train", *data, *MODEL, *trainer, *others, *first]) != 0:
        raise SystemExit(f"training in {folder} failed")
    return model


def select(pool: Sequence[Atoms], known: Sequence[int], model: Path) -> list[int]:
    """The frames that ``eqmol select`` adds to known ones."""
    files = [model.parent / name for name in ("pool.xyz", "train.xyz", "selected.xyz")]
    if not files[-1].exists():
        write(files[0], [pool[place] for place in sorted({*range(len(pool))} - {*known})])
        options = ["-n", str(ROUND), "--known", str(files[1]), "-o", str(files[2])]
        if eqmol(["select", str(files[0]), str(model), *options]) != 0:
            raise SystemExit(f"selection in {model.parent} failed")
    return [atoms.info["place"] for atoms in iread(files[2])]


def judge(model: Path, sets: dict[str, list[Atoms]]) -> dict[str, float]:
    """RMSE of force components by set, meV/Å."""
    found = {}
    for name, frames in sets.items():
        results = predict(frames, model, close_contacts="warn")
        errors = [result["forces"] - atoms.get_forces() for result, atoms in zip(results, frames, strict=True)]
        found[name] = 1e3 * float(np.sqrt(np.mean(np.square(errors))))
    return found


def run(folder: Path, seed: int, arm: str, path: Path) -> None:
    """All rounds of an arm; their rows are appended to the table unless they are there."""
    pool = list(iread(folder / "pool.xyz"))
    sets = {name: list(iread(folder / f"test_{name}.xyz")) for name in TESTS}
    order = np.random.default_rng(seed).permutation(len(pool)).tolist()
    places, done = order[:START], {(row["seed"], row["arm"], row["frames"]) for row in read_table(path)}
    runs = folder / "runs" / str(seed)
    model = start = train([pool[place] for place in places], runs / "start", seed)
    while True:
        if (seed, arm, len(places)) not in done:
            kinds = [pool[place].info["config_type"] for place in places]
            counts = {f"{kind}_frames": kinds.count(kind) for kind in ("600K", "dihedral")}
            errors = {f"rmse_{test}": round(error, 2) for test, error in judge(model, sets).items()}
            append({"seed": seed, "arm": arm, "frames": len(places), **counts, **errors}, path)
        if ended(read_table(path), seed, arm, len(places)):
            return
        places = order[: len(places) + ROUND] if arm == "random" else places + select(pool, places, model)
        model = train([pool[place] for place in places], runs / f"{arm}_{len(places)}", seed, start)


def ended(table: list[Row], seed: int, arm: str, frames: int) -> bool:
    """Whether an arm is done: random picking with its last round, selection with both errors of that round or its own last."""
    if arm == "random":
        return frames >= REFERENCE
    found = {test: (curves(table, "random", test)[seed][-1, 1], curves(table, arm, test)[seed]) for test in JUDGES}
    return frames >= LAST or all(frames_for(curve, error) <= frames for error, curve in found.values())


def read_table(path: Path) -> list[Row]:
    """Rows of the table; none if there is no table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: value if key == "arm" else json.loads(value) for key, value in row.items()} for row in rows]


def append(row: Row, path: Path) -> None:
    """Add a row to the table."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(json.dumps(row), flush=True)


def curves(table: list[Row], arm: str, test: str) -> dict[int, NDArray[np.float64]]:
    """Frames and errors [rounds, 2] of each seed."""
    found: dict[int, list[tuple[int, float]]] = {}
    for row in table:
        if row["arm"] == arm:
            found.setdefault(row["seed"], []).append((row["frames"], row[f"rmse_{test}"]))
    return {seed: np.array(sorted(points)) for seed, points in found.items()}


def frames_for(curve: NDArray[np.float64], error: float) -> float:
    """Frames with which a curve first has an error, linear between rounds; infinite where it never has."""
    for (before, high), (after, low) in pairwise(curve):
        if low <= error:
            return float(before if high <= error else before + (after - before) * (high - error) / (high - low))
    return float("inf")


def report(table: list[Row]) -> None:
    """Print the frames that selection needs for the errors of random picking."""
    for test in TESTS:
        random, chosen = (curves(table, arm, test) for arm in ARMS)
        needs = {
            seed: {int(frames): frames_for(chosen[seed], error) / frames for frames, error in curve[1:]}
            for seed, curve in random.items()
            if seed in chosen
        }
        last = {seed: ratios[REFERENCE] for seed, ratios in needs.items() if REFERENCE in ratios}
        print(f"{test}: frames that selection needs, as part of those of random picking")
        print(f"  for its error with {REFERENCE}: {said(last)}; median {np.median([*last.values()]):.2f}")
        worst = {seed: max(ratios.values()) for seed, ratios in needs.items()}
        print(f"  for its error after any round, at most: {said(worst)}")


def said(values: dict[int, float]) -> str:
    """Numbers by seed."""
    return ", ".join(f"{value:.2f} (seed {seed})" for seed, value in values.items())


def draw(table: list[Row], path: Path) -> None:
    """Write the figure: a panel per set, thin curves of seeds, thick ones of their medians."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axes, test in zip(figure.subplots(1, len(TESTS)), TESTS, strict=True):
        for arm, color in zip(ARMS, COLORS, strict=False):
            own = curves(table, arm, test)
            for curve in own.values():
                axes.plot(*curve.T, color=color, alpha=0.35, linewidth=0.8)
            errors = [{int(frames): error for frames, error in curve} for curve in own.values()]
            shared = sorted(set.intersection(*map(set, errors)))
            median = np.array([(frames, np.median([found[frames] for found in errors])) for frames in shared])
            axes.plot(*median.T, color=color, marker="o", markersize=4, label=arm)
        axes.set(title=f"held-out frames of {test}", xlabel="labelled frames", yscale="log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:.0f}"))
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("RMSE of forces / meV/Å")
    figure.axes[0].legend(frameon=False)
    write_png(figure, path)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("label", help="label frames of 3BPA by GFN2-xTB")
    command.add_argument("source", type=Path, help="folder with train_300K.xyz and train_mixedT.xyz")
    command.add_argument("folder", type=Path, help="for the labelled files")
    command.add_argument("--seed", type=int, default=0, help="of the frames of 600 K in the pool")
    command = commands.add_parser("run", help="train, select, judge")
    command.add_argument("folder", type=Path, help="with the labelled files; models are written there, too")
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    command.add_argument("--csv", type=Path, default=Path("docs/benchmarks/active_learning.csv"))
    options = parser.parse_args()
    if options.command == "label":
        label(options.source, options.folder, options.seed)
        return
    for name in ("pool", *(f"test_{test}" for test in TESTS)):
        if not (options.folder / f"{name}.xyz").exists():
            parser.error(f"{options.folder} has no {name}.xyz; the command label writes it")
    for seed in options.seeds:
        for arm in ARMS:
            run(options.folder, seed, arm, options.csv)
    table = read_table(options.csv)
    report(table)
    draw(table, options.csv.with_suffix(".png"))


if __name__ == "__main__":
    main()

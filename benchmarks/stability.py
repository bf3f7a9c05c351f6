"""Many runs of dynamics of one molecule, and their judgement by bonds and by GFN2-xTB from outside.

    python benchmarks/stability.py run MODEL FOLDER --starts FRAMES.xyz     (again: go on where it was)
    python benchmarks/stability.py judge MODEL FOLDER TABLE.csv             (needs tblite)

The runs are those of ``eqmol md``, with its guards, in the same folders (``FOLDER/000`` and so on, which ``eqmol md`` continues),
but their forces are evaluated together: a step of fifty molecules takes a third of the time of fifty steps.

A frame is unsound where a bond of the start is longer than 1.5 times its length there, or where the force on an atom differs from
that of GFN2-xTB by more than 5 eV/Å.
"""

import argparse
import copy
import csv
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import CalculationFailed
from ase.io import read
from numpy.typing import NDArray

import eqmol
from eqmol.errors import InputError
from eqmol.files import replacing
from eqmol.graph import NeighborList
from eqmol.inference import calculator
from eqmol.inference.dynamics import STOPPED, TRAJECTORY, Settings, Simulation
from eqmol.inference.evaluate import evaluate_graphs
from eqmol.inference.guards import BROKEN, Bonds, usual_uncertainty

#: eV/Å, of the difference to GFN2-xTB; those of frames of DFT at 300 K differ by up to 1.0.
UNSOUND = 5.0
#: ps after the first unsound frame, in which a run must have stopped.
LATE = 0.5
#: Å; each run has neighbours of its own.
SKIN = 0.5
#: In the folder of a run: time (ps) and largest error (eV/Å) of each frame that was judged.
ERRORS = "gfn2.txt"


class Together:
    """Evaluates the graphs of so many threads in one batch, when all of them wait for theirs."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._waiting: list[tuple[Any, Any, dict[str, Any]]] = []
        self._turn = threading.Condition()

    def __call__(self, model: Any, graphs: Sequence[Any], std: Any) -> list[dict[str, Any]]:
        """Stand in for :func:`evaluate_graphs` with one graph."""
        (graph,), place = graphs, {}
        with self._turn:
            self._waiting.append((graph, (model, std), place))
            self._evaluate()
            self._turn.wait_for(lambda: place)
        if "error" in place:
            raise place["error"]
        return [place["result"]]

    def leave(self) -> None:
        """One thread has ended."""
        with self._turn:
            self._threads -= 1
            self._evaluate()

    def _evaluate(self) -> None:
        if not self._waiting or len(self._waiting) < self._threads:
            return
        graphs, ((model, std), *_), places = zip(*self._waiting, strict=True)
        self._waiting = []
        try:
            for place, result in zip(places, evaluate_graphs(model, graphs, std), strict=True):
                place["result"] = result
        except InputError:  # of one of them
            for place, graph in zip(places, graphs, strict=True):
                try:
                    place["result"] = evaluate_graphs(model, [graph], std)[0]
                except InputError as error:
                    place["error"] = error
        self._turn.notify_all()


def run(options: argparse.Namespace) -> None:
    """Begin or continue all runs, each in a thread."""
    warnings.simplefilter("ignore")
    frames = read(options.starts, ":")
    simulations = []
    model = eqmol.Calculator(options.model)
    limit = usual_uncertainty(model.model)
    chosen = np.random.default_rng(options.seed).permutation(len(frames))[: options.runs]
    for seed, index in enumerate(chosen.tolist()):
        if options.only and seed not in options.only:
            continue
        start = ase.Atoms(frames[index].symbols, frames[index].positions)
        start.calc = copy.copy(model)
        start.calc._neighbors = NeighborList(model.model.cutoff, SKIN)
        temperatures = options.temperatures
        temperature = temperatures[seed % len(temperatures)]
        settings = Settings(temperature=temperature, largest_uncertainty=limit, seed=seed)
        simulations.append(Simulation(start, options.folder / f"{seed:03}", settings))
    together = Together(len(simulations))
    calculator.evaluate_graphs = together  # type: ignore[assignment]
    begun, cpu = time.monotonic(), time.process_time()

    def work(number: int, simulation: Simulation) -> None:
        try:
            if (simulation.folder / STOPPED).exists():
                return
            outcome = simulation.run(options.time, lambda done: tell(number, done))
            print(
                f"run {number:03}: {outcome.picoseconds:g} ps {outcome.stopped} {'; '.join(outcome.bonds)}", flush=True
            )
        finally:
            together.leave()

    def tell(number: int, done: float) -> None:
        if (
            number == next((k for k, thread in enumerate(threads) if thread.is_alive()), 0)
            and round(10 * done) % 5 == 0
        ):
            seconds = time.process_time() - cpu
            print(f"{done:g} ps, {time.monotonic() - begun:.0f} s, {seconds:.0f} s of CPU time", flush=True)

    threads = [
        threading.Thread(target=work, args=pair, daemon=True, name=str(pair[0])) for pair in enumerate(simulations)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def judge(options: argparse.Namespace) -> None:
    """Write a row for each run, and print how many of them were sound, stopped, or both."""
    warnings.simplefilter("ignore")
    model = eqmol.Calculator(options.model, close_contacts="warn").model
    rows = [verdict(folder, model, options.every) for folder in sorted(options.folder.glob("[0-9][0-9][0-9]"))]
    with replacing(options.table) as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    unsound = [row for row in rows if row["unsound_ps"] != ""]
    late = [row for row in unsound if row["stopped"] == "" or row["picoseconds"] - row["unsound_ps"] > LATE]
    sound = [row for row in rows if row["unsound_ps"] == ""]
    needless = [row for row in sound if row["stopped"]]
    print(f"{len(rows)} runs, {sum(row['picoseconds'] for row in rows):.1f} ps")
    print(f"unsound: {len(unsound)}, not stopped within {LATE} ps: {[row['run'] for row in late]}")
    print(f"sound: {len(sound)}, stopped nevertheless: {[row['run'] for row in needless]}")


def verdict(folder: Path, model: Any, every: int) -> dict[str, Any]:
    """Judge one run by its saved frames: by their bonds all of them, by GFN2-xTB one of so many and all of the last picosecond."""
    frames = read(folder / TRAJECTORY, ":")
    stopped = ""
    if (folder / STOPPED).exists():
        frames.append(read(folder / STOPPED))
        stopped = frames[-1].info["stopped"]
    forces = [result["forces"] for result in eqmol.predict(frames, model, batch_size=50, close_contacts="warn")]
    bonds = Bonds(frames[0])
    first, second = bonds.pairs.T
    rows = []
    known = dict(np.loadtxt(folder / ERRORS, ndmin=2)) if (folder / ERRORS).exists() else {}
    for number, (frame, own) in enumerate(zip(frames, forces, strict=True)):
        time = frame.info["time_ps"]
        stretch = (np.linalg.norm(frame.positions[first] - frame.positions[second], axis=1) / bonds.lengths).max()
        if time not in known and (number % every == 0 or number >= len(frames) - 10):
            known[time] = error(frame, own)
        rows.append((time, stretch, known.get(time, np.nan)))
    np.savetxt(folder / ERRORS, list(known.items()))
    times, stretches, errors = np.transpose(rows)
    bad = np.flatnonzero((stretches > BROKEN) | (errors > UNSOUND))
    why = "" if not len(bad) else "bond" if stretches[bad[0]] > BROKEN else "force"
    return {
        "run": folder.name,
        "picoseconds": round(times[-1], 4),
        "unsound_ps": round(times[bad[0]], 4) if len(bad) else "",
        "unsound_by": why,
        "stopped": stopped.split(";")[0],
        "largest_stretch": round(stretches.max(), 3),
        "largest_error_eV_A": round(np.nanmax(errors[: bad[0] + 1 if len(bad) else None]), 3),
        "median_error_eV_A": round(float(np.nanmedian(errors)), 3),
        "finite": all(
            np.isfinite(frame.positions).all() and np.isfinite(f).all() for frame, f in zip(frames, forces, strict=True)
        ),
    }


def error(frame: ase.Atoms, forces: NDArray[np.float64]) -> float:
    """Largest difference (eV/Å) of the force on an atom to that of GFN2-xTB; infinity where that does not converge."""
    from tblite.ase import TBLite

    judged = frame.copy()
    judged.calc = TBLite(method="GFN2-xTB", verbosity=0)
    try:
        return float(np.linalg.norm(judged.get_forces() - forces, axis=1).max())
    except (CalculationFailed, RuntimeError):
        return float("inf")


def main() -> None:
    """Run or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "judge"))
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--starts", type=Path)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the runs to go on with (default: all)")
    parser.add_argument("--time", type=float, default=20.0)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[600.0])
    parser.add_argument("--every", type=int, default=1, help="frames of which GFN2-xTB judges one (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    {"run": run, "judge": judge}[options.what](options)


if __name__ == "__main__":
    main()

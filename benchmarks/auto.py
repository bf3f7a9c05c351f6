"""``backend=auto`` beside every single backend, in twelve shapes, printed and written as CSV.

    python benchmarks/auto.py [--csv docs/benchmarks/auto.csv] [--rounds 5]

Energies and forces of a model of three layers (powers of order 2) on a random graph. Process time on one thread, minimum of
interleaved runs; the ratio is that of auto to the best single backend, the error the largest difference of forces from ``cg``
relative to the largest force. The cache is a new one, so that everything is measured.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from eqmol.checkpoint import build
from eqmol.files import replacing
from eqmol.graph import AtomGraph
from eqmol.ops.registry import ALGORITHMS, can_run
from eqmol.tuning import settle
from eqmol.tuning.cache import hardware

#: family, degree, channels, atoms, edges
SHAPES = (
    ("coupled", 1, 8, 5, 10),
    ("coupled", 1, 256, 50, 1000),
    ("coupled", 2, 64, 200, 6000),
    ("coupled", 3, 32, 100, 2000),
    ("coupled", 3, 64, 5, 10),
    ("coupled", 4, 16, 50, 1000),
    ("gaunt", 1, 16, 2000, 50000),
    ("gaunt", 2, 128, 100, 2000),
    ("gaunt", 3, 64, 100, 3000),
    ("gaunt", 4, 32, 50, 1000),
    ("gaunt", 5, 16, 50, 500),
    ("gaunt", 6, 8, 20, 100),
)
ELEMENTS = [1, 6, 8]
CUTOFF = 5.0  #: Å


def model(family: str, degree: int, channels: int, backend: str) -> Any:
    torch.manual_seed(0)
    backbone = {
        "_target_": "eqmol.models.MACE",
        "backend": backend,
        "family": family,
        "parity": "o3",
        "degree": degree,
        "filter_degree": degree,
        "channels": channels,
        "layers": 3,
        "correlation": 2,
        "fields": 1,
        "cutoff": CUTOFF,
        "elements": ELEMENTS,
        "avg_num_neighbors": 20.0,
    }
    recipe = {"_target_": "eqmol.models.Potential", "elements": ELEMENTS, "e0": [0.0] * 3, "scale": 1.0}
    return build(recipe | {"backbone": backbone}).eval().requires_grad_(False)


def graph(atoms: int, edges: int) -> AtomGraph:
    """Edges between random pairs, some beyond the cutoff."""
    generator = torch.Generator().manual_seed(0)
    receivers = torch.randint(atoms, (edges,), generator=generator).sort().values
    senders = (receivers + torch.randint(1, atoms, (edges,), generator=generator)) % atoms
    return AtomGraph(
        pos=2 * torch.randn(atoms, 3, dtype=torch.float64, generator=generator),
        atomic_numbers=torch.tensor(ELEMENTS)[torch.randint(3, (atoms,), generator=generator)],
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        edge_index=torch.stack([senders, receivers]),
        shifts=torch.zeros(edges, 3, dtype=torch.float64),
    )


def measure(family: str, degree: int, channels: int, atoms: int, edges: int, rounds: int) -> dict[str, Any]:
    batch = graph(atoms, edges)
    models = {b: model(family, degree, channels, b) for b in ALGORITHMS if can_run(b, family)}
    models["auto"] = model(family, degree, channels, "auto")
    begin = time.process_time()
    tuning = settle(models["auto"], batch, "forces", check=False)
    tuned = time.process_time() - begin
    assert tuning is not None
    forces = {name: one(batch)["forces"] for name, one in models.items()}  # the warm-up
    times = dict.fromkeys(models, float("inf"))
    for _ in range(rounds):
        for name, one in models.items():
            begin = time.process_time()
            one(batch)
            times[name] = min(times[name], 1e3 * (time.process_time() - begin))
    best = min((name for name in models if name != "auto"), key=times.__getitem__)
    return {
        "family": family,
        "degree": degree,
        "channels": channels,
        "atoms": atoms,
        "edges": edges,
        **{f"{b}_ms": times.get(b, float("nan")) for b in (*ALGORITHMS, "auto")},
        "best": best,
        "ratio": times["auto"] / times[best],
        "error": float((forces["auto"] - forces["cg"]).abs().max() / forces["cg"].abs().max()),
        "choices": " ".join(sorted(set(tuning.choices.values()))),
        "tuning_s": tuned,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path("docs/benchmarks/auto.csv"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EQMOL_CACHE"] = folder
        for shape in SHAPES:
            rows.append(measure(*shape, options.rounds))
            print(
                " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in rows[-1].items()),
                flush=True,
            )
    table = Table(title=f"CPU ms per energy and forces; {hardware(torch.device('cpu'))}")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=160).print(table)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    machine = hardware(torch.device("cpu"))
    with replacing(options.csv) as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
            writer.writerow(cells | {"machine": machine})


if __name__ == "__main__":
    main()

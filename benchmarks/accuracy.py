"""3BPA after minutes of two cores: a recipe of conf/experiment, or mace-torch, each a row of one table.

    EQMOL_DATA=... python -m benchmarks.accuracy recipe 3bpa_6 FOLDER [backend=grid seed=1 ...]
    python -m benchmarks.accuracy mace EPOCHS.csv --minutes 6 20 60

One thread computes, and a minute of two cores is two of its CPU minutes. Of a recipe the whole command counts: imports, compilation
and the final evaluation too. Rows of mace-torch are those of the last validation in time, from the table that
``benchmarks/peers/train_mace.py`` writes. Errors are RMSE on the 50 validation frames of ``data=3bpa``, and on the hot frames of
``train_mixedT.xyz``.
"""

import argparse
import csv
import json
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs/benchmarks/accuracy.csv"
COLUMNS = (
    "what",
    "options",
    "minutes",
    "steps",
    "val_forces_mev_per_a",
    "val_energy_mev",
    "hot_forces_mev_per_a",
    "hot_energy_mev",
    "train_forces_mev_per_a",
    "commit",
    "cpu",
)
Row = dict[str, Any]


def run_recipe(recipe: str, folder: Path, options: list[str]) -> Row:
    """Train in FOLDER by ``train.py experiment=RECIPE`` and return its row.

    Raises:
        subprocess.CalledProcessError: the run failed; its log is ``FOLDER.log``.
    """
    command = [sys.executable, str(ROOT / "train.py"), f"experiment={recipe}", f"output_dir={folder}", *options]
    with folder.with_suffix(".log").open("w") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = json.loads((folder / "metrics.json").read_text())
    row = {
        "what": recipe,
        "options": " ".join(options),
        "minutes": f"{(used.ru_utime + used.ru_stime) / 120:.1f}",
        "steps": metrics["steps"],
    }
    for name, errors in (("val", metrics["val"]), ("hot", metrics["test"]["mixedT_hot"]), ("train", metrics["train"])):
        row[f"{name}_forces_mev_per_a"] = f"{errors['forces_rmse_mev_per_a']:.1f}"
        row[f"{name}_energy_mev"] = f"{errors['energy_rmse_mev']:.1f}"
    return row


def rows_of_mace(path: Path, minutes: list[float]) -> list[Row]:
    """The last validation within each number of minutes.

    Raises:
        ValueError: there is none.
    """
    with path.open() as file:
        epochs = list(csv.DictReader(file))
    rows = []
    for limit in minutes:
        ended = [epoch for epoch in epochs if float(epoch["cpu_seconds"]) <= limit * 120]
        if not ended or len(ended) == len(epochs):
            raise ValueError(f"{path} has no validation within {limit:g} minutes, or none after them")
        last = ended[-1]
        rows.append(
            {
                "what": f"mace-torch {path.stem}",
                "minutes": f"{float(last['cpu_seconds']) / 120:.1f}",
                "val_forces_mev_per_a": last["forces_rmse_mev_per_a"],
                "val_energy_mev": last["energy_rmse_mev"],
            }
        )
    return rows


def cpu() -> str:
    """Its name, where Linux says it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor()


def append(rows: list[Row], path: Path) -> None:
    """Add rows with the commit and the CPU to the table, and print them."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    begins = not path.exists()
    with path.open("a") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        if begins:
            writer.writeheader()
        for row in rows:
            whole = row | {"commit": commit.stdout.strip(), "cpu": cpu()}
            print(whole)
            writer.writerow(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=TABLE)
    kinds = parser.add_subparsers(dest="kind", required=True)
    recipe = kinds.add_parser("recipe")
    recipe.add_argument("recipe", help="of conf/experiment")
    recipe.add_argument("folder", type=Path, help="of the run")
    recipe.add_argument("options", nargs="*", help="of train.py")
    mace = kinds.add_parser("mace")
    mace.add_argument("epochs", type=Path)
    mace.add_argument("--minutes", nargs="+", type=float, default=[6, 20, 60])
    options = parser.parse_args()
    if options.kind == "recipe":
        append([run_recipe(options.recipe, options.folder, options.options)], options.csv)
    else:
        append(rows_of_mace(options.epochs, options.minutes), options.csv)


if __name__ == "__main__":
    main()

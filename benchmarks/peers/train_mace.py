"""Train mace-torch and write its errors beside the CPU time that they took.

    PEERS/bin/python benchmarks/peers/train_mace.py TABLE.csv --train_file=... (options of mace_run_train)

A row for each validation. With ``--restart_latest`` in the options a second start goes on, and so do its minutes.
"""

import csv
import logging
import re
import sys
import time
from pathlib import Path

from mace.cli.run_train import main

EPOCH = re.compile(r"Epoch (\d+).*RMSE_E=\s*([\d.]+) meV.*RMSE_F=\s*([\d.]+) meV")


class Errors(logging.Handler):
    """Appends the errors of every epoch in the log to a table: epoch, CPU seconds, meV, meV/Å."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.before = 0.0
        if path.exists():
            self.before = float(list(csv.DictReader(path.open()))[-1]["cpu_seconds"])
        else:
            path.write_text("epoch,cpu_seconds,energy_rmse_mev,forces_rmse_mev_per_a\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Take what the log says of an epoch."""
        if found := EPOCH.search(record.getMessage()):
            epoch, energy, forces = found.groups()
            with self.path.open("a") as file:
                csv.writer(file, lineterminator="\n").writerow(
                    [epoch, f"{self.before + time.process_time():.1f}", energy, forces]
                )


if __name__ == "__main__":
    table = Path(sys.argv.pop(1))
    sys.argv.append("--error_table=TotalRMSE")  # energies of structures in the log, not of atoms
    logging.getLogger().addHandler(Errors(table))
    main()

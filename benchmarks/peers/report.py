"""Results as CSV, as a Markdown table, and as log-log plots, with the machine and versions beside them."""

import csv
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.peers.case import Case
from benchmarks.peers.worker import CURRENT_E3NN
from eqmol.files import replacing

MARKS = {
    "e3nn-0.4.4": ("black", "o"),
    "e3nn-current": ("0.6", "s"),
    "mace": ("black", "D"),
    "published": ("tab:red", "x"),
    "cg": ("tab:blue", "v"),
    "escn": ("tab:cyan", "<"),
    "gaunt": ("tab:orange", "^"),
    "gaunt_fft": ("tab:brown", ">"),
    "grid": ("tab:green", "P"),
}


KERNELS = os.environ.get("EQMOL_KERNELS") or "auto"


@dataclass(frozen=True)
class Row:
    """One method on one case; times in milliseconds, memory in MiB, ratios are baseline / method."""

    case: Case
    method: str
    weights: int
    cpu_ms: float
    cpu_ratio: float
    wall_ms: float
    wall_ratio: float
    memory_mib: float
    memory_ratio: float
    error: float

    def __str__(self) -> str:
        return (
            f"{self.case.name:24} {self.method:13} {self.weights:4d} weights  cpu {self.cpu_ms:9.2f} ms {self.cpu_ratio:7.2f}x  "
            f"wall {self.wall_ms:9.2f} ms {self.wall_ratio:7.2f}x  "
            f"memory {self.memory_mib:7.1f} MiB {self.memory_ratio:6.2f}x  error {self.error:.0e}"
        )


def machine() -> str:
    """Processor, cores, load, date and versions, one a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    vector = next((name for name in ("avx512f", "avx2") if name in flags), "")
    current = next(distributions(name="e3nn", path=[str(CURRENT_E3NN)])).version
    about = {
        "processor": " ".join(filter(None, [names[0] if names else platform.processor(), vector])),
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[0]:.1f} at the end of the run, which itself takes up to 2",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "mace-torch", "numpy")},
        "e3nn": f"{version('e3nn')}; e3nn-current is {current}",
        "dtype": "float32",
        "EQMOL_KERNELS": KERNELS,
    }
    return "".join(f"{key}: {value}\n" for key, value in about.items())


def write(folder: Path, suite: str, rows: list[Row], baseline: str) -> None:
    """``SUITE.csv``, ``SUITE.md`` and ``SUITE.png`` in the folder, and the machine in ``SUITE.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [asdict(row.case) | {k: v for k, v in asdict(row).items() if k != "case"} for row in rows]
    with replacing(folder / f"{suite}.csv") as file:
        table = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in record.items()} for record in records)
    for suffix, text in ((".md", markdown(suite, rows, baseline)), (".txt", machine())):
        with replacing(folder / f"{suite}{suffix}") as file:
            file.write(text)
    plot(folder / f"{suite}.png", rows)


def markdown(suite: str, rows: list[Row], baseline: str) -> str:
    """How many times less CPU time, wall time and memory than the baseline, a row per case."""
    methods = list(dict.fromkeys(row.method for row in rows))
    by_case = {case: {r.method: r for r in rows if r.case == case} for case in dict.fromkeys(row.case for row in rows)}
    lines = [
        f"Times faster than {baseline} with `EQMOL_KERNELS={KERNELS}`: CPU on one thread | wall on two threads | memory saved. In "
        "brackets: weights per channel. [What is compared, and how](README.md#what-is-compared).",
        "",
        "| case | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for case, found in by_case.items():
        cells = [_cell(found[method], baseline) if method in found else "" for method in methods]
        lines.append(f"| {case.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![CPU time of every method]({suite}.png)"]) + "\n"


def _cell(row: Row, baseline: str) -> str:
    if row.method == baseline:
        return f"{_short(row.cpu_ms, 3)} ms, {_short(row.memory_mib, 3)} MiB ({row.weights})"
    ratios = (_short(ratio, 2) for ratio in (row.cpu_ratio, row.wall_ratio, row.memory_ratio))
    return "**{}** · {} · {} ({})".format(*ratios, row.weights)


def _short(value: float, digits: int) -> str:
    """Few digits, without an exponent."""
    return f"{float(f'{value:.{digits}g}'):g}"


def place(row: Row) -> tuple[tuple[str, str, str], float, float]:
    """Panel (title, labels of its axes) and coordinates of a row in the plot of its suite."""
    case = row.case
    if case.operation == "power":
        panel = f"order {case.order}, {case.channels} channels", "components of the output", "ms"
        return panel, (case.degree_out + 1) ** 2, row.cpu_ms
    if "edges" in case.name:
        return (f"{case.operation}, degree {case.degree}", "edges", "ms"), case.edges, row.cpu_ms
    unit = "µs per edge" if case.edges else "µs per row"
    return (case.operation, "degree", unit), case.degree, 1e3 * row.cpu_ms / (case.edges or case.nodes)


def plot(path: Path, rows: list[Row]) -> None:
    """CPU time against what the suite varies, log-log."""
    panels: dict[tuple[str, str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        panel, x, y = place(row)
        panels.setdefault(panel, {}).setdefault(row.method, []).append((x, y))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.2), squeeze=False, layout="constrained")
    for axis, ((title, x_label, unit), lines) in zip(axes[0], panels.items(), strict=True):
        axis.set(xscale="log", yscale="log", title=title, xlabel=x_label)
        axis.set_ylabel(f"{unit}, CPU time, forward + backward")
        for method, points in lines.items():
            color, marker = MARKS[method]
            axis.plot(*zip(*points, strict=True), color=color, marker=marker, label=method)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].legend(frameon=False, fontsize=8)
    with replacing(path, "wb") as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)

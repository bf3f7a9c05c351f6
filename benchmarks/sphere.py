"""How much activations on the sphere break rotations, against the resolution of their grid.

    python benchmarks/sphere.py [FOLDER]        (default: docs/benchmarks)

Writes sphere.csv and sphere.png: root mean square of f(R x) - R f(x) over that of f(x), for random features of unit variance and
random rotations, in float64.
"""

import csv
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from eqmol.nn import SphereActivation, SphereNetwork
from eqmol.ops.contract import default_dtype
from eqmol.plots import COLORS, write_png
from eqmol.so3.layout import dim
from eqmol.so3.wigner import wigner_matrices

CHANNELS, NODES, ROTATIONS = 16, 32, 4
DEGREES = (2, 4, 6)
#: Grid points per circle of latitude, in multiples of the degree.
MULTIPLES = (2, 3, 4, 6, 8, 12)
#: Setting of the model -> its part, of a degree and a resolution.
PARTS = {
    "activation=s2, feedforward=s2": lambda degree, resolution: SphereActivation(degree, degree, resolution),
    "feedforward=grid": lambda degree, resolution: SphereNetwork(degree, degree, CHANNELS, resolution),
}


def error(part: torch.nn.Module, degree: int) -> float:
    """Relative error of equivariance."""
    x = torch.randn(NODES, dim(degree), CHANNELS)
    result, scalars, total = part(x, x[:, 0]), x[:, 0], 0.0
    for number in range(ROTATIONS):
        rotation = torch.tensor(Rotation.random(random_state=number).as_matrix())
        turn = torch.block_diag(*wigner_matrices(rotation, degree))
        total += float((part(turn @ x, scalars) - turn @ result).square().mean())
    return (total / ROTATIONS / float(result.square().mean())) ** 0.5


@torch.no_grad()
def measure() -> list[dict[str, str | int | float]]:
    """A row for every part, degree and resolution."""
    rows: list[dict[str, str | int | float]] = []
    for name, make in PARTS.items():
        for degree in DEGREES:
            for multiple in MULTIPLES:
                torch.manual_seed(0)
                resolution = multiple * degree + 2
                found = error(make(degree, resolution), degree)
                rows.append({"part": name, "degree": degree, "resolution": resolution, "error": found})
    return rows


def draw(rows: list[dict[str, str | int | float]], path: Path) -> None:
    """Write the figure: a panel per part, a curve per degree."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(PARTS), sharey=True), PARTS, strict=True):
        for color, degree in zip(COLORS, DEGREES, strict=False):
            own = [row for row in rows if (row["part"], row["degree"]) == (name, degree)]
            x, y = ([float(row[key]) for row in own] for key in ("resolution", "error"))
            axes.plot(x, y, marker="o", markersize=4, color=color, label=f"degree {degree}")
        axes.set(title=name, xlabel="grid_resolution", yscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("relative error of rotations")
    figure.axes[0].legend(frameon=False)
    write_png(figure, path)


def main() -> None:
    """Measure, and write both files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "benchmarks"
    with default_dtype(torch.float64):
        rows = measure()
    with (folder / "sphere.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"error": f"{row['error']:.2e}"} for row in rows)
    draw(rows, folder / "sphere.png")


if __name__ == "__main__":
    main()

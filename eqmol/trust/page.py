"""A report as one HTML page that needs nothing else."""

import io
import json
from html import escape

import ase
import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.figure import Figure

from eqmol.plots import COLORS
from eqmol.trust.report import Curve, Parity, Report, Rows, shown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .5rem 0; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.s { font-weight: 600; white-space: nowrap } .pass { color: #00734f } .warn { color: #9a6700 } .fail { color: #b3261e }
.small { color: #666; font-size: .87rem } svg { max-width: 100%; height: auto }
canvas { border: 1px solid #ddd; touch-action: none; cursor: grab; max-width: 100% }
.views { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; max-width: 330px }
"""

#: Points that are drawn large.
FEW = 300

#: Draws balls and sticks and turns them with the pointer; errors of forces are rings.
_VIEWER = """
for (const canvas of document.querySelectorAll('canvas[data-view]')) {
  const v = JSON.parse(canvas.dataset.view), c = canvas.getContext('2d'), n = v.p.length;
  let a = 0.5, b = 0.4, from = null;
  const mid = [0, 1, 2].map(k => v.p.reduce((s, p) => s + p[k], 0) / n);
  const size = Math.max(2, ...v.p.map(p => Math.hypot(...p.map((x, k) => x - mid[k]))));
  const worst = Math.max(...v.e, 1e-9);
  function draw() {
    const w = canvas.width, scale = 0.42 * w / size, ca = Math.cos(a), sa = Math.sin(a), cb = Math.cos(b), sb = Math.sin(b);
    const q = v.p.map(p => {
      const [x, y, z] = p.map((t, k) => t - mid[k]), x1 = ca * x + sa * z, z1 = -sa * x + ca * z;
      return [w / 2 + scale * x1, w / 2 - scale * (cb * y - sb * z1), sb * y + cb * z1];
    });
    c.clearRect(0, 0, w, w);
    c.lineWidth = 3; c.strokeStyle = '#999';
    for (const [i, j] of v.b) { c.beginPath(); c.moveTo(q[i][0], q[i][1]); c.lineTo(q[j][0], q[j][1]); c.stroke(); }
    for (const i of [...q.keys()].sort((i, j) => q[i][2] - q[j][2])) {
      const r = 0.45 * v.r[i] * scale;
      c.beginPath(); c.arc(q[i][0], q[i][1], r, 0, 7); c.fillStyle = v.c[i]; c.fill();
      c.lineWidth = 1; c.strokeStyle = '#444'; c.stroke();
      c.beginPath(); c.arc(q[i][0], q[i][1], r + 3, 0, 7);
      c.lineWidth = 6 * v.e[i] / worst; c.strokeStyle = '#b3261e'; if (c.lineWidth && v.e[i] > 0.05 * worst) c.stroke();
    }
  }
  canvas.onpointerdown = e => { from = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); };
  canvas.onpointerup = () => { from = null; };
  canvas.onpointermove = e => {
    if (!from) return;
    a += (e.clientX - from[0]) / 90; b += (e.clientY - from[1]) / 90; from = [e.clientX, e.clientY]; draw();
  };
  draw();
}
"""


def page(report: Report) -> str:
    """The page of a report."""
    failed = report.failures()
    verdict = f"Failed: {', '.join(failed)}" if failed else "No check failed"
    facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in report.facts.items())
    lines = "".join(
        f'<tr><td class="s {line.status}">{line.status}</td><td>{escape(line.name)}<br><span class="small">{escape(line.words)}'
        f'</span></td><td class="n">{shown(line.value)}</td><td class="n">{shown(line.limit)}</td><td>{escape(line.unit)}</td>'
        f'<td class="small">{escape(line.reason)}</td></tr>'
        for line in report.lines
    )
    header = "<tr><th></th><th>check</th><th class=n>found</th><th class=n>allowed</th><th>unit</th><th>why</th></tr>"
    parts = [
        f"<h1>{escape(report.title)}</h1><p class='s {'fail' if failed else 'pass'}'>{escape(verdict)}</p>",
        f"<table>{facts}</table><h2>Checks</h2><table>{header}{lines}</table>",
        *(_table(table) for table in report.tables),
        *(f"<h2>{escape(parity.title)}</h2>{_parity(parity)}" for parity in report.parities),
        *(f"<h2>{escape(curve.title)}</h2>{_figure(curve)}" for curve in report.curves),
    ]
    if report.worst:
        views = "".join(_view(words, atoms) for words, atoms in report.worst)
        parts.append(
            "<h2>Worst structures</h2><p class='small'>Drag to turn. A ring is as thick as the error of the atom's force.</p>"
            f"<div class='views'>{views}</div><script>{_VIEWER}</script>"
        )
    title = escape(f"Examination of {report.title}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>\n'


def _table(table: Rows) -> str:
    header = "".join(f"<th{' class=n' * (column > 0)}>{escape(name)}</th>" for column, name in enumerate(table.header))
    rows = "".join(
        f"<tr><td>{escape(row[0])}</td>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in table.rows
    )
    return f"<h2>{escape(table.title)}</h2><table><tr>{header}</tr>{rows}</table>"


def _figure(curve: Curve) -> str:
    """An SVG."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, (x, y)) in enumerate(curve.lines.items()):
        axes.plot(
            x,
            y,
            color=COLORS[number % len(COLORS)],
            lw=1.2,
            ls=("-", "--", ":", "-.")[number // len(COLORS) % 4],
            label=name,
        )
    axes.set_xlabel(curve.x)
    axes.set_ylabel(curve.y)
    if len(curve.lines) > 1:
        values = sorted(value for _, line in curve.lines.values() for value in line)
        low, high = values[0], values[int(0.9 * (len(values) - 1))]  # walls would hide the rest
        axes.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9)
        axes.legend(fontsize="small", ncols=2)
    return _svg(figure)


def _parity(parity: Parity) -> str:
    """An SVG of two squares: predictions against labels, and their difference; points are pixels, as there may be many."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes, errors = figure.subplots(1, 2)
    everything = np.concatenate([value for pair in parity.points.values() for value in pair])
    ends = [float(everything.min()), float(everything.max())]
    axes.plot(ends, ends, color="#999", lw=1)
    errors.axhline(0.0, color="#999", lw=1)
    for number, (name, (labels, predictions)) in enumerate(parity.points.items()):
        color, size = COLORS[number % len(COLORS)], 16 if labels.size < FEW else 4
        style = {"color": color, "s": size, "alpha": 0.5, "lw": 0, "rasterized": True}
        axes.scatter(labels, predictions, label=name, **style)
        errors.scatter(labels, predictions - labels, **style)
    axes.set_aspect("equal", "datalim")
    axes.set_ylabel(f"prediction / ({parity.unit})")
    errors.set_ylabel(f"prediction - label / ({parity.unit})")
    for each in (axes, errors):
        each.set_xlabel(f"label / ({parity.unit})")
    if len(parity.points) > 1:
        axes.legend(fontsize="small", markerscale=3)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", dpi=150, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _view(words: str, atoms: ase.Atoms) -> str:
    radii = covalent_radii[atoms.numbers]
    distances = atoms.get_all_distances()
    bonds = [[i, j] for i in range(len(atoms)) for j in range(i) if distances[i, j] < 1.25 * (radii[i] + radii[j])]
    colors = ["#" + "".join(f"{round(255 * x):02x}" for x in jmol_colors[z]) for z in atoms.numbers]
    data = {
        "p": atoms.positions.round(3).tolist(),
        "r": radii.tolist(),
        "c": colors,
        "b": bonds,
        "e": atoms.arrays["error"].round(4).tolist(),
    }
    view = escape(json.dumps(data), quote=True)
    caption = f"<figcaption class='small'>{escape(words)}</figcaption>"
    return f'<figure><canvas width="320" height="320" data-view="{view}"></canvas>{caption}</figure>'

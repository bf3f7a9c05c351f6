"""Lines of a report and what they say together."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from numpy.typing import NDArray

from eqmol.files import replacing
from eqmol.trust.limits import limit_of

PASS, WARN, FAIL = "pass", "warn", "fail"


class Line(NamedTuple):
    """What one check found.

    Attributes:
        name: of the check.
        status: "pass", "warn" or "fail".
        value: what was measured; NaN where it could not be.
        limit: up to which it passes; infinite where nothing is promised.
        unit: of both.
        reason: why it is asked for.
        words: what is to be said about the value: where it was found.
    """

    name: str
    status: str
    value: float
    limit: float
    unit: str
    reason: str
    words: str = ""


def judge(name: str, value: float, kinds: frozenset[str], words: str = "") -> Line:
    """The line of a value that must be small."""
    limit = limit_of(name, kinds)
    status = PASS if value <= limit.passes else WARN if value <= limit.fails else FAIL
    if math.isinf(limit.passes) and not math.isnan(value):
        status = WARN if value > 0 else PASS
    return Line(name, status, value, limit.passes, limit.unit, limit.reason, words)


class Curve(NamedTuple):
    """A figure: titles, and lines by name as x and y."""

    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]


class Parity(NamedTuple):
    """Predictions against labels: titles, and points by name as labels and predictions."""

    title: str
    unit: str
    points: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


class Rows(NamedTuple):
    """A table for a person."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass
class Report:
    """What an examination found.

    Attributes:
        title: what was examined.
        facts: about the model, by name.
        lines: of all checks.
        tables: errors by element and the like.
        curves: figures.
        parities: figures of predictions against labels.
        worst: structures with the largest errors of forces, and what is said about them; forces and errors per atom in ``arrays``.
    """

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    tables: list[Rows] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    parities: list[Parity] = field(default_factory=list)
    worst: list[tuple[str, ase.Atoms]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no line fails."""
        return all(line.status != FAIL for line in self.lines)

    def failures(self) -> list[str]:
        """Names of the lines that fail."""
        return [line.name for line in self.lines if line.status == FAIL]

    def named(self) -> dict[str, Any]:
        """For a program, as JSON takes it; numbers that are not finite become null."""

        def number(value: float) -> float | None:
            return value if math.isfinite(value) else None

        lines = [line._asdict() | {"value": number(line.value), "limit": number(line.limit)} for line in self.lines]
        tables = [table._asdict() for table in self.tables]
        return {"model": self.title, "passed": self.passed, "facts": self.facts, "lines": lines, "tables": tables}

    def card(self) -> str:
        """A model card of one page, Markdown."""
        marks = {PASS: "✓", WARN: "!", FAIL: "✗"}
        verdict = "No check failed." if self.passed else f"**Failed: {', '.join(self.failures())}.**"
        text = [f"# {self.title}", "", verdict, ""]
        text += [f"- {name}: {value}" for name, value in self.facts.items()]
        text += ["", "| | check | found | allowed | unit |", "|---|---|---|---|---|"]
        text += [
            f"| {marks[line.status]} | {line.name} | {shown(line.value)} | {shown(line.limit)} | {line.unit} |"
            for line in self.lines
        ]
        for table in self.tables:
            text += ["", f"**{table.title}**", "", f"| {' | '.join(table.header)} |", f"|{'---|' * len(table.header)}"]
            text += [f"| {' | '.join(row)} |" for row in table.rows]
        return "\n".join(text) + "\n"

    def write(self, folder: str | Path = ".", card: bool = False) -> list[Path]:
        """Write ``report.html``, ``report.json`` and, with ``card``, ``card.md`` into a folder; return their paths."""
        from eqmol.trust.page import page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "report.html": page(self),
            "report.json": json.dumps(self.named(), indent=2, ensure_ascii=False) + "\n",
        }
        if card:
            texts["card.md"] = self.card()
        for name, text in texts.items():
            with replacing(folder / name) as file:
                file.write(text)
        return [folder / name for name in texts]


def shown(value: float) -> str:
    """A value or limit for a person."""
    if math.isnan(value):
        return "-"
    return "any" if math.isinf(value) else f"{value:.2g}"

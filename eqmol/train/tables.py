"""What a person sees of targets: columns of the log, curves, tables of errors, and one line per epoch."""

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from eqmol.data.comparison import Metrics
from eqmol.graph.targets import ENERGY, FORCES, STRESS, Target
from eqmol.inference.errors import error_names, error_unit, offset_of
from eqmol.plots import COLORS, Quantity
from eqmol.train.loss import WeightedLoss
from eqmol.units import number, quantity, shown_unit

#: Title and errors by their names, of a split or of a part of one.
Row = tuple[str, dict[str, float]]

ERRORS = {"mse": "squared", "mae": "absolute", "norm": "length", "huber": "Huber"}
#: The order of curves; and letters of the line per epoch.
LETTERS = {"forces": "F", "energy": "E", "stress": "S"}


def columns(targets: Sequence[Target]) -> tuple[str, ...]:
    """Return the errors that are logged after every validation."""
    return tuple(name for target in targets for name in error_names(target))


def curves(targets: Sequence[Target]) -> tuple[tuple[str, str], ...]:
    """Return the errors that the learning curve shows, and their labels: RMSE of energies and forces, MAE of properties."""
    order = sorted(targets, key=lambda target: [*LETTERS, target.name].index(target.name))
    shown = []
    for target in order[: len(COLORS)]:
        kind = int(not target.is_property)
        shown.append((error_names(target)[kind], f"{target.name} {('MAE', 'RMSE')[kind]} ({error_unit(target)})"))
    return tuple(shown)


def quantities(targets: Sequence[Target]) -> tuple[Quantity, ...]:
    """Return what the parity plot shows."""
    titles = {"energy": "energy relative to isolated atoms", "forces": "force components"}
    found = []
    for target in targets:
        per_atom = "/atom" if target.kind == "energy" else ""
        title = titles.get(target.kind, target.name)
        if target.kind == "extensive":
            title = f"{target.name} without atom references"
        if target.kind != "stress":
            units = (f"{target.unit}{per_atom}", f"{target.shown_unit}{per_atom}")
            unit, shown = units
            found.append(Quantity(target.name, title, unit, error_names(target)[1], shown, target.shown_factor))
    return tuple(found)


def describe(targets: Sequence[Target], row: Mapping[str, float | int | str]) -> str:
    """Return the validation errors of a row of the log: "val RMSE E 1.2 meV/atom, F 45.6 meV/Å", "val MAE U0 12.3 meV, mu 0.2 D";
    "" without a validation.
    """
    parts: dict[str, list[str]] = {"RMSE": [], "MAE": []}
    for target in targets:
        mae, rmse = error_names(target)
        value = row.get(f"val_{mae if target.is_property else rmse}", math.nan)
        if not isinstance(value, str) and math.isfinite(value):
            if target.is_property:
                parts["MAE"].append(f"{target.name} {quantity(value, error_unit(target), 4)}")
            else:
                parts["RMSE"].append(f"{LETTERS[target.name]} {quantity(value, error_unit(target))}")
    shown = [f"{kind} {', '.join(errors)}" for kind, errors in parts.items() if errors]
    return f"val {', '.join(shown)}" if shown else ""


def loss_table(loss: WeightedLoss, labelled: Sequence[str], targets: Sequence[Target]) -> Table | None:
    """Return which errors, divided by what, count how much; None for properties alone, which count alike."""
    shown = [target for target in targets if target.name in loss.terms and target.name in labelled]
    if all(target.is_property for target in shown):
        return None
    table = Table("label", "error", "scale", "weight", "at the end", title="loss: Σ weight · mean error / scale")
    for target in shown:
        term = loss.terms[target.name]
        scale = f"{term.scale:.4g} {target.unit}{'/atom' * (target.kind == 'energy')}".rstrip()
        weights = (f"{term.weight_at(0.0):.3g}", f"{term.weight_at(1.0):.3g}")
        table.add_row(target.name, ERRORS[term.loss], scale, *weights)
    return table


def error_tables(
    targets: Sequence[Target],
    rows: Sequence[Row],
    baselines: Mapping[str, Row],
    metrics: Metrics | None,
    comparisons: Mapping[str, Mapping[str, float]],
) -> list[Table]:
    """Return tables of errors: one row per split, and per config_type where there are several.

    Args:
        targets: what the model is judged by.
        rows: of the model.
        baselines: rows that stand below those of some titles in the table of metrics.
        metrics: of the data set.
        comparisons: errors of others by name and property.
    """
    energies = [target for target in targets if not target.is_property]
    properties = [target for target in targets if target.is_property]
    tables = [_energy_table(rows)] if energies else []
    if properties:
        tables.append(_property_table(properties, rows, comparisons))
    if metrics is not None:
        both = [row for title, errors in rows for row in ((title, errors), baselines.get(title)) if row is not None]
        tables.append(_metrics_table(metrics, both))
    return tables


def offset_notes(targets: Sequence[Target], rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each row and target whose errors are nearly one constant."""
    found = ((title.strip(), offset_of(target, errors)) for title, errors in rows for target in targets)
    return [f"{title}: {offset.words()}" for title, offset in found if offset is not None]


def structures_shown(errors: Mapping[str, float]) -> str:
    """Return the number of structures of a row of errors; "1000 of 5000" where they were drawn from more; "" of published ones."""
    if "structures" not in errors:
        return ""
    number = f"{errors['structures']:.0f}"
    return f"{number} of {errors['sampled_from']:.0f}" if "sampled_from" in errors else number


def _energy_table(rows: Sequence[Row]) -> Table:
    table = Table(title="Errors of the best model (MAE / RMSE)", title_justify="left", box=box.SIMPLE_HEAD)
    table.padding = (0, 0, 0, 1)  # whole on 80 columns
    table.add_column("split", overflow="fold")
    table.add_column("frames", justify="right")
    names = [("energy", ("energy_mae_mev", "energy_rmse_mev"), "meV")]
    names += [(target.name, error_names(target), error_unit(target)) for target in (ENERGY, FORCES, STRESS)]
    columns = []  # keys of MAE and RMSE, and the factor of what is shown
    for title, pair, unit in names:
        values = [errors[key] for _, errors in rows for key in pair if key in errors]
        if values:
            shown, factor = shown_unit(values, unit)
            columns.append((*pair, factor))
            table.add_column(f"{title}\n{shown}", justify="right")
    table.add_column("forces\nRMSE/RMS", justify="right", no_wrap=True)
    for name, errors in rows:
        cells = [
            f"{number(factor * errors[mae]) if mae in errors else '-'} / {number(factor * errors[rmse])}"
            if rmse in errors
            else ""
            for mae, rmse, factor in columns
        ]
        rms = errors.get("forces_rms_mev_per_a", 0.0)
        relative = f"{100 * errors['forces_rmse_mev_per_a'] / rms:.1f} %" if rms > 0 else ""
        table.add_row(name, structures_shown(errors), *cells, relative)
    return table


def _property_table(
    targets: Sequence[Target], rows: Sequence[Row], comparisons: Mapping[str, Mapping[str, float]]
) -> Table:
    """Return mean absolute errors with their units, and those of others below."""
    table = Table(title="Errors of the best model (MAE)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("split", no_wrap=True)
    table.add_column("molecules", justify="right", no_wrap=True)
    factors = {}
    for target in targets:
        key = error_names(target)[0]
        unit, factors[target.name] = shown_unit([row[key] for _, row in rows if key in row], target.shown_unit)
        table.add_column(f"{target.name}\n{unit}", justify="right", no_wrap=True)

    def cells(errors: Mapping[str, float], suffix: str = "") -> list[str]:
        known = {name: errors.get(f"{name}{suffix}") for name in factors}
        return ["" if error is None else number(factors[name] * error, 4) for name, error in known.items()]

    for title, errors in rows:
        table.add_row(title, structures_shown(errors), *cells(errors, "_mae"))
    if comparisons:
        table.add_section()
        for model, others in comparisons.items():
            table.add_row(model, "", *cells(others))
    return table


def _metrics_table(metrics: Metrics, rows: Sequence[Row]) -> Table:
    table = Table(title=metrics.title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("split", no_wrap=True)
    for title, _, _ in metrics.columns:
        table.add_column(title, justify="right", no_wrap=True)
    for name, errors in rows:
        table.add_row(name, *(form.format(errors[key]) if key in errors else "" for _, key, form in metrics.columns))
    return table

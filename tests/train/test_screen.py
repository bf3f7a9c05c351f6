"""What a run shows on a terminal and elsewhere."""

import io
import re

import pytest
from rich.console import Console

from eqmol.graph.targets import ENERGY, FORCES, STRESS, Target
from eqmol.train.run import run
from eqmol.train.tables import describe, error_tables
from tests.train.runs import configuration


def lines_of_terminal(text: str) -> list[str]:
    """The lines that stay on a terminal."""
    lines, row = [""], 0
    for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.endswith("A") and piece.startswith("\x1b"):
            row -= int(piece[2:-1] or 1)
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece and piece != "\r" and not piece.startswith("\x1b"):
            lines[row] += piece
    return lines


def test_epochs_stay_above_the_bar(tmp_path):
    screen = io.StringIO()
    console = Console(file=screen, width=100, height=50, force_terminal=True, legacy_windows=False)
    run(configuration(tmp_path), console)
    lines = lines_of_terminal(screen.getvalue())
    epochs = [line for line in lines if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("val RMSE" in line for line in epochs)
    assert "\r\x1b[2Kepoch 1/3 \x1b" in screen.getvalue()  # the bar, while it trains
    assert not [line for line in lines if "━━━ " in line and ":" in line]  # and no bar afterwards
    assert not [line for line in lines if line.startswith("evaluating")]


@pytest.mark.parametrize("width", [80, 110])
def test_large_errors_change_their_unit(width):
    errors = {"structures": 7.0, "forces_rms_mev_per_a": 2e5}
    for name, suffixes in (
        ("energy", ("mev", "mev_per_atom")),
        ("forces", ("mev_per_a",)),
        ("stress", ("mev_per_a3",)),
    ):
        for suffix in suffixes:
            errors |= {f"{name}_mae_{suffix}": 1.2e5, f"{name}_rmse_{suffix}": 1.65e5}
    small = {key: 1e-3 * value for key, value in errors.items()}
    screen = io.StringIO()
    Console(file=screen, width=width).print(
        *error_tables((ENERGY, FORCES, STRESS), [("train", small), ("a_long_name_of_a_set", errors)], {}, None, {})
    )
    text = screen.getvalue()
    assert "e+" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert {"120", "165", "82.5", "RMSE/RMS"} <= set(text.split())
    assert "120 / 165" in text
    assert "eV/atom" in text.split()
    assert "meV" not in text
    assert [line[:8] for line in text.splitlines() if "train" in line] == ["  train "]


def test_published_errors_have_their_rows():
    published = ("  MACE (published)", {"energy_rmse_mev": 3.0, "forces_rmse_mev_per_a": 8.8})
    errors = {"structures": 5.0, "energy_mae_mev": 4.0, "energy_rmse_mev": 6.0, "forces_mae_mev_per_a": 7.0}
    errors |= {"forces_rmse_mev_per_a": 9.0, "forces_rms_mev_per_a": 900.0}
    screen = io.StringIO()
    Console(file=screen, width=80).print(*error_tables((ENERGY, FORCES), [("300K", errors), published], {}, None, {}))
    own, other = screen.getvalue().rstrip().splitlines()[-2:]
    assert own.split() == ["300K", "5", "4", "/", "6", "7", "/", "9", "1.0", "%"]
    assert other.split() == ["MACE", "(published)", "-", "/", "3", "-", "/", "8.8"]


def test_properties_change_their_unit():
    targets = (Target("U0", "extensive", "eV"), Target("mu", "intensive", "D"))
    screen = io.StringIO()
    rows = [("train", {"structures": 5, "sampled_from": 70, "U0_mae": 1.2e5, "mu_mae": 0.2})]
    Console(file=screen, width=80).print(*error_tables(targets, rows, {}, None, {"other": {"U0": 6.59}}))
    assert [line[:8] for line in screen.getvalue().splitlines() if "train" in line] == ["  train "]
    text = screen.getvalue().split()
    assert {"5", "of", "70", "120", "eV", "0.2", "0.00659"} <= set(text)
    assert "meV" not in text
    assert describe(targets, {"val_U0_mae": 1.2e5, "val_mu_mae": 0.25}) == "val MAE U0 120 eV, mu 0.25 D"

"""What a run says about itself at its end: each judgement where it holds and where it does not."""

import io

import pytest
from rich.console import Console

from eqmol.train.endings import Ending, cut, next_step, sentences, unlike_validation
from eqmol.train.run import run
from tests.train.runs import configuration

JUDGED = {"e": "energies", "f": "forces"}


def ending(energy: float, forces: float, apart: float = 1.0, **changes) -> Ending:
    """Errors on the validation set as parts of the baseline's, and how many times those of training they are."""
    val = {"e": energy * 50.0, "f": forces * 1000.0}
    train = {name: error / apart for name, error in val.items()}
    return Ending(JUDGED, train, val, {"e": 50.0, "f": 1000.0}, {})._replace(**changes)


@pytest.mark.parametrize(("rate", "said"), [(1.0, True), (0.11, True), (0.1, False), (0.01, False)])
def test_a_run_that_ended_early(rate, said):
    sentence = cut(0.4, rate)
    assert (sentence is not None) == said
    if sentence is not None:
        assert f"at {100 * rate:.0f} % of its highest, 40 % of the way" in sentence


def test_structures_unlike_those_of_validation():
    tests = {"300K": {"e": 2.0, "f": 11.0}, "hot": {"e": 15.5, "f": 45.0}}
    sentence = unlike_validation(ending(0.1, 0.01, tests=tests))
    assert sentence is not None
    assert "on hot: energies 15.5 (3.1 times), forces 45 (4.5 times). These" in sentence
    assert "300K" not in sentence
    assert unlike_validation(ending(0.2, 0.02, tests=tests)) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ending(0.05, 0.05), None),
        (ending(0.05, 0.3), "error of forces is 30 % of that of the baseline on the validation set, nearly as on the training set"),
        (ending(0.05, 0.3, backend="cg"), "with backend=auto"),
        (ending(0.05, 0.3, apart=2.0), "2.0 times that on the training set: more data helps most"),
        (ending(1.2, 0.05), "error of energies is 120 % of that of the baseline on the validation set, while the rest"),
        (ending(0.5, 0.99), "no less on what was trained on: look at units and labels with eqmol doctor"),
        (ending(0.5, 1.1, apart=4.0), "more data"),
        (ending(0.5, 0.5, baseline={"e": 0.0, "f": 0.0}), None),
    ],
)  # fmt: skip
def test_the_next_step(given, words):
    found = next_step(given)
    assert (found is None) == (words is None)
    assert words is None or words in str(found)


def test_a_complete_run_says_nothing():
    assert sentences(ending(0.05, 0.05)) == []


def test_a_run_that_stops_early_says_so(tmp_path):
    screen = io.StringIO()
    options = ["trainer.early_stopping=1", "task.optimizer.lr=1e-30", "trainer.max_epochs=40"]
    options += ["task.schedule.warmup_steps=0", "trainer.ema_decay=null"]
    run(configuration(tmp_path, "run", *options), Console(file=screen, width=80))
    assert "the run ended with the learning rate at" in screen.getvalue()
    assert "next: " in screen.getvalue()

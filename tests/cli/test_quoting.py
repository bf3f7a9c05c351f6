"""Paths with any characters reach the configuration as they are typed."""

import os
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from eqmol.cli.quoting import advice, quote_paths
from eqmol.errors import InputError

NAMES = [
    *(
        "a=b.xyz",
        "runs/lr=0.1,seed=2/a.xyz",
        "a(1).xyz",
        "a,b.xyz",
        "my file.xyz",
        " a.xyz ",
        "run[12].xyz",
        "[1]/a.xyz",
    ),
    *(
        "x~.xyz",
        "Lösung/é.xyz",
        "a#b&c;d!e^f`g.xyz",
        "it's.xyz",
        'a"b.xyz',
        "a'\"b.xyz",
        "{a}.xyz",
        "a{b}.xyz",
        "3",
        "1e5",
    ),
    *("C:\\data\\x.xyz", "a=b\\", "a\\'b", "choice(a,b)", "$HOME=x", "*=?.xyz", "a:b", "300K.xyz", "glob(x)", "a<b>|c"),
]


def value(argument: str):
    override = OverridesParser.create().parse_override(argument)
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize("key", ["output_dir", "data.train_file", "+data.test_files.hot", "++init_from"])
@pytest.mark.parametrize("name", NAMES)
def test_any_path(key: str, name: str) -> None:
    assert quote_paths(["task=forces", f"{key}={name}"])[0] == "task=forces"
    assert value(quote_paths([f"{key}={name}"])[0]) == name


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.train_file=[a=1.xyz, b (2).xyz]", ["a=1.xyz", "b (2).xyz"]),
        ("data.train_file=[a.xyz,b.xyz]", ["a.xyz", "b.xyz"]),
        ("data.test_files={300K: a.xyz}", {"300K": "a.xyz"}),
        ("data.train_file='a,b'", "a,b"),
        ("data.train_file=null", None),
        ("resume=auto", "auto"),
        ("seed=3", 3),
        ("data.val_fraction=.3", 0.3),
    ],
)
def test_what_hydra_reads_stays_as_it_is(typed: str, expected) -> None:
    (argument,) = quote_paths([typed])
    assert value(argument) == expected


def test_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert value(quote_paths(["output_dir=~/a=b"])[0]) == f"{tmp_path}/a=b"
    assert value(quote_paths(["data.train_file=[~/a.xyz,b.xyz]"])[0]) == [f"{tmp_path}/a.xyz", "b.xyz"]
    os.mkdir("~")
    assert value(quote_paths(["output_dir=~/"])[0]) == "~/"


def test_several_runs_take_several_values() -> None:
    (_, argument, other) = quote_paths(["-m", "data.train_file=a=1.xyz,b.xyz", "data.val_file=c.xyz,d.xyz"])
    override = OverridesParser.create().parse_override(argument)
    assert [choice.text for choice in override.value().list] == ["a=1.xyz", "b.xyz"]
    assert other == "data.val_file=c.xyz,d.xyz"


def test_files_with_commas_and_several_files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.xyz", "b.xyz"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"for several files type 'data.train_file=\[a.xyz,b.xyz\]', for several runs"):
        quote_paths(["data.train_file=a.xyz,b.xyz"])
    (tmp_path / "a.xyz,b.xyz").touch()
    assert value(quote_paths(["data.train_file=a.xyz,b.xyz"])[0]) == "a.xyz,b.xyz"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.test_files={300K: a=b.xyz, cold: é (1).xyz}", {"300K": "a=b.xyz", "cold": "é (1).xyz"}),
        ("data.test_files={300K: a=b.xyz, cold: [c=1.xyz]}", None),
    ],
)
def test_names_with_paths_are_shown_in_quotation_marks(typed: str, expected) -> None:
    with pytest.raises(InputError) as error:
        quote_paths([typed])
    shown = str(error.value).partition("; type ")[2]
    assert ([] if expected is None else [value(*shlex.split(shown))]) == ([] if expected is None else [expected])
    assert expected is not None or 'put each in quotation marks: {name: "path"}' in str(error.value)


@pytest.mark.parametrize(
    ("typed", "shown", "expected"),
    [
        ("model.name=a(b", "'model.name=\"a(b\"'", "a(b"),
        ("data.test_files.300K=a=b.xyz", "'data.test_files={300K: \"a=b.xyz\"}'", {"300K": "a=b.xyz"}),
        ("data.targets={a: {unit: é}}", "'data.targets={a: {unit: \"é\"}}'", {"a": {"unit": "é"}}),
    ],
)
def test_advice_can_be_pasted(typed: str, shown: str, expected) -> None:
    assert quote_paths([typed]) == [typed]
    assert advice(typed) == f"; if the value is meant as it is, type {shown}"
    assert value(*shlex.split(shown)) == expected


def test_no_advice() -> None:
    assert advice("a b") == ""
    assert advice("=") == ""

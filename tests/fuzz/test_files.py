"""A few mutants of every format, in this process; ``make fuzz`` tries thousands, in a process with limits."""

from pathlib import Path

import pytest

from eqmol.errors import InputError
from tests.fuzz.files import Check, judge, make, mutants

ROUNDS = 4


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Check]]:
    pytest.importorskip("lmdb")
    return make(tmp_path_factory.mktemp("made"))


def test_whole_files_are_read_right(sources):
    for name, (path, check) in sources.items():
        assert (name, *judge(check, path)) == (name, "right", "")


def test_mutants_are_right_or_refused(sources):
    found = []
    for name, index, content in mutants(ROUNDS * len(sources), 0, sources):
        path, check = sources[name]
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        found.append((name, index, *judge(check, path)))
        path.unlink()
        path.write_bytes(whole)
    assert not [entry for entry in found if entry[2] not in ("right", "refused")]
    assert {entry[2] for entry in found} == {"right", "refused"}


def test_the_judge_tells_wrong_from_refused(tmp_path):
    def refuse(_: Path) -> None:
        raise InputError("no")

    def fail(_: Path) -> None:
        raise KeyError("x")

    assert judge(refuse, tmp_path) == ("refused", "no")
    assert judge(fail, tmp_path) == ("wrong", "KeyError: 'x'")
    assert judge(lambda _: None, tmp_path) == ("right", "")

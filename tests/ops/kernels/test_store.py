"""What lies in the cache is executed: nothing that others could have put there."""

import os
from pathlib import Path

import pytest

from eqmol.ops.kernels import store
from eqmol.ops.kernels.compiler import CompilationError

KEY = "0" * 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries are kept; messages may come again."""
    monkeypatch.setenv("EQMOL_CACHE", str(tmp_path / "cache"))
    store._say.cache_clear()
    return tmp_path / "cache" / "kernels"


class Maker:
    """Writes libraries and counts them."""

    def __init__(self, content: bytes = b"library") -> None:
        self.content, self.made = content, 0

    def __call__(self, path: Path) -> None:
        self.made += 1
        path.write_bytes(self.content)


def test_a_library_is_made_once_and_for_the_user_alone(folder):
    make = Maker()
    path = store.library(KEY, make)
    assert path == store.library(KEY, make) == folder / f"{KEY}.so"
    assert make.made == 1
    assert path.read_bytes() == b"library"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o700
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp") or name.startswith(".")]


@pytest.mark.parametrize("record", [True, False])
def test_another_content_is_made_anew(folder, record):
    """Damaged, half-written, or planted without its digest."""
    make = Maker()
    path = store.library(KEY, make)
    path.write_bytes(b"planted")
    if not record:
        (folder / f"{KEY}.sha256").unlink()
    assert store.library(KEY, make) == path
    assert path.read_bytes() == b"library"
    assert make.made == 2


@pytest.mark.parametrize("what", ["folder", "library", "record"])
def test_what_others_may_write_is_not_used(folder, what, caplog):
    path = store.library(KEY, Maker(b"planted"))
    {"folder": folder, "library": path, "record": folder / f"{KEY}.sha256"}[what].chmod(0o775)
    for _ in range(2):
        found = store.library(KEY, Maker())
        assert found.read_bytes() == b"library"
        assert folder not in found.parents
        assert found.parent.stat().st_mode & 0o777 == 0o700
    assert len(caplog.messages) == 1
    assert "others may write" in caplog.messages[0]
    assert path.read_bytes() == b"planted"


@pytest.mark.parametrize("what", ["folder", "library", "record"])
def test_links_are_not_followed(folder, what, tmp_path, caplog):
    path = store.library(KEY, Maker(b"planted"))
    place = {"folder": folder, "library": path, "record": folder / f"{KEY}.sha256"}[what]
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    found = store.library(KEY, Maker())
    assert found.read_bytes() == b"library"
    assert tmp_path not in found.parents
    assert "link" in caplog.text


def test_what_belongs_to_others_is_not_used(folder, monkeypatch, caplog):
    store.library(KEY, Maker(b"planted"))
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    monkeypatch.setattr(store, "_private", lambda _process: folder.parent)
    monkeypatch.setattr(store, "_is_sound", lambda path, record: False)
    assert store.library(KEY, Maker()).parent == folder.parent
    assert "belongs to another user" in caplog.text


@pytest.mark.parametrize("what", ["mkdir", "replace"])
def test_a_disk_that_cannot_be_written_is_not_needed(folder, what, monkeypatch, caplog):
    """Read-only, or full."""

    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    original = os.replace

    def full(source, target):
        if folder in Path(target).parents:
            fail()
        original(source, target)

    if what == "mkdir":
        monkeypatch.setattr(Path, "mkdir", fail)
    else:
        monkeypatch.setattr(os, "replace", full)
    assert store.library(KEY, Maker()).read_bytes() == b"library"
    assert "No space left on device" in caplog.text


def test_a_place_that_is_no_folder(folder, caplog):
    folder.parent.mkdir()
    folder.write_text("a file")
    assert store.library(KEY, Maker()).read_bytes() == b"library"
    assert "no folder but a link or file" in caplog.text


def test_a_failed_compilation_leaves_nothing(folder):
    def fail(path):
        path.write_bytes(b"half")
        raise CompilationError("no")

    with pytest.raises(CompilationError):
        store.library(KEY, fail)
    assert [name for name in os.listdir(folder) if not name.endswith(".lock")] == []


def test_a_lock_that_is_never_released_is_passed(folder, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    store.library("1" * 64, Maker())
    with store.FileLock(folder / f"{KEY}.lock"):
        assert store.library(KEY, Maker()).read_bytes() == b"library"

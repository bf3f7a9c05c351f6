"""A full disk, Ctrl-C and SIGTERM in a run: a sentence, an exit code, whole files, and nothing left behind."""

import errno
import os
import shutil
import signal
import threading

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from eqmol.cli.train import main
from eqmol.errors import NoRoomError
from eqmol.files import write as files
from eqmol.train import resume
from eqmol.train.lightning import _quiet_threads
from eqmol.train.resume import LastCheckpoint
from eqmol.train.task import Task
from tests.train.runs import TINY, train

OWN = ("config.yaml", "log.csv", "model.safetensors", "last.ckpt")
REPORT = ("metrics.json", "parity.npz", "parity.png", "learning_curve.png")


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of one epoch; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    train(folder, "run", "trainer.max_epochs=1")
    return folder


@pytest.fixture
def options(finished, tmp_path):
    """What continues a copy of it for an epoch, as a command."""
    shutil.copytree(finished / "run", tmp_path / "run")
    data = [f"data.{name}_file={finished / name}.xyz" for name in ("train", "val")]
    data.append(f"data.test_files={{later: {finished / 'test.xyz'}}}")
    return [*TINY, *data, "trainer.max_epochs=2", f"output_dir={tmp_path / 'run'}", "resume=auto"]


def command(options, monkeypatch):
    """Run in this process; return the exit code."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    try:
        return main(options, "eqmol train")
    except SystemExit as end:
        return end.code


# --- a full disk


def fill_up(monkeypatch, name):
    """Let the disk be full when a file of this name has been written to the half."""
    original = files.to_disk

    def to_disk(*opened):
        for file in opened:
            if name in os.path.basename(file.name):
                file.truncate(file.tell() // 2)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*opened)

    monkeypatch.setattr(files, "to_disk", to_disk)


@pytest.mark.parametrize("name", [*OWN, *REPORT])
def test_no_room_for_a_file(tmp_path, options, monkeypatch, capfd, request, name):
    if name.endswith(".png"):
        request.getfixturevalue("figures")
    before = listing(tmp_path / "run")
    with monkeypatch.context() as patch:
        fill_up(patch, name)
        assert command(options, monkeypatch) == 1
    err = capfd.readouterr().err.splitlines()
    assert err[-1].startswith(
        f"error: cannot write {tmp_path / 'run' / name}: No space left on device; make room, or write to another disk, then: "
        "eqmol train data=xyz"
    )
    assert err[-1].endswith(f"output_dir={tmp_path / 'run'} resume=auto")
    assert not [line for line in err if line.startswith("Traceback")]
    after = listing(tmp_path / "run")
    assert after.keys() == before.keys()  # no temporary file
    assert after[name] == before[name]
    if name in ("log.csv", "parity.png"):
        assert command(options, monkeypatch) == 0


def test_no_room_for_a_logger(tmp_path, options, monkeypatch, capfd):
    def log_metrics(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", log_metrics)
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    options.remove("logger=csv")
    assert command(options, monkeypatch) == 1
    assert f"error: cannot write in {tmp_path / 'run'}: No space left on device; make room" in capfd.readouterr().err
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before


def test_threads_of_loggers_are_quiet_about_a_full_disk_only(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: told.append(arguments.exc_value.errno))

    def fail(number):
        raise OSError(number, os.strerror(number))

    with _quiet_threads():
        for number in (errno.ENOSPC, errno.EACCES):
            thread = threading.Thread(target=fail, args=(number,))
            thread.start()
            thread.join()
    assert told == [errno.EACCES]


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text("epoch\n1\n")
    monkeypatch.setattr(files, "to_disk", lambda file: file.flush() or fail_full())
    with pytest.raises(NoRoomError):
        files.append(path, "2\n")
    assert path.read_text() == "epoch\n1\n"


def fail_full():
    raise OSError(errno.ENOSPC, "full")


# --- signals


def press(signum):
    os.kill(os.getpid(), signum)


def press_at(monkeypatch, owner, name, *signals):
    """Send signals when a function is called."""
    original = getattr(owner, name)

    def function(*arguments, **options):
        for signum in signals:
            press(signum)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_writes_a_checkpoint(tmp_path, options, monkeypatch, capfd, signum, code):
    before = listing(tmp_path / "run")
    press_at(monkeypatch, LastCheckpoint, "on_train_batch_end", signum)
    assert command(options, monkeypatch) == code
    out, err = capfd.readouterr()
    last = tmp_path / "run" / "last.ckpt"
    assert out.splitlines()[-2] == f"stopped by {signum.name}; {last} is written. To continue:"
    assert "once more to stop at once" in err
    after = listing(tmp_path / "run")
    assert after.keys() == before.keys()
    assert after["last.ckpt"] != before["last.ckpt"]
    assert resume.load(last)["global_step"] == 5


def test_a_signal_during_the_evaluation(tmp_path, options, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        press_at(patch, Task, "evaluate", signal.SIGINT)
        assert command(options, monkeypatch) == 130
    out = capfd.readouterr().out.splitlines()
    assert out[-2] == f"stopped by SIGINT; {tmp_path / 'run' / 'last.ckpt'} is written. To continue:"
    assert command(options, monkeypatch) == 0
    out = capfd.readouterr().out
    assert "epoch 2" not in out  # all that was left is the evaluation
    assert "Errors of the best model" in out


def test_a_second_signal_ends_at_once_also_while_the_checkpoint_is_written(tmp_path, options, monkeypatch, capfd):
    before = listing(tmp_path / "run")
    press_at(monkeypatch, LastCheckpoint, "on_train_batch_end", signal.SIGTERM)
    press_at(monkeypatch, resume, "seal", signal.SIGINT)
    assert command(options, monkeypatch) == 130
    last = tmp_path / "run" / "last.ckpt"
    text = capfd.readouterr().out.splitlines()[-2]
    assert text == f"stopped at once by SIGINT; {last} is as it was before. To continue:"
    after = listing(tmp_path / "run")
    assert after.keys() == before.keys()
    assert after["last.ckpt"] == before["last.ckpt"]


# --- what killed runs left


def test_temporaries_of_living_processes_stay(tmp_path, options, monkeypatch):
    kept = files._temporary(tmp_path / "run" / "model.safetensors", os.getppid())
    gone = [files._temporary(tmp_path / "run" / "last.ckpt", 2**22 + 1), tmp_path / "run" / ".log.csv.elsewhere-7.tmp"]
    for path in (kept, *gone):
        path.write_text("half")
    assert command(options, monkeypatch) == 0
    assert [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == [kept]

"""One run at a time in a folder.

The operating system holds the lock, so that it is gone with the process however that ends. Where the file system has no
locks, the holder shows every few seconds that it lives.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, SoftFileLease, Timeout

from eqmol.errors import InputError

LOCK = ".lock"  #: holds the lock, and says whose it is
LEASE = ".lease"  #: in its place where there are no locks
LEASE_SECONDS = 120.0  #: without a sign of life until a holder counts as dead
HEARTBEAT_SECONDS = 10.0
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


class FolderLock:
    """The right to write in a folder, from now until :meth:`release`.

    Args:
        folder: exists.
        option: what the user calls it, e.g. ``"output_dir=runs/a"``.
        patience: seconds to wait for another holder.

    Raises:
        InputError: another process holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, option: str, patience: float = 0.0):
        self._option = option
        self._note = folder.resolve() / LOCK
        self._lock: FileLock | SoftFileLease = FileLock(self._note, fallback_to_soft=False, thread_local=False)
        try:
            try:
                self._lock.acquire(timeout=patience)
            except OSError as error:
                if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
                    raise
                self._lock = self._lease()
        except Timeout:
            raise InputError(
                f"{option} is in use by {self._holder()}; wait for its end, or give another folder"
            ) from None
        started = datetime.now().astimezone().isoformat(" ", "seconds")
        self._note.write_text(f"process {os.getpid()} on {socket.gethostname()}, started at {started}", "utf-8")

    def check(self) -> None:
        """Refuse to go on writing after the lock was lost, which only a process that stood still for minutes can."""
        if isinstance(self._lock, SoftFileLease) and self._lock.compromise is not None:
            raise InputError(
                f"{self._option} was taken over by {self._holder()} after this process gave no sign of life for "
                f"{LEASE_SECONDS:.0f} s; nothing more is written"
            )

    def release(self) -> None:
        """Leave the folder to others, without a trace."""
        lost = isinstance(self._lock, SoftFileLease) and self._lock.compromise is not None
        if not lost:
            with suppress(OSError):  # Windows keeps open files
                self._note.unlink()
        self._lock.release()

    def _lease(self) -> SoftFileLease:
        """Take the lock of a file system without locks; watch up to two minutes whether an earlier holder lives."""
        path = self._note.with_name(LEASE)
        lease = SoftFileLease(
            path, lease_duration=LEASE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS, thread_local=False
        )
        if path.exists():
            print(
                f"{self._option} may be in use by {self._holder()}; waiting up to {LEASE_SECONDS:.0f} s for a sign of life",
                file=sys.stderr,
                flush=True,
            )
        lease.acquire(timeout=LEASE_SECONDS + HEARTBEAT_SECONDS, poll_interval=0.2, cancel_check=_beats(path))
        return lease

    def _holder(self) -> str:
        """Return who holds the lock, as it says itself."""
        with suppress(OSError, UnicodeDecodeError):
            return self._note.read_text("utf-8") or "another process"
        return "another process"


def _beats(path: Path) -> Callable[[], bool]:
    """Return a function that tells whether a file was touched, and is the same, since it was first asked."""
    first: list[tuple[int, int]] = []

    def beats() -> bool:
        try:
            found = path.stat()
        except OSError:
            return False
        first.append((found.st_ino, found.st_mtime_ns))
        return first[0][0] == found.st_ino and first[0][1] != found.st_mtime_ns

    return beats

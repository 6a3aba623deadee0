"""Where the processes of one worker command keep what they tell of themselves: a directory of the run's own.

prometheus_client adds up every file that it finds, so what an earlier run left behind would be counted again, and two
commands must not share a directory. Here each ``dramatiq actors`` has its own, under ``dramatiq_prom_db`` when that is
set, and whoever starts clears away those whose processes are all gone.
"""

import fcntl
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from services.errors import DataDirectoryError

#: dramatiq's name for where metrics are kept.
BASE_VARIABLE = "dramatiq_prom_db"
_LOCK = "lock"


def is_worker_process() -> bool:
    """Return whether this is one of the processes that ``dramatiq actors`` starts: Periodiq or a program is none."""
    return multiprocessing.parent_process() is not None


@cache
def run_directory() -> Path:
    """Return the directory of the worker command that this process belongs to, made and held until the process ends.

    It is empty for the first of its processes that asks. Raises DataDirectoryError when there can be none.
    """
    parent = multiprocessing.parent_process()
    command = os.getpid() if parent is None else parent.pid
    given = os.environ.get(BASE_VARIABLE)
    base = Path(given).absolute() if given else Path(tempfile.gettempdir()) / f"adjourn-{os.getuid()}"
    directory = base / f"run-{command}"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Everybody may write to the temporary directory: a name that another user took first is not ours.
        if not given and (base.is_symlink() or base.stat().st_uid != os.getuid()):
            raise PermissionError(0, "it belongs to another user")
        hold_run_directory(directory)
    except OSError as error:
        raise DataDirectoryError(
            f"cannot keep metrics in {base}: {error.strerror}; set {BASE_VARIABLE} to where this user may write"
        ) from None
    return directory


def hold_run_directory(directory: Path) -> int:
    """Make ``directory``, emptied unless another process holds it, and clear away those beside it that nobody holds.

    It is held until the descriptor is closed that this returns, which SIGKILL does as well. Raises OSError.
    """
    with _locked(directory.parent):
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = _open_lock(directory)
        if _take_if_left(lock):
            for path in directory.iterdir():
                if path.name != _LOCK:
                    path.unlink()
        fcntl.flock(lock, fcntl.LOCK_SH)
        for other in directory.parent.glob("run-*"):
            if other != directory:
                _remove_if_left(other)
    return lock


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Keep others from preparing their directories meanwhile."""
    lock = _open_lock(base)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_if_left(directory: Path) -> None:
    lock = _open_lock(directory)
    if _take_if_left(lock):
        shutil.rmtree(directory, ignore_errors=True)
    os.close(lock)


def _open_lock(directory: Path) -> int:
    return os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _take_if_left(lock: int) -> bool:
    """Take a lock if nobody holds it; return whether it is so."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Where the processes of one worker command keep what they tell of themselves: a directory of the run's own.

prometheus_client adds up every file that it finds, so what an earlier run left behind would be counted again, and two
commands must not share a directory. Here each ``dramatiq actors`` has its own, under ``dramatiq_prom_db`` when that is
set, and whoever starts clears away those whose processes are all gone.
"""

import fcntl
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from services.errors import DataDirectoryError

#: dramatiq's name for where metrics are kept.
BASE_VARIABLE = "dramatiq_prom_db"


def is_worker_process() -> bool:
    """Return whether this is one of the processes that ``dramatiq actors`` starts: Periodiq or a program is none."""
    return multiprocessing.parent_process() is not None and "dramatiq.cli" in sys.modules


@cache
def run_directory() -> Path:
    """Return the directory of the worker command that this process belongs to, made and held until the process ends.

    It is empty for the first of its processes that asks. Raises DataDirectoryError when there can be none.
    """
    given = os.environ.get(BASE_VARIABLE)
    try:
        base = Path(given).absolute() if given else Path(tempfile.gettempdir()) / f"adjourn-{os.getuid()}"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Everybody may write to the temporary directory: a name that another user took first is not ours.
        if not given and (base.is_symlink() or base.stat().st_uid != os.getuid()):
            raise PermissionError(0, f"{base} belongs to another user")
        directory = base / f"run-{_name_of_command()}"
        hold_run_directory(directory)
    except OSError as error:
        raise DataDirectoryError(
            f"cannot keep metrics in {given or 'the temporary directory'}: {error.strerror}; "
            f"set {BASE_VARIABLE} to where this user may write"
        ) from None
    return directory


def _name_of_command() -> str:
    """Return what no other command has, and all processes of this one do.

    In containers that share a directory it is always the same few pids: on Linux it says when the command started, too.
    """
    parent = multiprocessing.parent_process()
    pid = os.getpid() if parent is None or parent.pid is None else parent.pid
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        # The name of the command, in brackets, may have anything in it. Ticks since the machine was started.
        started_at = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return str(pid)
    return f"{pid}-{started_at}-{namespace}"


def hold_run_directory(directory: Path) -> int:
    """Make ``directory``, emptied unless another process holds it, and clear away those beside it that nobody holds.

    It is held until the descriptor is closed that this returns, which SIGKILL does as well. What cleans temporary
    directories by age leaves one alone that is held so. Raises OSError.
    """
    with _open(directory.parent) as base:
        # Nobody else prepares a directory here meanwhile.
        fcntl.flock(base, fcntl.LOCK_EX)
        directory.mkdir(mode=0o700, exist_ok=True)
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _take_if_left(held):
            for path in directory.iterdir():
                path.unlink()
        fcntl.flock(held, fcntl.LOCK_SH)
        for other in directory.parent.glob("run-*"):
            # What is not ours to clear away is no reason not to start.
            with suppress(OSError):
                _remove_if_left(other)
    return held


def _remove_if_left(directory: Path) -> None:
    with _open(directory) as descriptor:
        if _take_if_left(descriptor):
            shutil.rmtree(directory)


@contextmanager
def _open(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take_if_left(descriptor: int) -> bool:
    """Take the lock of a directory if nobody holds it; return whether it is so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

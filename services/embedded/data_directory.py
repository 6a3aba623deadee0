"""The data directory of the embedded default, and the lock that keeps it to one run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.errors import DataDirectoryError


def prepare_data_directory(path: Path) -> Path:
    """Return ``path``, absolute, as a directory that exists and can be written to.

    What this process and its children make from here on is for its user only.

    Raises DataDirectoryError.
    """
    path = path.expanduser().absolute()
    os.umask(0o077)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataDirectoryError(
            f"cannot write to the data directory {path}: {error.strerror}; set ADJOURN_DATA_DIR to another one"
        ) from None
    return path


@contextmanager
def hold_data_directory(path: Path) -> Iterator[int]:
    """Hold ``path`` for this run; yields the lock's file descriptor.

    A child that inherits the descriptor keeps the directory held for as long as it lives, even when this process is
    killed: so no second server is ever started on the same files.

    Raises DataDirectoryError when another run holds it.
    """
    try:
        descriptor = os.open(path / "adjourn.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirectoryError(f"cannot open the lock {path / 'adjourn.lock'}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise DataDirectoryError(
                f"the data directory {path} is in use by another adjourn run (pid {holder}); "
                "stop it, or set ADJOURN_DATA_DIR to another directory"
            ) from None
        except OSError as error:
            raise DataDirectoryError(f"cannot lock the data directory {path}: {error.strerror}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)

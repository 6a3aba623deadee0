"""Room for the figures of a worker process. It loads nothing of prometheus_client, for which it is too early."""

import os
from pathlib import Path

#: The files of a process: what prometheus_client makes of dramatiq's metrics and of ours.
_KINDS = ("counter", "histogram", "gauge_all", "gauge_livesum")
#: Of each, in bytes: twice what all series of our actors take.
ROOM = 1 << 17


def make_room(directory: Path) -> None:
    """Make the files of this process in ``directory``, with their room on the disk taken.

    prometheus_client would make them with holes and write to them in memory: on a disk that is full by then, the kernel
    ends the process (SIGBUS). Raises OSError, and leaves none of them.
    """
    paths = [directory / f"{kind}_{os.getpid()}.db" for kind in _KINDS]
    try:
        for path in paths:
            with path.open("wb") as file:
                file.write(bytes(ROOM))
                file.flush()
                if hasattr(os, "posix_fallocate"):  # what holds zeros only may be kept as a hole
                    os.posix_fallocate(file.fileno(), 0, ROOM)
    except OSError:
        for path in paths:
            path.unlink(missing_ok=True)
        raise

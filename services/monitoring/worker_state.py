"""What each worker process writes down about itself once a second, for the process that answers for all of them."""

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from services.health import Answer, TaskCounts
from services.tasks import Task

#: How often it does, in seconds.
BEAT_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Threads:
    """What dramatiq's threads do."""

    count: int
    busy: int
    #: What only a restart mends: threads that have ended, or that take no messages any more. A sentence each.
    gone: tuple[str, ...] = ()
    #: Runs that go on for longer than they may. A sentence each.
    overruns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expectation:
    """Until when a task must have succeeded, somewhere in the cluster."""

    #: On the monotonic clock, in seconds.
    late_from: float
    #: What is true from then on, in words.
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker process. The monotonic clock, in seconds, is the same in all processes of a machine."""

    pid: int
    started_at: datetime
    #: When it started, when it was heard of last, and when it told all this, on the monotonic clock.
    started: float
    heard: float
    told: float
    threads: Threads
    database: Answer = field(default_factory=Answer)
    redis: Answer = field(default_factory=Answer)
    tasks: Mapping[Task, TaskCounts] = field(default_factory=dict)
    expected: Mapping[Task, Expectation] = field(default_factory=dict)
    #: Whether it was told to stop, and lets its runs come to an end.
    is_ending: bool = False
    #: What it waits for before it takes messages, in words.
    awaited: str | None = None


_AS_JSON = TypeAdapter(WorkerState)


def state_file(directory: Path, pid: int) -> Path:
    """Return where the worker process ``pid`` writes its state."""
    return directory / f"worker-{pid}.json"


def write_state(directory: Path, state: WorkerState) -> None:
    """Write ``state``, whole or not at all; on a full disk at least that the process was heard of.

    That is the time of the file, by the monotonic clock, which can be set where nothing can be written. Raises OSError.
    """
    path = state_file(directory, state.pid)
    written = path.with_suffix(".json.tmp")
    try:
        written.write_bytes(_AS_JSON.dump_json(state))
        _set_heard(written, state.heard)
        written.replace(path)
    except OSError:
        directory.mkdir(exist_ok=True)  # somebody took it away
        path.touch()
        _set_heard(path, state.heard)


def remove_state(directory: Path, pid: int) -> None:
    """Remove the state of a process that comes to its end in good order."""
    for path in (state_file(directory, pid), state_file(directory, pid).with_suffix(".json.tmp")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_states(directory: Path) -> list[WorkerState]:
    """Return the state of each worker process that is there, oldest first.

    Of one that is gone nothing is said: dramatiq ends the whole command when one of its processes ends.
    """
    states = []
    for path in directory.glob("worker-*.json"):
        with suppress(OSError, ValueError):  # it has just been removed, or somebody else wrote it
            states.append(_read_state(path))
    return sorted((state for state in states if is_there(state.pid)), key=lambda state: (state.started, state.pid))


def told_pids(directory: Path) -> set[int]:
    """Return the worker processes that have written down their state, and not come to their end since."""
    return {
        int(pid) for path in directory.glob("worker-*.json") if (pid := path.stem.removeprefix("worker-")).isdigit()
    }


def _read_state(path: Path) -> WorkerState:
    """Return the state in a file. Raises OSError or ValueError."""
    written, heard = path.read_bytes(), path.stat().st_mtime_ns / 1e9
    if written:
        return replace(_AS_JSON.validate_json(written), heard=heard)
    # Made on a full disk: that it is there is all that it could tell.
    pid = int(path.stem.removeprefix("worker-"))
    return WorkerState(pid, datetime.now(UTC), started=heard, heard=heard, told=-math.inf, threads=Threads(0, 0))


def _set_heard(path: Path, heard: float) -> None:
    os.utime(path, ns=(int(heard * 1e9),) * 2)


def frozen_among(pids: Iterable[int]) -> set[int]:
    """Return which of these processes are stopped by a signal, such as SIGSTOP; on Linux only."""
    return {pid for pid in pids if _state_letter(pid) == "T"}


def is_there(pid: int) -> bool:
    """Return whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _state_letter(pid: int) -> str:
    with suppress(OSError, IndexError):
        # The name of the command, in brackets, may have anything in it.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return ""

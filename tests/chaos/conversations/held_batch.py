"""A sweep that is held up in the middle of its batch: it has locked what is due, and waits to record it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.conversations.processes import Process
from tests.chaos.conversations.stack import Stack
from tests.support import attempts

#: How many conversations to lie in wait at. Of those that fall due next, messages may keep some alive.
_TRAPS = 20
_PATIENCE = 20.0
# The end of a conversation is unique in its events: whoever would record another waits for the transaction of this one.
_LAY = """
    INSERT INTO conversation_events (conv_id, previous_status, status, deadline, last_activity_at, cause, occurred_at)
    SELECT conv_id, status, 'idle_timeout', idle_at, updated_at, 'sweep', idle_at FROM conversations
    WHERE status IN ('pending', 'progress') AND session_key LIKE 'cold:%%'
        AND idle_at > clock_timestamp() + interval '0.2 s' ORDER BY idle_at LIMIT %s
    RETURNING conv_id
"""
_CAUGHT = """
    SELECT pid, client_port FROM pg_stat_activity
    WHERE %s = ANY (pg_blocking_pids(pid)) AND query LIKE '%%FOR NO KEY UPDATE%%SKIP LOCKED%%'
"""


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch that waits for ``holder``, a transaction of a fault's own, to end."""

    holder: psycopg.Connection[Any]
    worker: Process
    #: The process of PostgreSQL's that runs it.
    backend: int
    #: The conversations at which a sweep may be held up.
    traps: tuple[str, ...]

    def let_go(self) -> None:
        """Have the batch go on."""
        with suppress(psycopg.Error):
            self.holder.rollback()


@contextmanager
def holding_batch(stack: Stack) -> Iterator[HeldBatch]:
    """Yield once a sweep hangs; in the end it is let go, unless it was before."""
    with stack.postgres.connect(autocommit=False) as holder:
        traps = tuple(str(conv_id) for (conv_id,) in holder.execute(_LAY, [_TRAPS]).fetchall())
        held = _wait_for_prey(stack, holder, traps)
        try:
            yield held
        finally:
            held.let_go()


def _wait_for_prey(stack: Stack, holder: psycopg.Connection[Any], traps: tuple[str, ...]) -> HeldBatch:
    with stack.postgres.connect_as_superuser() as watch:
        for _ in attempts(_PATIENCE, pause=0.02):
            for backend, port in watch.execute(_CAUGHT, [holder.info.backend_pid]).fetchall():
                worker = next((one for one in stack.workers if port in _ports_of(one)), None)
                if worker is not None:
                    return HeldBatch(holder, worker, backend, traps)
    raise AssertionError(f"no sweep came to any of {len(traps)} conversations within {_PATIENCE:g} s")


def _ports_of(process: Process) -> set[int]:
    """Return the local ports of the TCP connections of a command's processes."""
    sockets = set()
    for pid in (process.pid, *process.children):
        with suppress(OSError):
            sockets |= {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in sockets:
            found.add(int(fields[1].split(":")[1], 16))
    return found

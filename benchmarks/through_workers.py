"""The sweep through the real thing: a tick on the queue, ``dramatiq actors``, and a look at when nothing is due."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from benchmarks.commands import IDLE, Ticker
from benchmarks.errors import BenchmarkError
from benchmarks.postgresql import ask, connect

#: How often to look whether anything is due, in seconds.
LOOK_INTERVAL = 0.01
#: The next tick, as by the default interval, should the first one's run have spent its time budget; in seconds.
_TICK_INTERVAL = 60.0
#: Rows at the end of the backlog to look at; the others are looked at when these are gone.
_TAIL = 20_000
#: The longest that a drain is waited for, in seconds.
_PATIENCE = 3_600.0

_ACTIVE = "status IN ('pending', 'progress')"
# From the end: a look from the beginning would walk all that has just been ended.
_IS_DUE = f"SELECT EXISTS (SELECT 1 FROM conversations WHERE {_ACTIVE} AND idle_at BETWEEN %s AND %s)"
_TAIL_BEGINS = (
    f"SELECT idle_at FROM conversations WHERE {_ACTIVE} AND idle_at <= %s ORDER BY idle_at DESC OFFSET %s LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Drain:
    """From a tick until nothing is due, by the monotonic clock, in seconds."""

    began: float
    ended: float

    @property
    def took(self) -> float:
        """How long it lasted."""
        return self.ended - self.began


class Backlog:
    """What is due on a database now, looked at on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._connection: psycopg.Connection[tuple[Any, ...]] = connect(url)
        self._now: datetime = ask(self._connection, "SELECT clock_timestamp()")
        self._first: datetime = ask(self._connection, "SELECT '0001-01-02 00:00:00+00'::timestamptz")
        row = self._connection.execute(_TAIL_BEGINS, [self._now, _TAIL]).fetchone()
        self._tail: datetime = row[0] if row else self._first

    def drain(self, ticker: Ticker) -> Drain:
        """Send the tick, and return when nothing of it is due any more.

        Raises BenchmarkError when that takes more than an hour.
        """
        began = ticked = time.monotonic()
        ticker.send(IDLE)
        start = self._tail
        while (now := time.monotonic()) - began < _PATIENCE:
            if not ask(self._connection, _IS_DUE, [start, self._now]):
                ended = time.monotonic()
                if start == self._first or not ask(self._connection, _IS_DUE, [self._first, self._now]):
                    return Drain(began, ended)
                start = self._first
            if now - ticked > _TICK_INTERVAL:
                ticker.send(IDLE)
                ticked = now
            time.sleep(LOOK_INTERVAL)
        raise BenchmarkError("after an hour, conversations were still due")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

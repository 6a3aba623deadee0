"""Section ``lag``: 500 deadlines pass each second, sweeps run each second; how long from a deadline to its commit."""

import statistics
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg

from benchmarks.bench import Bench
from benchmarks.commands import empty, running
from benchmarks.errors import BenchmarkError
from benchmarks.measures import Measurement, Target, percentile
from benchmarks.postgresql import connect
from benchmarks.rows import Shape, load_rows
from benchmarks.tables import database_time, loaded_postgresql
from services.database import create_database_engine

_RATE = 500
#: From one look for new events to the next, in seconds: a lag is measured too long by this at most.
_LOOK_INTERVAL = 0.005
#: What the commands may take to start before the first deadline, in seconds.
_HEAD_START = 8.0
#: What may be late at the end, in seconds.
_PATIENCE = 60.0
#: What the lag may grow by from the first third of the time to the last, in seconds, and count as no growth.
_NO_GROWTH = 0.1
_NAME = "lag"


def run(bench: Bench) -> None:
    """Let deadlines pass under the real scheduler and worker."""
    due = _RATE * bench.options.seconds
    others = Shape(rows=bench.options.size, due=0, waiting=bench.options.size // 2, layout=bench.options.layout)
    with loaded_postgresql(bench, others) as url:
        start = _insert_deadlines(bench, url, due)
        settings = {"DATABASE_URL": url, "REDIS_URL": bench.redis_url, "BACKGROUND_TASK_INTERVAL": "1"}
        empty(bench.redis_url)
        with (
            bench.doing(f"lag: {bench.options.seconds} s of deadlines"),
            running("dramatiq", "actors", directory=bench.directory, settings=settings),
            running("periodiq", "actors", directory=bench.directory, settings=settings),
            connect(url) as connection,
        ):
            ends = start + timedelta(seconds=bench.options.seconds + _PATIENCE)
            seen = _watch(connection, due, until=ends)
    seen.sort()
    lags = [lag for _, lag in seen]
    third = len(lags) // 3
    first, last = statistics.median(lags[:third]), statistics.median(lags[-third:])
    note = (
        f"{_RATE} a second for {bench.options.seconds} s, interval 1 s; at most {_LOOK_INTERVAL * 1000:g} ms too long"
    )
    figures = {"p50": percentile(lags, 50), "p99": percentile(lags, 99), "longest": max(lags)}
    figures |= {"p50 of the first third": first, "p50 of the last third": last}
    for way, value in figures.items():
        bench.say(f"{_NAME}  {value:10,.3f} s  {way}")
        bench.keep(Measurement(_NAME, f"deadline to commit, {way}", "s", (value,), note=note if way == "p50" else ""))
    bench.judge(
        Target("4", "from deadline to commit, p50", "s", 0.7, figures["p50"]),
        Target("4", "from deadline to commit, p99", "s", 1.5, figures["p99"]),
        Target("4", "growth of its p50 over the time", "s", _NO_GROWTH, last - first),
    )


def _insert_deadlines(bench: Bench, url: str, due: int) -> datetime:
    """Insert rows whose deadlines begin soon, and return when."""
    engine = create_database_engine(url)
    # As long again for the insert itself, which is some ten thousand rows a second.
    head_start = _HEAD_START + due / 10_000
    base = database_time(url)
    shape = Shape(
        rows=due,
        due=due,
        waiting=0,
        layout=bench.options.layout,
        first=head_start,
        window=float(bench.options.seconds),
        after=bench.options.size,
    )
    load_rows(engine, shape, base=base)
    engine.dispose()
    return base + timedelta(seconds=head_start)


@dataclass(slots=True)
class _Watched:
    """Which events have been seen: all up to ``whole``, and some beyond; a later number may be committed first."""

    whole: int
    beyond: set[int] = field(default_factory=set)

    def add(self, event_id: int) -> bool:
        """Note an event; return whether it is new."""
        if event_id in self.beyond:
            return False
        self.beyond.add(event_id)
        while self.whole + 1 in self.beyond:
            self.whole += 1
            self.beyond.remove(self.whole)
        return True


def _watch(
    connection: psycopg.Connection[tuple[Any, ...]], due: int, *, until: datetime
) -> list[tuple[datetime, float]]:
    """Return the deadlines of ``due`` endings, each with its lag, by the database's clock, as others see it.

    Raises BenchmarkError when they have not all come ``until`` then.
    """
    row = connection.execute("SELECT coalesce(max(event_id), 0), clock_timestamp() FROM conversation_events").fetchone()
    watched, now = _Watched(row[0] if row else 0), row[1] if row else until
    seen: list[tuple[datetime, float]] = []
    while len(seen) < due:
        if now > until:
            raise BenchmarkError(f"{len(seen):,} of {due:,} conversations had ended by {until}")
        news = connection.execute(
            "SELECT event_id, deadline, clock_timestamp() FROM conversation_events WHERE event_id > %s", [watched.whole]
        ).fetchall()
        for event_id, deadline, at in news:
            if watched.add(event_id):
                seen.append((deadline, (at - deadline).total_seconds()))
        if news:
            now = news[-1][2]
        else:
            clock = connection.execute("SELECT clock_timestamp()").fetchone()
            now = clock[0] if clock else now
        time.sleep(_LOOK_INTERVAL)
    return seen

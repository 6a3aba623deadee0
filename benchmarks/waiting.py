"""Section ``waiting``: messages come in at a steady rate while a whole table drains; how long each call takes."""

import multiprocessing
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.bench import Bench
from benchmarks.commands import working
from benchmarks.errors import BenchmarkError
from benchmarks.measures import TIMES, Measurement, Target, percentile
from benchmarks.postgresql import connect
from benchmarks.rows import LOADED_SWEEP, Shape
from benchmarks.tables import loaded_postgresql
from benchmarks.through_workers import Backlog, Drain
from benchmarks.yardsticks import require_ended
from services.conversations import record_activity
from services.database import create_database_engine, open_session
from services.timeouts import Timeouts

#: Processes that record activity, each on a connection of its own: in one process they would wait for each other.
_CALLERS = 4
#: Calls of each, a second.
_RATE = 50
#: Calls to judge by, at least: twenty of them are beyond the p99.
_CALLS = 2_000
#: Drains to get so many calls from, at most.
_DRAINS = 5
#: Conversations that get messages.
_LIVELY = 4_000
_NAME = "waiting"
#: They stay active for the whole run.
_TIMEOUTS = Timeouts(idle=timedelta(days=1), expiry=timedelta(days=2))

#: From each batch of a sweep to its next, in seconds.
_BATCHES = """
SELECT extract(epoch FROM took)::float FROM (
    SELECT lead(occurred_at) OVER (PARTITION BY sweep_id ORDER BY occurred_at) - occurred_at AS took
    FROM (SELECT DISTINCT sweep_id, occurred_at FROM conversation_events WHERE sweep_id <> %s) AS batches
) AS steps WHERE took IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of ``record_activity`` with its commit, by the monotonic clock, in seconds."""

    began: float
    took: float


def run(bench: Bench) -> None:
    """Time calls without a drain, then during drains until there are enough of them."""
    rows = bench.options.size + _LIVELY
    shape = Shape(rows=rows, due=bench.options.size, waiting=_LIVELY, layout=bench.options.layout)
    alone: list[float] = []
    during: list[float] = []
    batches: list[float] = []
    for number in range(1, _DRAINS + 1):
        with bench.doing(f"{_NAME}: drain {number}"), loaded_postgresql(bench, shape) as url:
            quiet, drained, drain = _call_and_drain(bench, url, quiet_for=0 if alone else _CALLS / _CALLERS / _RATE)
            require_ended(url, due=shape.due, events=shape.due)
            with connect(url) as connection:
                batches += [row[0] for row in connection.execute(_BATCHES, [LOADED_SWEEP])]
        alone += quiet
        during += drained
        bench.say(
            f"{_NAME}  {drain.took:10,.3f} s  drain {number} of {shape.due:,} rows, {len(drained):,} calls meanwhile"
        )
        if len(during) >= _CALLS:
            break
    _conclude(bench, alone, during, batches)


def _conclude(bench: Bench, alone: list[float], during: list[float], batches: list[float]) -> None:
    figures: dict[tuple[str, str], float] = {}
    for when, calls in (("without a drain", alone), ("during a drain", during)):
        note = f"{len(calls):,} calls, {_CALLERS} connections, {_RATE} a second each; the call and its commit"
        for which, value in (("p50", percentile(calls, 50)), ("p99", percentile(calls, 99)), ("longest", max(calls))):
            figures[which, when] = value
            bench.say(f"{_NAME}  {value * 1000:10,.3f} ms  record_activity {when}, {which}")
            yardstick = None if when == "without a drain" else f"record_activity without a drain, {which}"
            way = f"record_activity {when}, {which}"
            bench.keep(Measurement(_NAME, way, "ms", (value * 1000,), yardstick, note if which == "p50" else ""))
    longest_batch = max(batches, default=0.0)
    note = f"{len(batches):,} batches, each to the sweep's next one"
    bench.keep(
        Measurement(_NAME, "batch, p50", "ms", (percentile(batches, 50) * 1000,) if batches else (0.0,), note=note),
        Measurement(_NAME, "batch, longest", "ms", (longest_batch * 1000,)),
    )
    growth = figures["p99", "during a drain"] / figures["p99", "without a drain"]
    bench.judge(
        Target("5", "p99 of record_activity during a drain, times without", TIMES, 3, growth),
        Target(
            "5",
            "longest call during a drain, against the longest batch",
            "ms",
            longest_batch * 1000,
            figures["longest", "during a drain"] * 1000,
        ),
    )


def _call_and_drain(bench: Bench, url: str, *, quiet_for: float) -> tuple[list[float], list[float], Drain]:
    """Return how long calls took without a drain and during one, and that drain."""
    with (
        working(url, bench.redis_url, bench.directory) as (ticker, _),
        closing(Backlog(url)) as backlog,
        _calling(url) as calls,
    ):
        time.sleep(quiet_for)
        drain = backlog.drain(ticker)
    # The first calls of each prepare what they need.
    quiet = [call.took for call in calls if drain.began - quiet_for <= call.began < drain.began]
    return quiet, [call.took for call in calls if drain.began <= call.began <= drain.ended], drain


@contextmanager
def _calling(url: str) -> Iterator[list[Call]]:
    """Have activity recorded meanwhile; at the end, the list that was yielded has the calls.

    Raises BenchmarkError when a caller fails.
    """
    with connect(url) as connection:
        lively = connection.execute(
            "SELECT conv_id FROM conversations WHERE status = 'progress' AND idle_at > now() + interval '1 hour'"
        ).fetchall()
    ids = [row[0] for row in lively]
    context = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(_CALLERS):
        ours, theirs = context.Pipe()
        context.Process(target=_call, args=(url, ids[number::_CALLERS], theirs), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    calls: list[Call] = []
    try:
        for pipe in pipes:
            pipe.recv()
        yield calls
        for pipe in pipes:
            pipe.send("enough")
        for pipe in pipes:
            calls += pipe.recv()
    except EOFError:
        raise BenchmarkError("a process that recorded activity ended") from None
    finally:
        for pipe in pipes:
            pipe.close()


def _call(url: str, ids: list[uuid.UUID], told: "Connection[Any, Any]") -> None:
    """Record activity at a fixed rate, whatever the calls take, until told that it is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that started this one
    engine = create_database_engine(url)
    calls = []

    def call(conv_id: uuid.UUID) -> None:
        began = time.monotonic()
        with open_session(engine) as session:
            record_activity(session, conv_id=conv_id, now=datetime.now(UTC), timeouts=_TIMEOUTS)
            session.commit()
        calls.append(Call(began, time.monotonic() - began))

    for conv_id in ids[:_RATE]:
        call(conv_id)
    calls.clear()
    told.send("ready")
    start = time.monotonic()
    number = 0
    while not told.poll(max(start + number / _RATE - time.monotonic(), 0)):
        call(ids[number % len(ids)])
        number += 1
    told.send(calls)
    engine.dispose()

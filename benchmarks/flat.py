"""Section ``flat``: the same number of due rows out of a table and out of one twenty times as large."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.measures import TIMES, Measurement, Target
from benchmarks.postgresql import connect
from benchmarks.rows import Shape
from benchmarks.statements import Statement, statements_of
from benchmarks.sweeping import time_sweep
from benchmarks.tables import loaded_postgresql
from benchmarks.yardsticks import require_ended, time_bare_update
from services.database import create_database_engine
from services.sweeps import process_idle_conversations

#: Of a table's rows, those that are active and not due: nearly all have ended.
_WAITING = 20
_NAME = "flat"
_BEFORE_ALL = datetime(2000, 1, 1, tzinfo=UTC)


def run(bench: Bench) -> None:
    """Measure both tables in turn, then look at the plan of a sweep with nothing due."""
    size, layout = bench.options.size, bench.options.layout
    due = size // 10
    small, large = (
        Shape(rows=rows, due=due, waiting=rows // _WAITING, layout=layout)
        for rows in (size, size * bench.options.times)
    )

    def fresh(shape: Shape, way: Callable[[str], float], *, events: int) -> Callable[[], float]:
        def take() -> float:
            with loaded_postgresql(bench, shape) as url:
                took = way(url)
                require_ended(url, due=due, events=events)
                return took

        return take

    ways: dict[str, Callable[[], float]] = {}
    for shape in (small, large):
        ways[_bare(shape)] = fresh(shape, lambda url: time_bare_update(url, due=due), events=0)
        ways[_sweep(shape)] = fresh(shape, time_sweep, events=due)
    figures = bench.measure(_NAME, ways)
    kept = {
        way: Measurement(_NAME, way, "s", tuple(runs), yardstick, f"{due:,} due, {layout}")
        for (way, runs), yardstick in zip(
            figures.items(), [_bare(small), _sweep(small), _bare(small), _sweep(small)], strict=True
        )
    }
    bench.keep(*kept.values())
    growth = kept[_sweep(large)].median / kept[_sweep(small)].median
    bench.judge(
        Target("3", f"sweep of {due:,} due out of {large.rows:,} rows, times out of {small.rows:,}", TIMES, 1.2, growth)
    )
    for shape in (small, large):
        with loaded_postgresql(bench, shape) as url:
            buffers = count_buffers(url)
        way = f"sweep with nothing due, of {shape.rows:,} rows"
        bench.say(f"{_NAME}  {buffers:10,} buffers  {way}")
        bench.keep(Measurement(_NAME, way, "buffers", (buffers,)))
        bench.judge(Target("3", way, "buffers", 10, buffers))


def _bare(shape: Shape) -> str:
    return f"bare UPDATE, of {shape.rows:,} rows"


def _sweep(shape: Shape) -> str:
    return f"sweep, of {shape.rows:,} rows"


def count_buffers(url: str) -> int:
    """Return how many pages the statement of a sweep looks at that finds nothing due, planning not counted.

    Raises BenchmarkError when the sweep ran no statement that explains itself.
    """
    (settings, given), (statement, parameters) = _statements_of_a_batch(url)
    with connect(url) as connection, connection.transaction():
        connection.execute(settings.encode(), given)
        # As it stands, twice: the first time reads the catalogue.
        for _ in range(2):
            plan = _explain(connection, statement, parameters)
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def _statements_of_a_batch(url: str) -> list[Statement]:
    """Return what a sweep with nothing due sends to the database, as it is sent: its settings and its batch."""
    engine = create_database_engine(url)
    with engine.connect():
        pass  # a first connection asks things of its own
    with statements_of(engine) as sent:
        process_idle_conversations(engine, now=_BEFORE_ALL)
    engine.dispose()
    if len(sent) != 2:  # noqa: PLR2004 - see above
        raise BenchmarkError(f"a sweep with nothing due sent {len(sent)} statements")
    return sent


def _explain(connection: psycopg.Connection[tuple[Any, ...]], statement: str, parameters: Any) -> dict[str, Any]:
    row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode(), parameters).fetchone()
    if row is None:
        raise BenchmarkError("the statement has no plan")
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan

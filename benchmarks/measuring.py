"""Section ``measuring``: what a measurement of the backlog costs, beside the plain count of what is active."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Engine, func, select

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.measures import Measurement, Target
from benchmarks.postgresql import ask, connect
from benchmarks.rows import Shape
from benchmarks.sweeping import time_sweep
from benchmarks.tables import loaded_postgresql
from models.conversation import ACTIVE_SQL, active, conversations
from services.backlog import Backlog
from services.database import create_database_engine, reading
from services.monitoring.backlog_measurement import DEFAULT_BUDGET, DEFAULT_CAP, measure_backlog
from services.tasks import Task

_NAME = "measuring"
_COUNT = select(func.count()).select_from(conversations).where(active)
#: Pages of the table, those of its visibility map included, and of its indexes that were looked at since ever.
_PAGES = """
SELECT ARRAY[heap_blks_read + heap_blks_hit, idx_blks_read + idx_blks_hit]
FROM pg_statio_user_tables WHERE relname = 'conversations'
"""
#: What a message does, for each of those that are counted.
_ACTIVITY = f"""
UPDATE conversations SET idle_at = idle_at + random() * interval '1 minute'
WHERE conv_id IN (SELECT conv_id FROM conversations WHERE {ACTIVE_SQL} ORDER BY idle_at LIMIT {DEFAULT_CAP})
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What asking the database cost."""

    seconds: float
    table_pages: int
    index_pages: int


def run(bench: Bench) -> None:
    """Measure with a twentieth of the rows active, and with half of them."""
    size = bench.options.size
    for active_rows, due in ((size // 20, size // 200), (size // 2, size // 100)):
        shape = Shape(rows=size, due=due, waiting=active_rows - due, layout=bench.options.layout)
        with loaded_postgresql(bench, shape) as url:
            _measure_states(bench, shape, url)
        # Two large tables at once are more than most disks have room for.
        bench.postgresql.drop(bench.templates.pop(shape))


def _measure_states(bench: Bench, shape: Shape, url: str) -> None:
    due, waiting = shape.due, shape.waiting
    engine = create_database_engine(url)
    _repeat(bench, engine, url, active_rows=due + waiting, due=due, state=f"{due:,} due")
    time_sweep(url)
    for state in (f"right after {due:,} were ended", "and once more"):
        cost = _measurement(engine, url, active_rows=waiting, due=0)
        way = f"{waiting:,} active, {state}"
        bench.say(f"{_NAME}  {cost.seconds:10,.3f} s  {way}")
        bench.keep(Measurement(_NAME, way, "s", (cost.seconds,), note=_note(cost)))
    with connect(url) as connection:
        connection.execute("VACUUM conversations")
    _repeat(bench, engine, url, active_rows=waiting, due=0, state="nothing due, vacuumed")
    with bench.doing(f"{_NAME}: activity"), connect(url) as connection:
        connection.execute("ALTER TABLE conversations SET (autovacuum_enabled = off)")
        connection.execute(_ACTIVITY.encode())
    _repeat(bench, engine, url, active_rows=waiting, due=0, state="nothing due, activity since the vacuum")
    engine.dispose()


def _repeat(bench: Bench, engine: Engine, url: str, *, active_rows: int, due: int, state: str) -> None:
    """Measure a state of the table that does not change, in turn with the plain count."""
    count, measurement = (f"{active_rows:,} active, {state}: {what}" for what in ("count(*)", "measurement"))
    takes: dict[str, Callable[[], Cost]] = {
        count: lambda: _plain_count(engine, url, active_rows=active_rows),
        measurement: lambda: _measurement(engine, url, active_rows=active_rows, due=due),
    }
    costs: dict[str, Cost] = {}

    def taking(way: str) -> Callable[[], float]:
        def take() -> float:
            costs[way] = takes[way]()
            return costs[way].seconds

        return take

    figures = bench.measure(_NAME, {way: taking(way) for way in takes})
    kept = [
        Measurement(_NAME, way, "s", tuple(runs), count if way == measurement else None, _note(costs[way]))
        for way, runs in figures.items()
    ]
    bench.keep(*kept)
    bench.judge(Target("budget", measurement, "s", DEFAULT_BUDGET.total_seconds(), kept[-1].median))


def _note(cost: Cost) -> str:
    return f"{cost.index_pages:,} pages of indexes, {cost.table_pages:,} of the table"


def _measurement(engine: Engine, url: str, *, active_rows: int, due: int) -> Cost:
    found: list[Backlog] = []
    cost = _cost(engine, url, lambda: found.append(measure_backlog(engine)))
    (backlog,) = found
    idle = backlog.tasks[Task.IDLE]
    if idle.due != due or not (backlog.active == active_rows or backlog.active_is_estimate):
        raise BenchmarkError(f"{active_rows:,} active, {due:,} due, measured as {backlog}")
    return cost


def _plain_count(engine: Engine, url: str, *, active_rows: int) -> Cost:
    def count() -> None:
        with reading(engine) as connection:
            counted = connection.execute(_COUNT).scalar_one()
        if counted != active_rows:
            raise BenchmarkError(f"{counted:,} are active where {active_rows:,} should be")

    return _cost(engine, url, count)


def _cost(engine: Engine, url: str, work: Callable[[], None]) -> Cost:
    with connect(url) as observer:
        before = _pages(engine, observer)
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        after = _pages(engine, observer)
    return Cost(seconds, table_pages=after[0] - before[0], index_pages=after[1] - before[1])


def _pages(engine: Engine, observer: psycopg.Connection[Any]) -> tuple[int, int]:
    """Return how many pages of the table, and of its indexes, were looked at till now; the engine's have it said so."""
    with reading(engine) as connection:
        connection.execute(select(func.pg_stat_force_next_flush()))
    table_pages, index_pages = ask(observer, _PAGES)
    return int(table_pages), int(index_pages)

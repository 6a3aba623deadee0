"""Section ``drain``: 200,000 of 1,000,000 rows are due; how long until they have ended, by each way."""

from collections.abc import Callable
from contextlib import closing

from benchmarks.bench import Bench
from benchmarks.commands import working
from benchmarks.measures import TIMES, Measurement, Target
from benchmarks.rows import Shape
from benchmarks.sweeping import time_sweep, time_sweeps_at_once
from benchmarks.tables import loaded_postgresql, loaded_sqlite
from benchmarks.through_workers import Backlog
from benchmarks.yardsticks import require_ended, time_bare_update, time_per_row

#: Due rows that the per-row way is timed on, at most.
_SAMPLE = 2_000

_BARE = "bare UPDATE"
_SWEEP = "sweep, one connection"
_TWO = "sweep, two processes"
_WORKERS = "tick to nothing due, dramatiq actors"
_PER_ROW = "one row at a time"


def run(bench: Bench) -> None:
    """Measure on PostgreSQL, then on SQLite, which has one writer."""
    due = bench.options.size // 5
    shape = Shape(rows=bench.options.size, due=due, waiting=2 * due, layout=bench.options.layout)
    _on_postgresql(bench, shape)
    _on_sqlite(bench, shape)


def _on_postgresql(bench: Bench, shape: Shape) -> None:
    sample = min(_SAMPLE, shape.due)

    def fresh(way: Callable[[str], float], *, has_events: bool = True) -> Callable[[], float]:
        def take() -> float:
            with loaded_postgresql(bench, shape) as url:
                took = way(url)
                require_ended(url, due=shape.due, events=shape.due if has_events else 0)
                return took

        return take

    def through_workers(url: str) -> float:
        with working(url, bench.redis_url, bench.directory) as (ticker, _), closing(Backlog(url)) as backlog:
            return backlog.drain(ticker).took

    def per_row() -> float:
        with loaded_postgresql(bench, shape) as url:
            return time_per_row(url, sample=sample) * shape.due

    name = "drain, PostgreSQL"
    figures = bench.measure(
        name,
        {
            _BARE: fresh(lambda url: time_bare_update(url, due=shape.due), has_events=False),
            _SWEEP: fresh(time_sweep),
            _TWO: fresh(time_sweeps_at_once),
            _WORKERS: fresh(through_workers),
            _PER_ROW: per_row,
        },
    )
    notes = {
        _BARE: f"{shape.due:,} of {shape.rows:,} rows, {shape.layout}",
        _PER_ROW: f"extrapolated from {sample:,} rows; no events",
    }
    kept = {way: Measurement(name, way, "s", tuple(runs), _BARE, notes.get(way, "")) for way, runs in figures.items()}
    bench.keep(*kept.values())
    bare = kept[_BARE].median
    bench.judge(
        Target("1", "sweep on one connection, times the bare UPDATE", TIMES, 1.5, kept[_SWEEP].median / bare),
        Target("1", "sweeps in two processes, times the bare UPDATE", TIMES, 1.0, kept[_TWO].median / bare),
        Target("2", "from tick to nothing due, times the bare UPDATE", TIMES, 1.6, kept[_WORKERS].median / bare),
        Target(
            "2",
            "from tick to nothing due, as many times as fast as one row at a time",
            TIMES,
            200,
            kept[_PER_ROW].median / kept[_WORKERS].median,
            at_least=True,
        ),
    )


def _on_sqlite(bench: Bench, shape: Shape) -> None:
    def bare() -> float:
        with loaded_sqlite(bench, shape) as url:
            return time_bare_update(url, due=shape.due)

    def sweep() -> float:
        with loaded_sqlite(bench, shape) as url:
            took = time_sweep(url)
            require_ended(url, due=shape.due, events=shape.due)
            return took

    name = "drain, SQLite"
    figures = bench.measure(name, {_BARE: bare, _SWEEP: sweep})
    bench.keep(*(Measurement(name, way, "s", tuple(runs), _BARE) for way, runs in figures.items()))

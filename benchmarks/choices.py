"""Section ``choices``: the drain with other batch sizes and other numbers of workers than the defaults."""

from collections.abc import Callable
from contextlib import closing
from functools import partial

from benchmarks.bench import Bench
from benchmarks.commands import working
from benchmarks.measures import Measurement
from benchmarks.rows import Shape
from benchmarks.sweeping import time_sweep
from benchmarks.tables import loaded_postgresql
from benchmarks.through_workers import Backlog
from benchmarks.yardsticks import require_ended
from services.tasks import DEFAULT_BATCH_SIZE

_BATCH_SIZES = (500, 1_000, 2_000, 4_000, 8_000, 16_000)
_WORKERS = (1, 2, 4, 8)
_NAME = "choices"


def run(bench: Bench) -> None:
    """Measure each choice in turn."""
    due = bench.options.size // 5
    shape = Shape(rows=bench.options.size, due=due, waiting=2 * due, layout=bench.options.layout)

    def fresh(way: Callable[[str], float]) -> float:
        with loaded_postgresql(bench, shape) as url:
            took = way(url)
            require_ended(url, due=due, events=due)
            return took

    def through_workers(url: str, *, workers: int) -> float:
        given = {"BACKGROUND_TASK_DRAIN_WORKERS": str(workers)}
        with working(url, bench.redis_url, bench.directory, **given) as (ticker, _), closing(Backlog(url)) as backlog:
            return backlog.drain(ticker).took

    ways = {f"batches of {size:,}": partial(fresh, partial(time_sweep, batch_size=size)) for size in _BATCH_SIZES}
    ways |= {f"drain workers: {count}": partial(fresh, partial(through_workers, workers=count)) for count in _WORKERS}
    figures = bench.measure(_NAME, ways)
    note = f"{due:,} of {shape.rows:,} rows, {shape.layout}"
    yardstick = f"batches of {DEFAULT_BATCH_SIZE:,}"
    bench.keep(*(Measurement(_NAME, way, "s", tuple(runs), yardstick, note) for way, runs in figures.items()))

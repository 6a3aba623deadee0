"""Section ``memory``: what worker and scheduler take while a whole table drains."""

import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.bench import Bench
from benchmarks.commands import running, working
from benchmarks.errors import BenchmarkError
from benchmarks.measures import Measurement, Target
from benchmarks.rows import Shape
from benchmarks.tables import loaded_postgresql
from benchmarks.through_workers import Backlog
from benchmarks.yardsticks import require_ended
from services.scheduling import keys

_SAMPLE_INTERVAL = 0.2
#: What may be more in the last fifth of a drain than in the first, in MiB, and count as flat.
_FLAT = 8.0
#: A scheduler may wait for the next minute, if it is started at the end of one; in seconds.
_START_TIMEOUT = 30.0
#: From its election until its first ticks are sent, in seconds.
_SETTLING = 3.0
_WORKER_BOUND = 128.0
_SCHEDULER_BOUND = 96.0
_NAME = "memory"
#: Fields of /proc/PID/status and /proc/PID/smaps_rollup: the most that was ever resident, and what is so now with
#: shared pages shared out.
_PEAK, _PROPORTIONAL = "VmHWM", "Pss"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process takes at a moment, in MiB."""

    #: The most that was resident till then.
    peak: float
    #: What is resident, a page that several share counted in parts.
    proportional: float


def run(bench: Bench) -> None:
    """Drain, with a look at each process five times a second."""
    if not Path("/proc/self/smaps_rollup").exists():
        bench.say(f"{_NAME}: only Linux tells it; left out")
        return
    shape = Shape(rows=bench.options.size, due=bench.options.size, waiting=0, layout=bench.options.layout)
    with loaded_postgresql(bench, shape) as url:
        # The ticks of the backlog are this section's: when they start to count is its choice.
        settings = {"DATABASE_URL": url, "REDIS_URL": bench.redis_url, "BACKGROUND_TASK_IDLE_ENABLED": "false"}
        with (
            bench.doing(f"{_NAME}: a drain of {shape.due:,} rows"),
            working(url, bench.redis_url, bench.directory) as (ticker, worker),
            closing(Backlog(url)) as backlog,
            running("periodiq", "actors", directory=bench.directory, settings=settings) as scheduler,
            _leading(bench.redis_url),
            _sampling([worker.pid, scheduler.pid]) as samples,
        ):
            drain = backlog.drain(ticker)
        require_ended(url, due=shape.due, events=shape.due)
    workers = {pid: taken for (root, pid), taken in samples.items() if root == worker.pid}
    schedulers = {pid: taken for (root, pid), taken in samples.items() if root == scheduler.pid}
    _conclude(bench, workers, schedulers, note=f"{shape.due:,} rows in {drain.took:.1f} s")


def _conclude(
    bench: Bench, workers: dict[int, list[Sample]], schedulers: dict[int, list[Sample]], *, note: str
) -> None:
    if not workers or not schedulers:
        raise BenchmarkError("the drain was over before a process could be looked at")
    peaks = {
        "a worker process, resident": _peak(workers),
        "the scheduler, resident": _peak(schedulers),
        "worker processes in all, shared pages counted once": sum(
            max(sample.proportional for sample in taken) for taken in workers.values()
        ),
    }
    growths = {
        "growth of a worker process": max(_growth(taken) for taken in workers.values()),
        "growth of the scheduler": max(_growth(taken) for taken in schedulers.values()),
    }
    for way, value in {**{f"{way}, peak": value for way, value in peaks.items()}, **growths}.items():
        bench.say(f"{_NAME}  {value:10,.1f} MiB  {way}")
        bench.keep(Measurement(_NAME, way, "MiB", (value,), note=note))
    bench.judge(
        Target("7", "a worker process", "MiB", _WORKER_BOUND, peaks["a worker process, resident"]),
        Target("7", "the scheduler", "MiB", _SCHEDULER_BOUND, peaks["the scheduler, resident"]),
        *(Target("7", f"{way} over a drain", "MiB", _FLAT, value) for way, value in growths.items()),
    )


def _peak(processes: dict[int, list[Sample]]) -> float:
    return max(sample.peak for taken in processes.values() for sample in taken)


def _growth(taken: list[Sample]) -> float:
    """Return the mean of the last fifth less that of the first."""
    fifth = max(len(taken) // 5, 1)
    return statistics.mean(sample.proportional for sample in taken[-fifth:]) - statistics.mean(
        sample.proportional for sample in taken[:fifth]
    )


@contextmanager
def _leading(redis_url: str) -> Iterator[None]:
    """Wait until a scheduler leads: from then on it has started.

    Raises BenchmarkError when none does.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    with redis.Redis.from_url(redis_url) as client:
        while not client.exists(keys.LEASE):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no scheduler leads after {_START_TIMEOUT:g} s")
            time.sleep(_SAMPLE_INTERVAL)
    time.sleep(_SETTLING)
    yield


@contextmanager
def _sampling(roots: list[int]) -> Iterator[dict[tuple[int, int], list[Sample]]]:
    """Look at processes and all that they started until the end; yields what is seen of each, by root and process."""
    samples: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    enough = threading.Event()

    def look() -> None:
        while True:
            for root in roots:
                for pid in _family(root):
                    with suppress(OSError):
                        samples[root, pid].append(_look_at(pid))
            if enough.wait(_SAMPLE_INTERVAL):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        enough.set()
        thread.join()


def _look_at(pid: int) -> Sample:
    """Raise OSError when the process is gone."""
    return Sample(_field(pid, "status", _PEAK), _field(pid, "smaps_rollup", _PROPORTIONAL))


def _field(pid: int, file: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ProcessLookupError(pid)
    return int(found[1]) / 1024


def _family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text(encoding="utf-8").split())
    return [pid, *(member for child in children for member in _family(child))]

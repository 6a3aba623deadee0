"""Section ``startup``: how long a worker takes to its first message, and the person's command to its answer."""

import subprocess
import time

from benchmarks.bench import Bench
from benchmarks.commands import EXPIRED, empty, environment, running, ticking
from benchmarks.measures import Measurement, Target
from services.embedded.child import find_command

_NAME = "startup"
#: They are short, and what starts differs more than what runs.
_RUNS = 5


def run(bench: Bench) -> None:
    """Start both, five times each."""
    database = bench.postgresql.create_migrated()
    url = bench.postgresql.url(database)
    worker = tuple(_time_worker(bench, url) for _ in range(_RUNS))
    command = tuple(_time_help(bench) for _ in range(_RUNS))
    for way, runs, bound in (
        ("dramatiq actors: from its start to its first message done", worker, 2.0),
        ("adjourn --help", command, 0.3),
    ):
        measured = Measurement(_NAME, way, "s", runs)
        bench.say(f"{_NAME}  {measured.median:10,.3f} s  {way}")
        bench.keep(measured)
        bench.judge(Target("start", way, "s", bound, measured.median))


def _time_worker(bench: Bench, url: str) -> float:
    settings = {"DATABASE_URL": url, "REDIS_URL": bench.redis_url}
    empty(bench.redis_url)
    with bench.doing(f"{_NAME}: dramatiq actors"), ticking(directory=bench.directory, settings=settings) as ticker:
        ticker.send(EXPIRED)
        began = time.perf_counter()
        with running("dramatiq", "actors", directory=bench.directory, settings=settings):
            ticker.wait()
            return time.perf_counter() - began


def _time_help(bench: Bench) -> float:
    began = time.perf_counter()
    subprocess.run(
        [find_command("adjourn"), "--help"],
        env=environment({}, bench.directory),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began

"""Measure Adjourn beside the bare SQL, and say which targets hold.

    make bench [SIZE=1000000] [BENCH_ARGS="--only drain,lag --runs 3"]

It measures: whether a target holds is in the table and in the JSON file, not in the exit code. That is 1 when
something could not be measured or ended other conversations than it should, 130 when it was interrupted.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from subprocess import SubprocessError
from typing import NoReturn
from urllib.parse import urlsplit

import psycopg
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from benchmarks import choices, drain, flat, lag, measuring, memory, messages, simulate, startup, waiting, ways
from benchmarks.bench import Bench, Options
from benchmarks.errors import BenchmarkError
from benchmarks.machine import PROJECT, describe_commit, describe_machine, describe_versions
from benchmarks.postgresql import postgresql_server
from benchmarks.report import draw_tables, write_json
from benchmarks.rows import Layout
from services.embedded.redis_server import PrivateRedis
from services.errors import AdjournError

SECTIONS: dict[str, Callable[[Bench], None]] = {
    "drain": drain.run,
    "choices": choices.run,
    "ways": ways.run,
    "flat": flat.run,
    "lag": lag.run,
    "measuring": measuring.run,
    "waiting": waiting.run,
    "messages": messages.run,
    "memory": memory.run,
    "startup": startup.run,
    "simulate": simulate.run,
}
RESULTS = PROJECT / "bench-results"
_SMALLEST_SIZE = 10_000
#: The database of REDIS_URL that is emptied and used.
_REDIS_NUMBER = 13
#: Where there is no terminal to fit.
_WIDTH = 180
_INTERRUPTED = 130


def main() -> int:
    """Measure, print, keep, and return the exit code."""
    options, sections, version = _parse()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    now = datetime.now(UTC)
    circumstances: dict[str, object] = {
        "options": asdict(options),
        "commit": describe_commit(),
        "machine": describe_machine(),
    }
    exit_code = 0
    with ExitStack() as exits:
        directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="adjourn-bench-")))
        redis_url = _redis(directory, exits)
        postgresql = exits.enter_context(postgresql_server(version=version))
        circumstances |= {"versions": describe_versions(redis_url), "postgresql": postgresql.describe()}
        for what, known in circumstances.items():
            shown = ", ".join(f"{name} {value}" for name, value in known.items()) if isinstance(known, dict) else known
            console.print(f"{what}: {shown}", markup=False, soft_wrap=True)
        bench = Bench(options, console, directory, postgresql, redis_url)
        try:
            for section in sections:
                SECTIONS[section](bench)
        except (BenchmarkError, AdjournError, psycopg.Error, SQLAlchemyError, SubprocessError, OSError) as error:
            console.print(f"\n{type(error).__name__}: {error}", markup=False)
            exit_code = 1
        except KeyboardInterrupt:
            console.print("\nInterrupted; what was measured till then:")
            exit_code = _INTERRUPTED
        if bench.measurements:
            console.print()
            console.print(draw_tables(bench.measurements, bench.targets))
            path = write_json(
                RESULTS, measurements=bench.measurements, targets=bench.targets, circumstances=circumstances, now=now
            )
            console.print(f"\nKept in {os.path.relpath(path)}", markup=False)
    return exit_code


def _parse() -> tuple[Options, list[str], int | None]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1_000_000, help="rows of the table (1000000)")
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help=f"sections, with commas between: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--runs", type=int, default=3, help="how often each way is measured (3)")
    parser.add_argument(
        "--layout", type=Layout, choices=list(Layout), default=Layout.RECENT, help="where due rows lie (recent)"
    )
    parser.add_argument("--seconds", type=int, default=60, help="lag: how long deadlines pass (60)")
    parser.add_argument("--times", type=int, default=20, help="flat: how many times as large the large table is (20)")
    parser.add_argument("--postgresql", type=int, help="the version of the private server (the wheel's latest)")
    given = parser.parse_args()
    sections = [section.strip() for section in given.only.split(",")]
    if unknown := [section for section in sections if section not in SECTIONS]:
        parser.error(f"--only: there is no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if given.size < _SMALLEST_SIZE or min(given.runs, given.seconds, given.times) < 1:
        parser.error(f"--size must be at least {_SMALLEST_SIZE:,}, the other numbers at least 1")
    history = os.environ.get("BENCH_HISTORY")
    options = Options(
        size=given.size,
        runs=given.runs,
        layout=given.layout,
        seconds=given.seconds,
        times=given.times,
        history=Path(history) if history else None,
    )
    return options, sections, given.postgresql


def _redis(directory: Path, exits: ExitStack) -> str:
    """Return the URL of a Redis database that may be emptied: one of REDIS_URL's, or a private server's."""
    given = os.environ.get("REDIS_URL")
    if not given:
        server = PrivateRedis(directory / "redis")
        exits.callback(server.stop)
        return server.start().url
    if given.startswith("unix:"):
        return f"{given}{'&' if '?' in given else '?'}db={_REDIS_NUMBER}"
    return urlsplit(given)._replace(path=f"/{_REDIS_NUMBER}").geturl()


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

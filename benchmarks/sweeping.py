"""The sweep as a function, in one process or in several at once."""

import multiprocessing
import signal
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection

from benchmarks.errors import BenchmarkError
from services.database import create_database_engine, current_time, reading
from services.sweeps import process_idle_conversations
from services.tasks import DEFAULT_BATCH_SIZE

#: Long ago: a sweep as of then ends nothing, and has the statement made and the connection opened.
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
#: More than any sweep takes.
_NO_END = timedelta(days=1)


def time_sweep(url: str, *, batch_size: int = DEFAULT_BATCH_SIZE) -> float:
    """Return the seconds that the sweep takes to end all that is due, on one connection that is open."""
    engine = create_database_engine(url)
    process_idle_conversations(engine, now=_LONG_AGO)
    began = time.perf_counter()
    with reading(engine) as connection:
        now = current_time(connection)
    process_idle_conversations(engine, now=now, batch_size=batch_size, time_budget=_NO_END)
    took = time.perf_counter() - began
    engine.dispose()
    return took


def time_sweeps_at_once(url: str, *, processes: int = 2) -> float:
    """Return the seconds from the start of sweeps in as many processes, which are connected, to the end of the last.

    Raises BenchmarkError when one fails.
    """
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        context.Process(target=_sweep_when_told, args=(url, theirs), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    try:
        for pipe in pipes:
            pipe.recv()
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send("go")
        for pipe in pipes:
            pipe.recv()
        return time.perf_counter() - began
    except EOFError:
        raise BenchmarkError("a process that swept ended") from None
    finally:
        for pipe in pipes:
            pipe.close()


def _sweep_when_told(url: str, told: "Connection[str, str]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that started this one
    engine = create_database_engine(url)
    process_idle_conversations(engine, now=_LONG_AGO)
    with closing(told):
        told.send("ready")
        told.recv()
        with reading(engine) as connection:
            now = current_time(connection)
        process_idle_conversations(engine, now=now, time_budget=_NO_END)
        told.send("done")
    engine.dispose()

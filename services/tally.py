"""What this process did for each task since it started: for its health, not for its metrics, which outlive it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from threading import Lock

from services.errors import first_line
from services.health import Failure, TaskCounts
from services.tasks import Task


class TalliedRun:
    """One run, while it goes on."""

    def __init__(self) -> None:
        self.items = 0

    def add(self, items: int) -> None:
        """Count so many more items as processed, also when the run fails later on."""
        self.items += items


class RunTally:
    """Counts runs, from any thread. To read it takes no lock that one of them might hold."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._monotonic = monotonic
        self._clock = clock
        self._lock = Lock()
        self._counts = {task: TaskCounts() for task in Task}

    @contextmanager
    def run(self, task: Task) -> Iterator[TalliedRun]:
        """Count a run of ``task``: a failure when it is left by an exception, which goes on, else a success."""
        run = TalliedRun()
        started = self._monotonic()
        try:
            yield run
        except BaseException as error:  # dramatiq interrupts a run that takes too long by one that is no Exception
            self.count(task, seconds=self._monotonic() - started, items=run.items, error=first_line(error))
            raise
        self.count(task, seconds=self._monotonic() - started, items=run.items)

    def count(self, task: Task, *, seconds: float, items: int = 0, error: str | None = None) -> None:
        """Count a run that has ended, which took so many seconds; ``error`` is why it failed."""
        now = self._clock()
        with self._lock:
            before = self._counts[task]
            failed = error is not None
            self._counts[task] = replace(
                before,
                runs=before.runs + 1,
                successes=before.successes + (not failed),
                failures=before.failures + failed,
                items_processed=before.items_processed + items,
                last_run_at=now,
                last_success_at=before.last_success_at if failed else now,
                last_error=before.last_error if error is None else Failure(now, error),
                total_seconds=before.total_seconds + seconds,
            )

    def counts(self) -> dict[Task, TaskCounts]:
        """Return what has been counted so far."""
        return dict(self._counts)

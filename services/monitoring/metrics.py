"""What a worker process counts for Prometheus. Its files in the run directory are added up where they are asked for.

prometheus_client decides when it is imported whether its metrics are those of one process: import this module once
dramatiq's middleware has said that they are not.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.due import Batch
from services.lags import LAG_BUCKETS, Lags
from services.tasks import Task

#: How long runs take, in seconds: one that finds nothing a few milliseconds, one with a backlog up to its time budget
#: of 30 by default, and then dramatiq interrupts it.
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60)


class LagHistogram(Histogram):
    """A histogram that takes a batch at once: to observe thousands one by one would take as long as to end them."""

    def observe_all(self, lags: Lags) -> None:
        """Add the lags of a batch."""
        for bucket, count in zip(self._buckets, lags.counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(lags.total)


class WorkerMetrics:
    """The metrics of one worker process, besides dramatiq's."""

    def __init__(self, *, periodic_actors: Sequence[str]) -> None:
        # Not the default one: what is asked for is read from the files of all processes.
        registry = CollectorRegistry()
        self._processed = Counter(
            "background_conversations_processed_total",
            "Conversations that runs of a task ended.",
            ["task_type"],
            registry=registry,
        )
        self._set_aside = Counter(
            "background_conversations_set_aside_total",
            "Conversations that runs of a task set aside, because the database refuses their end.",
            ["task_type"],
            registry=registry,
        )
        self._durations = Histogram(
            "background_task_duration_seconds",
            "How long the runs of a task took.",
            ["task_type"],
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "background_task_failures_total", "Runs of a task that failed.", ["task_type"], registry=registry
        )
        self._lags = LagHistogram(
            "conversation_end_lag_seconds",
            "From the deadline of a conversation to its end by a sweep.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._dropped = Counter(
            "background_ticks_dropped_total",
            "Ticks that were of no more use when a worker took them.",
            ["actor"],
            registry=registry,
        )
        # All series are there from the start: the first failure is an increase, not a beginning.
        for task in Task:
            for metric in (self._processed, self._set_aside, self._durations, self._failures):
                metric.labels(task)
        for actor in periodic_actors:
            self._dropped.labels(actor)

    @contextmanager
    def run(self, task: Task) -> Iterator[None]:
        """Time a run of ``task``; one that is left by an exception, which goes on, has failed."""
        started = time.perf_counter()
        try:
            yield
        except BaseException:  # dramatiq interrupts a run that takes too long by one that is no Exception
            self._failures.labels(task).inc()
            raise
        finally:
            self._durations.labels(task).observe(time.perf_counter() - started)

    def count_batch(self, task: Task, batch: Batch) -> None:
        """Count what a transaction of a run of ``task`` ended or set aside."""
        self._processed.labels(task).inc(batch.count)
        self._set_aside.labels(task).inc(batch.set_aside)
        if batch.count and batch.lags is not None:
            self._lags.observe_all(batch.lags)

    def count_dropped(self, actor: str) -> None:
        """Count a tick that was of no more use."""
        self._dropped.labels(actor).inc()

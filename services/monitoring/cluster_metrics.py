"""What Redis knows of the whole cluster, as metrics: each endpoint, a worker's or a scheduler's, tells the same."""

import math
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from threading import Lock

import redis
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.backlog import Backlog
from services.cluster.state import QueueStatus, SchedulerState, Status, TaskStatus
from services.cluster.status import read_status
from services.tasks import Task


class ClusterCollector(Collector):
    """Asks Redis when it is scraped. What Redis does not know, or does not say, is left out rather than made up.

    Scrapes that come together share an answer, which Redis has begun after all of them had come: any number takes one
    connection, and where Redis does not answer no longer than two.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._turn = Lock()
        self._status: Status | None = None
        #: When it was asked for, on the monotonic clock, in seconds.
        self._asked_at = -math.inf

    def describe(self) -> list[Metric]:
        """Return nothing, so that to register it asks nobody."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        status = self._read()
        yield _gauge("background_redis_up", "Whether Redis answered this scrape.", status is not None)
        if status is not None:
            yield from _of_processes(status)
            yield from _of_tasks(status.tasks)
            yield from _of_queues(status.queues)
        if status is not None and status.backlog is not None:
            yield from _of_backlog(status.backlog)

    def _read(self) -> Status | None:
        """Return what Redis says, asked no earlier than this was called; None when it does not answer."""
        called_at = time.monotonic()
        with self._turn:
            if self._asked_at < called_at:
                self._asked_at = time.monotonic()
                try:
                    self._status = read_status(client=self._client)
                except redis.RedisError:
                    self._status = None
            return self._status


def _of_processes(status: Status) -> Iterator[Metric]:
    workers = sum(worker.is_alive for worker in status.workers)
    yield _gauge("background_workers_alive", "Worker processes that were heard of of late.", workers)
    schedulers = sum(scheduler.state is not SchedulerState.GONE for scheduler in status.schedulers)
    yield _gauge("background_schedulers_alive", "Schedulers that were heard of of late.", schedulers)


def _of_tasks(tasks: tuple[TaskStatus, ...]) -> Iterator[Metric]:
    yield _by_task(
        "background_task_last_success_timestamp_seconds",
        "When a run of the task succeeded last, by Redis's clock.",
        {one.task: _timestamp(one.last_success_at) for one in tasks},
    )
    yield _by_task(
        "background_task_interval_seconds",
        "From the last slot of the task to the next one.",
        {one.task: None if one.interval is None else one.interval.total_seconds() for one in tasks},
    )
    yield _by_task(
        "background_task_paused",
        "Whether somebody paused the task.",
        {one.task: one.pause is not None for one in tasks},
    )


def _of_queues(queues: tuple[QueueStatus, ...]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("background_queue_messages", "Messages that wait for a worker.", labels=["queue"])
    dead = GaugeMetricFamily("background_dead_letters", "Messages that failed for good.", labels=["queue"])
    for queue in queues:
        for family, count in ((waiting, queue.waiting), (dead, queue.dead)):
            if count is not None:
                family.add_metric([queue.name], count)
    yield from (waiting, dead)


def _of_backlog(backlog: Backlog) -> Iterator[Metric]:
    yield _gauge(
        "background_backlog_measured_timestamp_seconds",
        "When the figures of what is due and active were measured, by the database's clock.",
        backlog.measured_at.timestamp(),
    )
    if backlog.active is not None:
        yield _gauge("active_conversations", "Conversations that go on; an estimate above a million.", backlog.active)
    if backlog.set_aside is not None:
        yield _gauge(
            "conversations_set_aside",
            "Conversations that are due and set aside, because the database refuses their end.",
            backlog.set_aside,
        )
    yield _by_task(
        "conversations_due",
        "Conversations that the task would end; a million means a million or more.",
        {task: one.due for task, one in backlog.tasks.items()},
    )
    yield _by_task(
        "conversations_oldest_due_seconds",
        "For how long the oldest of them is due; 0 when there is none.",
        {task: one.oldest_due_seconds for task, one in backlog.tasks.items()},
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(value))


def _by_task(name: str, documentation: str, values: Mapping[Task, float | None]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["task_type"])
    for task, value in values.items():
        if value is not None:
            family.add_metric([task.value], float(value))
    return family


def _timestamp(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()

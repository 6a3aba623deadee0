"""What a scheduler tells Prometheus.

prometheus_client decides when it is imported whether its metrics are those of one process. Workers import this module
before dramatiq has told theirs to be those of several, so the import waits until there is a scheduler.
"""

# ruff: noqa: PLC0415 - see above

from collections.abc import Callable, Iterable

from services.scheduling.queue import Outcome

#: From the slot to its message in Redis, in seconds: a few milliseconds, a lost leader (15), an outage.
LATENESS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 16, 30, 60, 300, 900, 3600)


class SchedulerMetrics:
    """The metrics of one scheduler's process."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._is_leader = Gauge(
            "scheduler_is_leader", "Whether this scheduler leads (1) or stands by (0).", registry=self.registry
        )
        self._loop = Gauge(
            "scheduler_loop_alive", "Whether Periodiq's loop wakes up when it should.", registry=self.registry
        )
        self._changes = Counter(
            "scheduler_leader_changes_total", "How often this scheduler became the leader.", registry=self.registry
        )
        self._ticks = Counter(
            "scheduler_ticks_total", "Ticks by what became of them.", ["actor", "outcome"], registry=self.registry
        )
        self._lateness = Histogram(
            "scheduler_tick_lateness_seconds",
            "From a slot to its message in Redis.",
            ["actor"],
            buckets=LATENESS_BUCKETS,
            registry=self.registry,
        )

    def watch(self, *, actors: Iterable[str], is_leader: Callable[[], bool], is_loop_alive: Callable[[], bool]) -> None:
        """Begin: all series are there from the start, and the two gauges ask when they are read."""
        self._is_leader.set_function(is_leader)
        self._loop.set_function(is_loop_alive)
        for actor in actors:
            self._lateness.labels(actor)
            for outcome in Outcome:
                self._ticks.labels(actor, outcome)

    def count_leadership(self) -> None:
        """Count that this scheduler became the leader."""
        self._changes.inc()

    def count_tick(self, actor: str, outcome: Outcome, *, lateness: float | None) -> None:
        """Count a tick; ``lateness``, in seconds, of one that was enqueued."""
        self._ticks.labels(actor, outcome).inc()
        if lateness is not None:
            self._lateness.labels(actor).observe(lateness)

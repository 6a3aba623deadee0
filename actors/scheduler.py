"""The scheduler's process: Periodiq's loop is its clock, an election decides whose ticks count."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from types import FrameType

from actors.broker import REDIS_TIMEOUT, TickBroker, broker
from actors.settings import settings
from actors.ticks import is_called_in
from services.monitoring.endpoint import Endpoint
from services.redis_client import connect
from services.schedules import Schedule
from services.scheduling.scheduler import Scheduler, Timing
from services.settings import Settings

#: How long Redis may take to answer a scheduler, in seconds. No two slots are closer to each other.
SCHEDULER_TIMEOUT = 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: From one try to have the main thread notice a signal to the next, in seconds.
NUDGE_INTERVAL = 0.1
#: As soon as Periodiq can wake up: it takes a moment to find out for how long to sleep.
AT_ONCE = timedelta(milliseconds=10)


@cache
def start_scheduler() -> Scheduler:
    """Start this process's scheduler, once, and return it. SIGTERM, SIGINT and SIGHUP make it resign and end."""
    # A worker's directory is none of ours, whatever the environment says.
    for variable in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(variable, None)
    scheduler = create_scheduler(broker, settings)
    end = _End()
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)
    _see_to(end)
    atexit.register(_resign, scheduler)
    scheduler.start()
    _serve(scheduler)
    end.allow()
    return scheduler


class _End:
    """Ends the process on a signal, but not in the middle of its start.

    Python imports modules then, and drops an exception that a signal raises at the wrong moment of that: this process
    would go on, and lead.
    """

    def __init__(self) -> None:
        self._is_allowed = False
        self.is_told = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        self.is_told = True
        if self._is_allowed:
            sys.exit(0)

    def allow(self) -> None:
        """End from now on, and at once when there was a signal."""
        self._is_allowed = True
        if self.is_told:
            sys.exit(0)


def _see_to(end: _End) -> None:
    """Have the main thread notice the signal to end.

    Python calls a handler in the main thread. When a signal comes just before that begins to wait, as Periodiq's loop
    does, or when another thread takes it, nobody calls the handler until the next signal: the alarm, up to an interval
    later. The wakeup fd hears of each signal at once, whichever thread takes it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def nudge() -> None:
        while not any(number in _ENDING for number in os.read(reading, 64)):
            pass
        while not end.is_told:
            time.sleep(NUDGE_INTERVAL)
            wake_loop()

    threading.Thread(target=nudge, name="signals", daemon=True).start()


def _serve(scheduler: Scheduler) -> None:
    registry = None
    if settings.enable_metrics:
        from services.monitoring.cluster_metrics import ClusterCollector  # noqa: PLC0415 - workers load this module, too early

        registry = scheduler.metrics.registry
        registry.register(ClusterCollector(connect(settings.broker_url, timeout=SCHEDULER_TIMEOUT)))
    Endpoint(
        registry=registry,
        health=scheduler.health,
        host=settings.metrics_host,
        port=settings.scheduler_metrics_port,
        variable="BACKGROUND_TASK_SCHEDULER_METRICS_PORT",
    ).serve_in_background()


def _resign(scheduler: Scheduler) -> None:
    """Resign, on the way out of the process. A second signal must not cut that short.

    Nor an alarm what is left after that: Python lets go of its handlers then, and one that nobody handles kills.
    """
    for number in (*_ENDING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    scheduler.stop()


def wake_loop() -> None:
    """Send Periodiq's loop the alarm that it waits for, from any thread, if it has one."""
    main = threading.main_thread().ident
    if main is not None and callable(signal.getsignal(signal.SIGALRM)):
        signal.pthread_kill(main, signal.SIGALRM)


def create_scheduler(broker: TickBroker, settings: Settings, *, wake_loop: Callable[[], None] = wake_loop) -> Scheduler:
    """Return a scheduler of the broker's periodic actors, through which the broker sends their ticks from now on."""
    broker.scheduler = Scheduler(
        {name: actor.options["periodic"] for name, actor in broker.actors.items() if "periodic" in actor.options},
        actors=[name for name, actor in broker.actors.items() if not is_called_in(actor)],
        queues=sorted(broker.queues),
        client=connect(settings.broker_url, timeout=SCHEDULER_TIMEOUT),
        listener=connect(settings.broker_url, timeout=REDIS_TIMEOUT),
        timing=Timing(settings.lease_timeout, settings.renew_interval, settings.catchup_window),
        push=broker.scripts["dispatch"],
        send=lambda actor, options: broker.get_actor(actor).send_with_options(**options),
        wake_loop=wake_loop,
    )
    return broker.scheduler


@dataclass
class Scheduled(Schedule):
    """A schedule as Periodiq has it, by Redis's clock instead of this machine's.

    Periodiq boots no middleware, but only its process asks a schedule anything: the first question starts it all.
    """

    schedule: Schedule
    start: Callable[[], Scheduler] = field(default=start_scheduler, repr=False)
    _offered: datetime | None = field(default=None, init=False)

    def validate(self, date: datetime) -> bool:
        """Return whether a slot has fallen that Periodiq was not told of yet."""
        del date  # this machine's clock, half a second ahead and cut to the second
        slot, offered = self.slot_at(self.start().clock.now()), self._offered
        self._offered = slot
        return slot is not None and slot != offered

    def next_valid_date(self, last: datetime) -> datetime:
        """Return when to wake up for the first slot that Periodiq was not told of, by this machine's clock.

        Never in the past: when sends take longer than the interval, Periodiq would call itself at once, and again,
        until Python's stack is full.
        """
        del last
        scheduler = self.start()
        now = scheduler.clock.now()
        # A slot that fell between the two questions is due at once.
        wake_at = self.slot_after(now) if self.slot_at(now) == self._offered else now + AT_ONCE
        scheduler.loop.expect(str(self), seconds=(wake_at - now).total_seconds())
        return scheduler.clock.to_local(wake_at)

    def slot_at(self, instant: datetime) -> datetime | None:
        """Return the latest slot at or before ``instant``."""
        return self.schedule.slot_at(instant)

    def slot_after(self, instant: datetime) -> datetime:
        """Return the first slot after ``instant``."""
        return self.schedule.slot_after(instant)

    def __str__(self) -> str:
        return str(self.schedule)

"""Nights and days on which calendars, and clocks on walls, do what is easily forgotten; with all clocks set to them.

Nothing here is a fault of anybody's. Deadlines are instants, so none of it may show in the history; schedules of cron
are read off the clock on a wall, so each night has its slots, written down here by hand.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis

from tests.chaos.conversations.elsewhen import elsewhen
from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.processes import Process
from tests.chaos.conversations.redis_server import Redis
from tests.chaos.conversations.shifted_clock import ShiftedClocks, installed_clocks
from tests.chaos.conversations.stack import LEASE, RENEW, Stack
from tests.support import attempts

#: A clock that is put forward by days is over a lease, and Redis forgets it: another leader has to be found.
_ALLOWED = LEASE + RENEW
#: How long a scheduler may take to enqueue a slot that its clock was put just before, in seconds: its loop sleeps until
#: the slot that was next, so a renewal makes up for it.
_SLOT_PATIENCE = 10.0
#: How long what must not come is waited for, in seconds.
_NOTHING_FOR = 4.0
_START = 30.0
_QUEUE = "dramatiq:sweeps"
_HALF_AN_HOUR = timedelta(minutes=30)
#: Half hours of a night: from the one before the change to the third after it.
_STEPS = 5


@dataclass(frozen=True, slots=True)
class Night:
    """A night in which clocks change."""

    name: str
    zone: str
    #: When they do.
    change: datetime
    #: A job at a fixed time of the hour that is skipped or comes twice, as a line of cron.
    line: str
    #: Its one slot: right after the hour that is skipped, or in the first of the two.
    slot: datetime


_NIGHTS: Sequence[Night] = (
    Night(
        "autumn in Paris",
        "Europe/Paris",
        datetime(2026, 10, 25, 1, tzinfo=UTC),
        "30 2 * * *",
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
    ),
    Night(
        "autumn in New York",
        "America/New_York",
        datetime(2026, 11, 1, 6, tzinfo=UTC),
        "30 1 * * *",
        datetime(2026, 11, 1, 5, 30, tzinfo=UTC),
    ),
    Night(
        "spring in New York",
        "America/New_York",
        datetime(2027, 3, 14, 7, tzinfo=UTC),
        "30 2 * * *",
        datetime(2027, 3, 14, 7, tzinfo=UTC),
    ),
    Night(
        "spring in Paris",
        "Europe/Paris",
        datetime(2027, 3, 28, 1, tzinfo=UTC),
        "30 2 * * *",
        datetime(2027, 3, 28, 1, tzinfo=UTC),
    ),
)

#: In their order: a clock that is put forward leaves nothing behind.
_TURNS: Sequence[tuple[str, datetime]] = (
    ("the first minute of a Sunday", datetime(2026, 11, 29, tzinfo=UTC)),
    ("the end of a year", datetime(2027, 1, 1, tzinfo=UTC)),
    ("the beginning of a leap day", datetime(2028, 2, 29, tzinfo=UTC)),
    ("the end of a leap day", datetime(2028, 3, 1, tzinfo=UTC)),
    ("the end of a leap year", datetime(2029, 1, 1, tzinfo=UTC)),
    ("the last second that 32 bits count", datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)),
    ("the leap day that 2100 has not", datetime(2100, 3, 1, tzinfo=UTC)),
)


def _live_through_nights(stack: Stack) -> str:
    """Live through each in processes and sessions whose time zone is of the place."""
    acknowledged = 0
    for zone in ("Europe/Paris", "America/New_York"):
        nights = [(night.name, night.change) for night in _NIGHTS if night.zone == zone]
        with _session_zone(zone):
            acknowledged += _live_through(stack, nights, zone)
    return f"{', '.join(night.name for night in _NIGHTS)}: {acknowledged} operations acknowledged there"


def _live_through_turns(stack: Stack) -> str:
    acknowledged = _live_through(stack, _TURNS, "UTC")
    return f"{', '.join(name for name, _ in _TURNS)}: {acknowledged} operations acknowledged there"


def _live_through(stack: Stack, turns: Sequence[tuple[str, datetime]], zone: str) -> int:
    """Set all clocks to some seconds before each, and let time go on until some seconds after."""
    begin = turns[0][1] - timedelta(hours=1)
    with elsewhen(stack, begin, TZ=zone) as other:
        with other.stack.postgres.connect() as connection:
            shown = connection.execute("SHOW timezone").fetchone()
        if zone != "UTC" and shown != (zone,):
            stack.incidents.append(f"a fault did not come about: sessions are in {shown}, not {zone}")
        for name, instant in turns:
            before = instant - timedelta(seconds=stack.rng.uniform(4, 7))
            other.clocks.set(before)
            other.see(before).wait_until_well(f"{name}: clocks put to just before", allowed=_ALLOWED)
            # Deadlines that were set before it fall after it.
            while other.now() < instant + timedelta(seconds=3):
                time.sleep(0.2)
            other.wait_until_well(name)
        return other.note(other.findings())


@contextmanager
def _session_zone(zone: str) -> Iterator[None]:
    """Have whoever connects to PostgreSQL meanwhile be in a time zone, the clients here too."""
    os.environ["PGTZ"] = zone
    try:
        yield
    finally:
        del os.environ["PGTZ"]


def _read_cron(stack: Stack) -> str:
    """Have two schedulers read a fixed job, and one of each hour, through each night; nobody takes their messages."""
    with ExitStack() as exits:
        watches = [exits.enter_context(_watch(stack, night)) for night in _NIGHTS]
        # Of the slots before the night, the latest is made up for.
        _wait(lambda: all(watch.enqueued() for watch in watches), seconds=_START)
        for step in range(_STEPS):
            for watch in watches:
                watch.go_to(step)
            _wait(lambda: all(watch.has_what_is_due() for watch in watches), seconds=_SLOT_PATIENCE)
            time.sleep(_NOTHING_FOR)
        for watch in watches:
            stack.incidents += watch.findings()
        slots = sum(watch.expected.total() for watch in watches)
    return f"{', '.join(night.name for night in _NIGHTS)}: {slots} slots"


class _Watch:
    """Schedulers in a night, by half hours from the one before the change on."""

    def __init__(self, night: Night, server: Redis, clocks: ShiftedClocks) -> None:
        self.night = night
        self.first = night.change - _HALF_AN_HOUR
        self.expected = Counter({("process_idle_conversations", night.slot): 1})
        for hour in (night.change, night.change + 2 * _HALF_AN_HOUR):
            self.expected["process_expired_conversations", hour] += 1
        self._server = server
        self._clocks = clocks
        self._instant = self.first

    def go_to(self, step: int) -> None:
        """Put the clocks to just before the half hour of a number."""
        self._instant = self.first + step * _HALF_AN_HOUR
        self._clocks.set(self._instant - timedelta(seconds=2))

    def has_what_is_due(self) -> bool:
        """Return whether all slots are enqueued that should be by now."""
        return {one for one in self.expected if one[1] <= self._instant} <= set(self.enqueued())

    def enqueued(self) -> Counter[tuple[str, datetime]]:
        """Return the slots that lie on the list, by actor, with how often they do."""
        with redis.Redis(port=self._server.port) as client:
            ids: Any = client.lrange(_QUEUE, 0, -1)
            payloads: Any = client.hmget(f"{_QUEUE}.msgs", ids) if ids else []
        messages = [json.loads(payload) for payload in payloads]
        return Counter((one["actor_name"], datetime.fromisoformat(one["options"]["scheduled_at"])) for one in messages)

    def findings(self) -> list[str]:
        """Return the slots of the night that were not enqueued as often as they should have been."""
        enqueued = Counter({one: count for one, count in self.enqueued().items() if one[1] >= self.first})
        return [
            f"{self.night.name}: {actor} of {slot:%Y-%m-%d %H:%M} UTC was enqueued {enqueued[actor, slot]} times, "
            f"not {self.expected[actor, slot]}"
            for actor, slot in sorted(self.expected.keys() | enqueued.keys())
            if enqueued[actor, slot] != self.expected[actor, slot]
        ]


@contextmanager
def _watch(stack: Stack, night: Night) -> Iterator[_Watch]:
    """Start a Redis and two schedulers some minutes before the night."""
    directory = stack.directory / f"{night.name.replace(' ', '-')}-{time.monotonic_ns()}"
    directory.mkdir()
    with ExitStack() as exits:
        clocks = exits.enter_context(installed_clocks())
        clocks.set(night.change - _HALF_AN_HOUR - timedelta(minutes=5))
        server = Redis(directory / "redis")
        server.start()
        exits.callback(server.stop)
        for _ in range(2):
            exits.callback(_scheduler(stack, directory, server, night).kill)
        yield _Watch(night, server, clocks)


def _scheduler(stack: Stack, directory: Path, server: Redis, night: Night) -> Process:
    variables = stack.environment() | {
        "REDIS_URL": server.url,
        "DATABASE_URL": f"sqlite:///{directory / 'unused.db'}",
        "BACKGROUND_TASK_IDLE_SCHEDULE": f"TZ={night.zone} {night.line}",
        "BACKGROUND_TASK_EXPIRED_SCHEDULE": f"TZ={night.zone} 0 * * * *",
        # Ticks of sweeps only.
        "BACKGROUND_TASK_ENABLE_METRICS": "false",
        "TZ": night.zone,
    }
    return Process("scheduler", ["periodiq", "actors"], directory, variables)


def _enqueued(server: Redis) -> Counter[tuple[str, datetime]]:
    """Return the slots that lie on the list, by actor, with how often they do."""
    with redis.Redis(port=server.port) as client:
        ids: Any = client.lrange(_QUEUE, 0, -1)
        payloads: Any = client.hmget(f"{_QUEUE}.msgs", ids) if ids else []
    messages = [json.loads(payload) for payload in payloads]
    return Counter((one["actor_name"], datetime.fromisoformat(one["options"]["scheduled_at"])) for one in messages)


def _wait(condition: Callable[[], object], *, seconds: float) -> None:
    for _ in attempts(seconds, pause=0.1):
        if condition():
            return


FAULTS: tuple[Fault, ...] = (
    Fault("nights in which clocks change", _live_through_nights, sets_clocks=True),
    Fault("leap days, ends of years and of 32 bits", _live_through_turns, sets_clocks=True),
    Fault("cron in nights in which clocks change", _read_cron, sets_clocks=True),
)

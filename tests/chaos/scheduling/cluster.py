"""Everything that is under test, and how to wait for what it should do."""

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Self

from tests.chaos.proxy import Proxies, Proxy
from tests.chaos.scheduling.bounds import LEASE
from tests.chaos.scheduling.ledger import Ledger, Look
from tests.chaos.scheduling.records import Record
from tests.chaos.scheduling.schedulers import Scheduler
from tests.chaos.server import Server
from tests.support import attempts

ACTORS = ("process_idle_conversations", "process_expired_conversations")
#: A start may have to wait for the minute to end: Periodiq sleeps when it is started in its last seconds.
STEADY_TIMEOUT = 30.0
#: What a process may take to end after SIGTERM.
_END_TIMEOUT = 10.0
#: Slots in a row, of each actor, that show that ticks flow again.
_STEADY_SLOTS = 2
#: A slot that is this old, in seconds, has been enqueued when all is well.
_ENQUEUED_WITHIN = 0.3


class NeverSteadyError(Exception):
    """The schedulers did not find back to a leader, standbys and ticks on time."""


class Cluster:
    """N schedulers, each behind a proxy, one Redis, and the ledger that watches it.

    ``environment`` is for the schedulers, over what all of them have.
    """

    def __init__(
        self, *, schedulers: int, rng: random.Random, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.rng = rng
        self._environment = environment
        self.record = Record(actors=ACTORS)
        self.directory = Path(tempfile.mkdtemp(prefix="adjourn-chaos-"))
        self.server = Server(self.directory / "redis")
        self.ledger = Ledger(self.record, self.server.port)
        self._count = schedulers
        self._schedulers: list[Scheduler] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.server.start()
            stack.callback(self.server.stop)
            proxies = stack.enter_context(Proxies())
            stack.callback(self._kill_all)
            for _ in range(self._count):
                self._schedulers.append(self._start(proxies.open(self.server.port)))
            self.ledger.start()
            stack.callback(self.ledger.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def schedulers(self) -> list[Scheduler]:
        """Those that should be running."""
        return list(self._schedulers)

    @property
    def leader(self) -> Scheduler:
        """Who leads. Ask only when all is steady."""
        pid = self.ledger.look.leader_pid
        for one in self._schedulers:
            if one.pid == pid:
                return one
        raise NeverSteadyError(f"nobody led (holder: pid {pid}) when all had been steady and nothing was done since")

    @property
    def standbys(self) -> list[Scheduler]:
        leader = self.leader
        return [one for one in self._schedulers if one is not leader]

    def replace(self, old: Scheduler, *, clock_shift: float = 0) -> Scheduler:
        """Start a scheduler in the place of one that has ended."""
        new = self._start(old.proxy, clock_shift)
        self._schedulers[self._schedulers.index(old)] = new
        return new

    def terminate(self, scheduler: Scheduler) -> float:
        """Send SIGTERM; return when. ``finish`` it later."""
        at = time.time()
        scheduler.terminate()
        return at

    def finish(self, scheduler: Scheduler) -> None:
        """Wait for the end of a scheduler after SIGTERM, and see how it went."""
        for _ in attempts(_END_TIMEOUT):
            if not scheduler.is_running:
                break
        else:
            self.record.incidents.append(f"{scheduler} did not end within {_END_TIMEOUT:g} s of SIGTERM")
            scheduler.kill()
            return
        if scheduler.process.returncode != 0:
            self.record.incidents.append(f"{scheduler} ended with {scheduler.process.returncode} after SIGTERM, not 0")

    def wait_for(self, condition: Callable[[Look], bool], *, seconds: float, what: str) -> float:
        """Return when, by Redis's clock, ``condition`` was first seen to hold."""
        for _ in attempts(seconds, pause=0.01):
            look = self.ledger.look
            if look.at and condition(look):
                return look.at
        raise NeverSteadyError(f"{what} did not come about within {seconds:g} s")

    def wait_for_members(self, schedulers: list[Scheduler], *, every: bool = True) -> float:
        """Return when all of ``schedulers``, or one of them, had announced themselves."""
        enough = all if every else any
        return self.wait_for(
            lambda look: enough(one.pid in look.members for one in schedulers),
            seconds=STEADY_TIMEOUT,
            what=f"the announcement of {', '.join(map(str, schedulers))}",
        )

    def wait_until_steady(self) -> float:
        """Return when one leads, all others stand by, and for some slots from now on each tick came on time."""
        self._watch_for_ends()
        began = time.time()
        missing = "a look at Redis"
        for _ in attempts(STEADY_TIMEOUT, pause=0.01):
            missing = self._missing_from_steadiness(began)
            if not missing:
                return time.time()
        self._watch_for_ends()
        raise NeverSteadyError(f"after {STEADY_TIMEOUT:g} s there was still not: {missing}")

    def note_tracebacks(self) -> None:
        """Note the schedulers that wrote a traceback: whatever is done to them, they should have words for it."""
        for log in sorted(self.directory.glob("scheduler-*.log")):
            count = log.read_text(errors="replace").count("Traceback (most recent call last)")
            if count:
                self.record.incidents.append(f"{count} tracebacks in {log.name}")

    def _missing_from_steadiness(self, began: float) -> str:
        look, now = self.ledger.look, time.time()
        running = {one.pid for one in self._schedulers if one.is_running}
        if look.leader_pid not in running or now - look.at > 1:
            return "a leader"
        fresh = {pid for pid, seen_at in look.members.items() if look.at - seen_at < LEASE}
        if not running <= fresh or len(running) < self._count:
            return f"{self._count} schedulers that announce themselves (fresh: {sorted(fresh)}, of {sorted(running)})"
        newest = int(now - _ENQUEUED_WITHIN)
        if newest - _STEADY_SLOTS + 1 < began:
            return "time for some slots"
        expected = {(actor, newest - age) for actor in ACTORS for age in range(_STEADY_SLOTS)}
        on_time = {(push.actor, push.slot) for push in self.record.pushes[-50:] if push.seen_at - push.slot < 1}
        late = expected - on_time
        return f"ticks on time (not so: {sorted(late)})" if late else ""

    def _start(self, proxy: Proxy, clock_shift: float = 0) -> Scheduler:
        return Scheduler(proxy, self.directory, clock_shift=clock_shift, variables=self._environment)

    def _watch_for_ends(self) -> None:
        """Note the schedulers that ended by themselves, and start others in their place."""
        for one in self._schedulers:
            if not one.is_running and not one.ended_by_us:
                self.record.incidents.append(f"{one} ended by itself with {one.process.returncode}: see {one.log.name}")
                self.replace(one)

    def _kill_all(self) -> None:
        for one in self._schedulers:
            if one.is_running:
                one.kill()

"""A scheduler's process: one of any number, of which one leads and enqueues each slot of each schedule once."""

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from redis.commands.core import Script

from services.errors import first_line
from services.health import HealthReport
from services.logs import get_logger
from services.redis_client import unsafe_for_claims
from services.schedules import Schedule
from services.scheduling import keys
from services.scheduling.clock import RedisClock
from services.scheduling.election import Election
from services.scheduling.health import SchedulerFacts, judge_scheduler
from services.scheduling.lease import Lease
from services.scheduling.loop_watch import LoopWatch
from services.scheduling.metrics import SchedulerMetrics
from services.scheduling.queue import FencedQueue, Outcome, Push, Tick
from services.tally import RunTally
from services.tasks import Task, actor_of

#: How late Periodiq's loop may be before a renewal sends in its place, and what it sends counts as caught up.
LATE = timedelta(seconds=1)
#: How late it may be before its alarm is taken for lost: the sends of a round may take a few seconds.
LOST = timedelta(seconds=5)
#: How long the lease may take to be given back at the end, in seconds.
STOP_TIMEOUT = 5.0
_TASKS = {actor_of(task): task for task in Task}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """The three durations of the election. docs/settings.md explains them."""

    lease_timeout: timedelta
    renew_interval: timedelta
    catchup_window: timedelta


class Scheduler:
    """One scheduler: the election, the fenced enqueue, and making up for what was missed.

    ``actors`` are all that may be triggered, ``schedules`` those of them that have one, ``queues`` where their messages
    lie. ``send`` sends a message to an actor, with options, through ``enqueue`` or ``trigger`` in the end, and
    ``wake_loop`` wakes Periodiq's loop from another thread. ``client`` must not repeat by itself what it sends, and
    must give up within a second or so; ``listener`` may do as it likes.
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule],
        *,
        actors: Collection[str],
        queues: Collection[str],
        client: redis.Redis,
        listener: redis.Redis,
        timing: Timing,
        push: Script,
        send: Callable[[str, Mapping[str, Any]], object],
        wake_loop: Callable[[], None],
    ) -> None:
        self.clock = RedisClock()
        self.loop = LoopWatch()
        self.metrics = SchedulerMetrics()
        self._schedules = schedules
        self._actors = actors
        self._queues = queues
        self._client = client
        self._timing = timing
        self._send = send
        self._wake_loop = wake_loop
        self._lease = Lease(client, timeout=timing.lease_timeout, clock=self.clock)
        self._queue = FencedQueue(client, self._lease, push=push)
        self._election = Election(
            self._lease,
            renew_interval=timing.renew_interval,
            about=self._about,
            on_contact=self._warn,
            on_lead=self._begin_to_lead,
            on_renewal=self._go_on_leading,
            listener=listener,
        )
        self._started_at, self._started = datetime.now(UTC), time.monotonic()
        self._tally = RunTally()
        self._loop_was_alive = True
        self._warned_of: list[str] = []
        self._paused: set[str] = set()
        #: Why the last tick or trigger of an actor failed, and which slot of it was said to be missed.
        self._failing: dict[tuple[str, str], str] = {}
        self._missed: dict[str, datetime] = {}

    def start(self) -> None:
        """Begin to campaign."""
        self.metrics.watch(
            actors=self._schedules, is_leader=lambda: self._lease.hold is not None, is_loop_alive=self._is_loop_alive
        )
        self._election.start()

    def stop(self) -> None:
        """Give the lease back, so that another leads at once, and end."""
        self._election.stop(timeout=STOP_TIMEOUT)

    def health(self) -> HealthReport:
        """Return how this scheduler is. It asks nobody, and takes no lock."""
        failing = {actor: reason for (what, actor), reason in list(self._failing.items()) if what == "tick"}
        return judge_scheduler(
            SchedulerFacts(
                pid=os.getpid(),
                started_at=self._started_at,
                uptime=timedelta(seconds=time.monotonic() - self._started),
                rounds=self.loop.answers // max(len(self._schedules), 1),
                is_loop_alive=self._is_loop_alive(),
                loop_late=timedelta(seconds=self.loop.late()),
                is_election_alive=self._election.is_alive(),
                leads=self._lease.hold is not None,
                leaderless=timedelta(seconds=self._election.leaderless_for()),
                lease_timeout=self._timing.lease_timeout,
                trouble=self._election.trouble,
                failing_ticks=failing,
                tasks=self._tally.counts(),
            )
        )

    def tick(self, actor: str, *, missed: datetime | None = None) -> Tick | None:
        """Return the tick of ``actor``'s latest slot, or of a slot that was missed.

        None when there is none, or when it is too old to be made up for: whoever asks may have slept for a day.
        """
        schedule, now = self._schedules[actor], self.clock.now()
        slot = missed or schedule.slot_at(now)
        if slot is None:
            return None
        if now - slot > self._timing.catchup_window:
            return None
        return Tick(actor, slot, schedule.slot_after(slot), caught_up=missed is not None or now - slot > LATE)

    def enqueue(self, tick: Tick, push: Callable[[int], Push]) -> Outcome:
        """Enqueue ``tick`` if this scheduler leads and its slot is not claimed yet. What fails is logged, not raised.

        ``push`` is asked for the message only if it leads, with the term.
        """
        hold = self._lease.hold
        if hold is None:
            return self._note(tick, Outcome.NOT_LEADER)
        started = time.monotonic()
        ids: dict[str, Any] = {"slot": tick.slot.isoformat(), "term": hold.term}
        try:
            message = push(hold.term)
            ids["message_id"] = message.message_id
            enqueued = self._queue.enqueue(tick, message, hold=hold)
        except Exception as error:  # noqa: BLE001 - Redis or a middleware's veto: Periodiq's loop would end with it
            unknown = isinstance(error, redis.ConnectionError | redis.TimeoutError)
            what = "tick not confirmed" if unknown else "tick not enqueued"
            self._log_failure(what, error, of=("tick", tick.actor), **ids)
            if unknown:
                self._election.wake()  # it finds out whether Redis is down
            self._count(tick, seconds=time.monotonic() - started, error=first_line(error))
            return self._note(tick, Outcome.FAILED, **ids)
        if enqueued.outcome is Outcome.NOT_LEADER:
            self._lease.give_up(hold.term)
            self._election.wake()
        if enqueued.outcome.is_pushed:
            self._count(tick, seconds=time.monotonic() - started, items=1)
        return self._note(tick, enqueued.outcome, enqueued_at=enqueued.at, **ids)

    def trigger(self, actor: str, request_id: str, push: Callable[[int], Push]) -> bool:
        """Enqueue what a person asked for and strike the request; return whether that came about.

        What fails is logged, not raised: the request stays, and is looked at again with the next renewal.
        """
        hold = self._lease.hold
        if hold is None:
            return False
        try:
            message = push(hold.term)
            triggered = self._queue.trigger(actor, request_id, message, hold=hold)
        except Exception as error:  # noqa: BLE001 - Redis or a middleware's veto: other tasks wait for their turn
            self._log_failure("trigger not confirmed", error, of=("trigger", actor), request=request_id)
            return False
        if triggered:
            self._failing.pop(("trigger", actor), None)
            log.info("triggered", actor=actor, request=request_id, message_id=message.message_id, term=hold.term)
        return triggered

    def _log_failure(self, what: str, error: Exception, *, of: tuple[str, str], **about: str | int) -> None:
        """Log an error, once: a line a try would be too much of what goes on for hours."""
        _, actor = of
        level = logging.DEBUG if self._failing.get(of) == str(error) else logging.ERROR
        self._failing[of] = str(error)
        log.log(level, what, actor=actor, **about, reason=str(error))

    def _count(self, tick: Tick, *, seconds: float, items: int = 0, error: str | None = None) -> None:
        task = _TASKS.get(tick.actor)
        if task is not None:
            self._tally.count(task, seconds=seconds, items=items, error=error)

    def _note(self, tick: Tick, outcome: Outcome, *, enqueued_at: datetime | None = None, **ids: Any) -> Outcome:
        lateness = None
        if enqueued_at is not None and outcome.is_pushed:
            lateness = max((enqueued_at - tick.slot).total_seconds(), 0)
        self.metrics.count_tick(tick.actor, outcome, lateness=lateness)
        (log.info if outcome is Outcome.CAUGHT_UP else log.debug)(
            outcome.replace("_", " "), actor=tick.actor, lateness=lateness, **{"slot": tick.slot.isoformat(), **ids}
        )
        self._note_pause(tick.actor, outcome)
        if outcome.is_pushed:
            self._failing.pop(("tick", tick.actor), None)
        return outcome

    def _note_pause(self, actor: str, outcome: Outcome) -> None:
        if outcome is Outcome.PAUSED and actor not in self._paused:
            self._paused.add(actor)
            log.info("its slots pass without a message: it is paused", actor=actor)
        elif outcome.is_pushed and actor in self._paused:
            self._paused.discard(actor)
            log.info("its slots are enqueued again", actor=actor)

    def _warn(self) -> None:
        reasons = unsafe_for_claims(self._client)
        # It may be asked again and again, while something that it cannot do keeps this scheduler from leading.
        for reason in reasons:
            if reason not in self._warned_of:
                log.warning("this redis is not safe for schedulers", reason=reason)
        self._warned_of = reasons

    def _begin_to_lead(self) -> None:
        self.metrics.count_leadership()
        self._make_up(before=self.clock.now())

    def _go_on_leading(self) -> None:
        # What is due this very moment is for Periodiq's loop.
        self._make_up(before=self.clock.now() - LATE)

    def _make_up(self, *, before: datetime) -> None:
        """Do what waits: triggers, and the latest slot of each schedule that fell by ``before`` and nobody claimed.

        One slot, not a storm: it does the work of those before it.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for actor in self._actors:
                pipe.hmget(keys.task_key(actor), "slot", "trigger_id")
            # What is wrong with the key of one task is no reason to leave the others alone.
            answers = [
                (None, None) if isinstance(answer, Exception) else answer
                for answer in pipe.execute(raise_on_error=False)
            ]
        oldest = self.clock.now() - self._timing.catchup_window
        marks = {actor: self._mark(slot) for actor, (slot, _) in zip(self._actors, answers, strict=True)}
        self._tell_schedules({actor: max(mark or oldest, oldest) for actor, mark in marks.items()})
        for actor, (_, request_id) in zip(self._actors, answers, strict=True):
            schedule, mark = self._schedules.get(actor), marks[actor]
            slot = schedule and schedule.slot_at(before)
            if slot and slot > (mark or oldest):
                self._make_up_for(actor, slot, oldest=oldest)
            if schedule and mark and mark >= (schedule.slot_at(self.clock.now()) or mark):
                self._failing.pop(("tick", actor), None)  # what was not confirmed did come about
            if request_id is not None:
                self._send(actor, {"trigger_id": request_id.decode(errors="replace")})

    def _make_up_for(self, actor: str, slot: datetime, *, oldest: datetime) -> None:
        if slot > oldest:
            self._send(actor, {"scheduled_at": slot.isoformat(), "caught_up": True})
        elif self._missed.get(actor) != slot:
            self._missed[actor] = slot
            log.warning("missed: older than the catch-up window", actor=actor, slot=slot.isoformat())

    def _mark(self, slot: bytes | None) -> datetime | None:
        """Return the last slot that is claimed, as far as it counts; the fence alone can tell for sure."""
        with suppress(TypeError, ValueError, OverflowError, OSError):  # there is none, or somebody else wrote it
            mark = datetime.fromtimestamp(int(slot or b""), UTC)
            return mark if mark <= self.clock.now() + self._timing.lease_timeout else None
        return None

    def _tell_schedules(self, claimed: Mapping[str, datetime]) -> None:
        """Write down for whoever asks Redis: which queues there are, what the schedules are, which slot comes next."""
        now = self.clock.now()
        with self._client.pipeline(transaction=False) as pipe:
            pipe.sadd(keys.QUEUES, *self._queues)
            for actor in self._actors:
                schedule = self._schedules.get(actor)
                if schedule is None:
                    pipe.hdel(keys.task_key(actor), "schedule", "interval", "next_slot")
                else:
                    upcoming = schedule.slot_after(now)
                    told: dict[Any, Any] = {
                        "schedule": str(schedule),
                        "interval": int((upcoming - (schedule.slot_at(now) or now)).total_seconds()),
                        "next_slot": int(schedule.slot_after(claimed[actor]).timestamp()),
                    }
                    pipe.hset(keys.task_key(actor), mapping=told)
            pipe.execute(raise_on_error=False)  # a Redis that is full refuses it

    def _is_loop_alive(self) -> bool:
        # While Redis is away, the loop is held up by its sends.
        return self.loop.is_alive() or not self._election.redis_answers

    def _about(self) -> str:
        """Return what others are told of this scheduler, JSON."""
        if self._election.redis_answers and self.loop.late() > LOST.total_seconds():
            # It waits for an alarm that is over: one that comes just before a thread begins to wait, as it may on a
            # machine that is short of time, is not noticed before the next signal.
            self._wake_loop()
        alive = self._is_loop_alive()
        if alive != self._loop_was_alive:
            self._loop_was_alive = alive
            if alive:
                log.info("periodiq's loop is alive again")
            else:
                log.error("periodiq's loop is stuck; what it misses is sent at each renewal: restart this scheduler")
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_at": self._started_at.isoformat(),
                "loop": "running" if alive else "stuck",
            }
        )

"""Histories in which the rules hold, to try the checker by: clients and sweeps that take turns at any point.

Time passes in steps of a millisecond and timeouts are a few of them, so that deadlines are met exactly all the time.
Each operation reads the clock, takes effect and is answered at times drawn one by one; the table changes in the instant
of an effect. It is written apart from ``tests.histories.model``, as a table of rows and not as states of a key.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

from tests.histories.final import Event, FinalState, Row
from tests.histories.record import Answer, Kind, Operation, Outcome

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
_STEP = timedelta(milliseconds=1)
_ACTIVE = ("pending", "progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a history is made of."""

    clients: int = 4
    keys: int = 2
    operations: int = 60
    #: In steps; the idle timeout is one of these at each activity.
    idle: tuple[int, ...] = (8, 12)
    expiry: int = 30
    #: The longest wait between operations and within one, in steps.
    pause: int = 4
    #: One operation in so many stalls, one is of unknown outcome, one is refused.
    stall_in: int = 15
    unknown_in: int = 10
    refused_in: int = 20
    #: Steps from one sweep to the next, at most.
    sweep: int = 15
    #: The clock shows each so-many-th step only.
    grain: int = 1
    closes: bool = True


@dataclass(slots=True)
class Table:
    """The conversations and events, and what changes them."""

    rows: dict[str, Row] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def active_on(self, key: str) -> Row | None:
        """Return the active conversation of a key."""
        return next(
            (row for row in reversed(self.rows.values()) if row.session_key == key and row.status in _ACTIVE), None
        )

    def change(self, row: Row, status: str, cause: str, moment: datetime) -> Row:
        """Change a status, with its event."""
        number = len(self.events) + 1
        event = Event(
            event_id=number,
            conv_id=row.conv_id,
            previous_status=row.status,
            status=status,
            deadline=min(row.idle_at, row.expires_at),
            last_activity_at=row.updated_at,
            cause=cause,
            sweep_id="sweep" if cause == "sweep" else None,
            occurred_at=moment,
        )
        self.events.append(event)
        self.rows[row.conv_id] = replace(row, status=status, ended_at=None if status in _ACTIVE else moment)
        return self.rows[row.conv_id]

    def end(self, row: Row, cause: str, moment: datetime) -> Row:
        """End what is due."""
        return self.change(row, "expired" if row.expires_at <= row.idle_at else "idle_timeout", cause, moment)

    def message(self, key: str, now: datetime, idle: timedelta, expiry: timedelta) -> tuple[Row, bool]:
        """Take a message."""
        row = self.active_on(key)
        if row is not None and min(row.idle_at, row.expires_at) <= now:
            self.end(row, "activity", now)
            row = None
        if row is None:
            conv_id = f"{key}/{sum(one.session_key == key for one in self.rows.values())}"
            opened = Row(
                conv_id=conv_id,
                session_key=key,
                status="pending",
                created_at=now,
                updated_at=now,
                idle_at=now + idle,
                expires_at=now + expiry,
                ended_at=None,
            )
            self.rows[conv_id] = opened
            return opened, True
        if row.status == "pending":
            row = self.change(row, "progress", "activity", now)
        if now >= row.updated_at:
            row = replace(row, updated_at=now, idle_at=now + idle)
        self.rows[row.conv_id] = row
        return row, False

    def close(self, conv_id: str, now: datetime) -> Row:
        """Close a conversation."""
        row = self.rows[conv_id]
        if row.status not in _ACTIVE:
            return row
        if min(row.idle_at, row.expires_at) <= now:
            return self.end(row, "close", now)
        return self.change(row, "closed", "close", now)

    def sweep(self, now: datetime, limit: int) -> None:
        """End what is due."""
        due = [row for row in self.rows.values() if row.status in _ACTIVE and min(row.idle_at, row.expires_at) <= now]
        for row in due[:limit]:
            self.end(row, "sweep", now)


class World:
    """One run of a plan."""

    def __init__(self, plan: Plan, rng: random.Random, table: Table | None = None) -> None:
        self.table = table or Table()
        self.operations: list[Operation] = []
        self._plan = plan
        self._rng = rng
        self._numbers = count(1)
        self._order = count()
        self._time = 0
        self._agenda: list[tuple[int, int, Iterator[int]]] = []
        self._known: dict[str, list[str]] = {f"key-{number}": [] for number in range(plan.keys)}

    def run(self) -> tuple[list[Operation], FinalState]:
        """Run it to its end; return the history and the final state."""
        share = -(-self._plan.operations // self._plan.clients)
        for client in range(self._plan.clients):
            self._start(self._client(client, share))
        clients = self._plan.clients * share
        self._start(self._sweeper(lambda: self._operations_begun >= clients))
        while self._agenda:
            self._time, _, steps = heapq.heappop(self._agenda)
            self._go_on(steps)
        return self.operations, FinalState(tuple(self.table.rows.values()), tuple(self.table.events), self._clock())

    _operations_begun = 0

    def _start(self, steps: Iterator[int]) -> None:
        self._go_on(steps)

    def _go_on(self, steps: Iterator[int]) -> None:
        """Let somebody go on until it waits."""
        wait = next(steps, None)
        if wait is not None:
            heapq.heappush(self._agenda, (self._time + wait, next(self._order), steps))

    def _clock(self) -> datetime:
        return NOON + _STEP * (self._time - self._time % self._plan.grain)

    def _stopwatch(self) -> float:
        """Return the monotonic clock: of what comes in the same step, it knows the order."""
        return self._time + next(self._order) / 1_000_000

    def _client(self, client: int, share: int) -> Iterator[int]:
        for _ in range(share):
            yield self._pause()
            yield from self._operate(client)

    def _operate(self, client: int) -> Iterator[int]:
        plan, rng = self._plan, self._rng
        self._operations_begun += 1
        key = rng.choice(list(self._known))
        kind = rng.choices(list(Kind), weights=(4, 4, 3, int(plan.closes)))[0]
        if not self._known[key]:
            kind = Kind.MESSAGE
        conv_id = rng.choice(self._known[key][-2:]) if kind in {Kind.ACTIVITY_BY_ID, Kind.CLOSE} else None
        idle = rng.choice(plan.idle)
        number, invoked = next(self._numbers), self._stopwatch()
        yield self._pause()
        now = self._clock()
        outcome = Outcome.OK
        if not rng.randrange(plan.unknown_in):
            outcome = Outcome.UNKNOWN
        elif not rng.randrange(plan.refused_in):
            outcome = Outcome.REFUSED
        answers: list[Answer] = []
        effect = partial(self._take_effect, kind, conv_id or key, now, _STEP * idle, answers)
        if outcome is Outcome.OK:
            yield from self._after_wait(effect)
        elif outcome is Outcome.UNKNOWN and rng.randrange(3):
            # It may come long after its client gave up.
            self._start(self._after_wait(effect))
        yield self._pause()
        operation = Operation(
            number=number,
            client=client,
            kind=kind,
            key=key,
            conv_id=conv_id,
            now=now,
            idle_timeout=idle / 1000,
            expire_after=plan.expiry / 1000,
            invoked=invoked,
            returned=None if outcome is Outcome.UNKNOWN else self._stopwatch(),
            outcome=outcome,
            answer=answers[0] if outcome is Outcome.OK else None,
            error=None if outcome is Outcome.OK else "no answer",
        )
        self.operations.append(operation)

    def _take_effect(self, kind: Kind, about: str, now: datetime, idle: timedelta, answers: list[Answer]) -> None:
        opened: bool | None = None
        if kind is Kind.CLOSE:
            row = self.table.close(about, now)
        else:
            key = about.partition("/")[0]
            row, opened = self.table.message(key, now, idle, _STEP * self._plan.expiry)
            if opened:
                self._known[key].append(row.conv_id)
        told = {field.name: getattr(row, field.name) for field in fields(Answer) if field.name != "opened"}
        answers.append(Answer(opened=opened, **told))

    def _after_wait(self, effect: Callable[[], None]) -> Iterator[int]:
        stalls = not self._rng.randrange(self._plan.stall_in)
        yield self._pause() + (self._rng.randrange(4 * self._plan.expiry) if stalls else 0)
        effect()

    def _sweeper(self, is_over: Callable[[], bool]) -> Iterator[int]:
        while not is_over():
            yield self._rng.randrange(1, self._plan.sweep + 1)
            now = self._clock()
            yield self._pause()
            self.table.sweep(now, self._rng.randrange(1, 4))

    def _pause(self) -> int:
        return self._rng.randrange(self._plan.pause + 1)

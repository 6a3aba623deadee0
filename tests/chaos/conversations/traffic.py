"""Live traffic: clients that open, touch and close conversations through the services, and write down how it went.

An application's own transactions are these: a session, the database's clock, one call, COMMIT; and in some of them,
other work that takes a while. Nothing that goes wrong ends a client.
"""

import random
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from models.conversation import Conversation
from services.conversations import Activity, close_conversation, open_or_resume_conversation, record_activity
from services.database import create_database_engine, current_time, open_session
from services.errors import AdjournError, ConversationNotFoundError, first_line
from services.timeouts import Timeouts
from tests.chaos.conversations.keys import Choice, Keys
from tests.histories.record import Answer, Checkpoint, Kind, Operation, Outcome, write

#: In seconds.
IDLE_TIMEOUT, EXPIRE_AFTER = 2.0, 6.0
#: How long a client waits for a connection, in seconds.
_PATIENCE = 5.0
#: After an operation that failed, in seconds: an application that tries again at once only adds to what is wrong.
_PAUSE = 0.1
_TIMEOUTS = Timeouts(idle=timedelta(seconds=IDLE_TIMEOUT), expiry=timedelta(seconds=EXPIRE_AFTER))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many operations went how."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    #: Never begun: there was no connection to be had, or no clock to be read.
    unsent: int = 0

    def __sub__(self, earlier: Self) -> "Counts":
        return Counts(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


class Traffic:
    """``clients`` threads that do ``rate`` operations a second together, as far as they are answered."""

    def __init__(
        self, database_url: str, history: Path, *, clients: int = 8, rate: float = 150.0, seed: int | None = None
    ) -> None:
        self.history = history
        #: What should never happen to a client.
        self.incidents: list[str] = []
        self._engine = create_database_engine(
            database_url, pool_size=clients, max_overflow=0, pool_timeout=_PATIENCE, pool_reset_on_return="rollback"
        )
        self._rng = random.Random(seed)
        self._known: dict[str, str] = {}
        self._counts = dict.fromkeys(("acknowledged", "refused", "unknown", "unsent"), 0)
        self._number = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stream = history.open("w")
        #: When the last acknowledged operation of each client began, on the monotonic clock.
        self._acknowledged_at = dict.fromkeys(range(clients), 0.0)
        self._pace = clients / rate
        self._threads = [
            threading.Thread(target=self._run, args=(client,), name=f"client {client}", daemon=True)
            for client in range(clients)
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Have the clients begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have them finish what they are at, if that was not done; then the history is complete."""
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is None:
                continue
            thread.join(timeout=60)
            if thread.is_alive():
                self.incidents.append(f"{thread.name} is still waiting for an answer after a minute")
        self._engine.dispose()
        with self._lock:
            self._stream.close()

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        with self._lock:
            return Counts(**self._counts)

    @property
    def number(self) -> int:
        """The number of the last operation that was written down."""
        with self._lock:
            return self._number

    def is_acknowledged_since(self, monotonic: float) -> bool:
        """Return whether each client had an operation acknowledged that began after ``monotonic``."""
        return all(at >= monotonic for at in self._acknowledged_at.values())

    def note(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint into the history."""
        with self._lock:
            write(self._stream, checkpoint)

    def _run(self, client: int) -> None:
        with self._lock:
            rng = random.Random(self._rng.random())
        keys = Keys(client, self._known, rng, idle_timeout=IDLE_TIMEOUT, monotonic=time.monotonic)
        due = time.monotonic() + rng.random() * self._pace
        while not self._stopped.wait(max(due - time.monotonic(), 0)):
            # Who was kept waiting does not make up for it.
            due = max(due, time.monotonic() - self._pace) + self._pace * rng.uniform(0.5, 1.5)
            if not self._operate(client, keys.choose()):
                self._stopped.wait(_PAUSE)

    def _operate(self, client: int, choice: Choice) -> bool:
        """Do one operation and write it down; return whether it was acknowledged."""
        attempt = _Attempt(self._engine, choice)
        invoked = time.monotonic()
        try:
            attempt.make()
        except (SQLAlchemyError, AdjournError) as error:
            attempt.error = f"{type(error).__name__}: {first_line(error)}"
            if isinstance(error, ConversationNotFoundError):
                # Whoever asks was told of it by an answer.
                self.incidents.append(f"{choice.kind} of {choice.key} (known: {choice.conv_id}): {error}")
        except Exception as error:  # noqa: BLE001 - whatever an application would have met
            attempt.error = f"{type(error).__name__}: {first_line(error)}"
            self.incidents.append(f"{choice.kind} of {choice.key} met an error of nobody's:\n{traceback.format_exc()}")
        self._write_down(client, choice, attempt, invoked)
        return attempt.outcome is Outcome.OK

    def _write_down(self, client: int, choice: Choice, attempt: "_Attempt", invoked: float) -> None:
        # What may have happened may also be still to happen.
        returned = None if attempt.outcome is Outcome.UNKNOWN else time.monotonic()
        with self._lock:
            self._counts[attempt.counted_as] += 1
            if attempt.now is None or self._stream.closed:
                return
            self._number += 1
            operation = Operation(
                number=self._number,
                client=client,
                kind=choice.kind,
                key=choice.key,
                conv_id=choice.conv_id,
                now=attempt.now,
                idle_timeout=IDLE_TIMEOUT,
                expire_after=EXPIRE_AFTER,
                invoked=invoked,
                returned=returned,
                outcome=attempt.outcome,
                answer=attempt.answer,
                error=attempt.error,
            )
            write(self._stream, operation)
            if operation.answer is not None:
                self._known[choice.key] = operation.answer.conv_id
                self._acknowledged_at[client] = invoked


class _Attempt:
    """One transaction of a client's, and how far it came."""

    def __init__(self, engine: Engine, choice: Choice) -> None:
        self._engine = engine
        self._choice = choice
        #: Until the database has told its clock, nothing was asked of it.
        self.now: datetime | None = None
        self.answer: Answer | None = None
        self.error: str | None = None
        self.outcome = Outcome.REFUSED

    @property
    def counted_as(self) -> str:
        """The field of ``Counts``."""
        if self.now is None:
            return "unsent"
        return {Outcome.OK: "acknowledged", Outcome.REFUSED: "refused", Outcome.UNKNOWN: "unknown"}[self.outcome]

    def make(self) -> None:
        """Raise what a client would meet."""
        session = open_session(self._engine)
        try:
            now = current_time(session.connection())
            self.now = now
            time.sleep(max(-self._choice.other_work, 0))
            known, opened = _CALLS[self._choice.kind](session, self._choice, now)
            time.sleep(max(self._choice.other_work, 0))
            self.outcome = Outcome.UNKNOWN
            session.commit()
            self.outcome, self.answer = Outcome.OK, _answer_of(known, opened=opened)
        finally:
            with suppress(SQLAlchemyError):
                session.close()


def _answer_of(known: Conversation, *, opened: bool | None) -> Answer:
    return Answer(
        conv_id=str(known.conv_id),
        opened=opened,
        status=known.status.value,
        created_at=known.created_at,
        updated_at=known.updated_at,
        idle_at=known.idle_at,
        expires_at=known.expires_at,
        ended_at=known.ended_at,
    )


def _message(session: Session, choice: Choice, now: datetime) -> tuple[Conversation, bool | None]:
    return _of(
        open_or_resume_conversation(
            session,
            owner_id="acme",
            channel="whatsapp",
            from_number=choice.key,
            to_number="+33123456789",
            session_key=choice.key,
            now=now,
            timeouts=_TIMEOUTS,
        )
    )


def _activity(session: Session, choice: Choice, now: datetime) -> tuple[Conversation, bool | None]:
    return _of(record_activity(session, now=now, timeouts=_TIMEOUTS, session_key=choice.key))


def _activity_by_id(session: Session, choice: Choice, now: datetime) -> tuple[Conversation, bool | None]:
    return _of(record_activity(session, now=now, timeouts=_TIMEOUTS, conv_id=_id_of(choice)))


def _close(session: Session, choice: Choice, now: datetime) -> tuple[Conversation, bool | None]:
    return close_conversation(session, conv_id=_id_of(choice), now=now), None


def _of(activity: Activity) -> tuple[Conversation, bool | None]:
    return activity.conversation, activity.opened


def _id_of(choice: Choice) -> uuid.UUID:
    assert choice.conv_id is not None, choice
    return uuid.UUID(choice.conv_id)


_CALLS: dict[Kind, Callable[[Session, Choice, datetime], tuple[Conversation, bool | None]]] = {
    Kind.MESSAGE: _message,
    Kind.ACTIVITY: _activity,
    Kind.ACTIVITY_BY_ID: _activity_by_id,
    Kind.CLOSE: _close,
}

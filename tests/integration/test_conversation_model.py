"""Any interleaving of messages, closings and sweeps, against a model in which sweeps do not exist."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, delete

from models import ConversationStatus, EventCause
from models.conversation import conversations
from models.event import conversation_events
from services.conversations import Activity, close_conversation, record_activity
from services.database import create_database_engine, open_session
from services.errors import ConversationNotFoundError
from services.sweeps import process_expired_conversations, process_idle_conversations
from services.timeouts import Timeouts
from tests.support import MOMENT, NOON, all_conversations, all_events, open_conversation

MINUTE = timedelta(minutes=1)
#: So that either deadline may come first, and that they often fall together.
TIMEOUTS = Timeouts(idle=10 * MINUTE, expiry=25 * MINUTE)

numbers = st.integers(1, 3)
sweeps = st.sampled_from([process_idle_conversations, process_expired_conversations])


@dataclass
class Conv:
    """A conversation of the model."""

    conv_id: uuid.UUID
    opened_at: datetime
    last_activity_at: datetime
    status: str = "pending"

    @property
    def idle_at(self) -> datetime:
        return self.last_activity_at + TIMEOUTS.idle

    @property
    def expires_at(self) -> datetime:
        return self.opened_at + TIMEOUTS.expiry

    @property
    def deadline(self) -> datetime:
        return min(self.idle_at, self.expires_at)

    def end_if_due(self, now: datetime) -> None:
        if self.status in {"pending", "progress"} and self.deadline <= now:
            self.status = "expired" if self.expires_at <= self.idle_at else "idle_timeout"


class Conversations(RuleBasedStateMachine):
    """What the functions do, step by step, on one database."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        with self.engine.begin() as connection:
            connection.execute(delete(conversation_events))
            connection.execute(delete(conversations))
        self.now = NOON
        self.model: dict[int, list[Conv]] = {}
        self.session_keys: dict[int, str] = {}
        self.ended: dict[uuid.UUID, dict[str, Any]] = {}

    # The model

    def under_way(self, number: int) -> Conv | None:
        """Return the conversation of a key that goes on, whatever sweeps have run."""
        for one in self.model.get(number, []):
            one.end_if_due(self.now)
            if one.status in {"pending", "progress"}:
                return one
        return None

    def expect(self, number: int, activity: Activity, stamp: datetime) -> None:
        """Take the message into the model, and compare what it did."""
        current = self.under_way(number)
        assert activity.opened == (current is None)
        if current is None:
            current = Conv(activity.conversation.conv_id, stamp, stamp)
            self.model.setdefault(number, []).append(current)
            self.session_keys[number] = activity.conversation.session_key
        else:
            current.status = "progress"
            current.last_activity_at = max(current.last_activity_at, stamp)
        told = activity.conversation
        assert (told.conv_id, told.status, told.created_at, told.updated_at, told.idle_at, told.expires_at) == (
            current.conv_id,
            current.status,
            current.opened_at,
            current.last_activity_at,
            current.idle_at,
            current.expires_at,
        )

    # What happens

    @rule(number=numbers, reverse=st.booleans())
    def a_message_of_a_pair(self, number: int, *, reverse: bool) -> None:
        pair = (f"+3360000{number:04}", "+33123456789")
        sender, receiver = reversed(pair) if reverse else pair
        with open_session(self.engine) as session:
            activity = open_conversation(
                session, now=self.now, from_number=sender, to_number=receiver, timeouts=TIMEOUTS
            )
            session.commit()
        self.expect(number, activity, self.now)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_message_of_a_conversation_known_by_its_id(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        conversation = data.draw(st.sampled_from(self.model[number]))  # often one that has ended
        with open_session(self.engine) as session:
            activity = record_activity(session, conv_id=conversation.conv_id, now=self.now, timeouts=TIMEOUTS)
            session.commit()
        self.expect(number, activity, self.now)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_message_of_a_conversation_known_by_its_key(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        with open_session(self.engine) as session:
            activity = record_activity(session, session_key=self.session_keys[number], now=self.now, timeouts=TIMEOUTS)
            session.commit()
        self.expect(number, activity, self.now)

    @precondition(lambda self: any(self.under_way(number) for number in self.model))
    @rule(data=st.data(), late=st.integers(1, 12))
    def a_message_that_was_long_on_its_way(self, data: st.DataObject, late: int) -> None:
        number = data.draw(st.sampled_from([number for number in self.model if self.under_way(number)]))
        stamp = self.now - late * MINUTE
        with open_session(self.engine) as session:
            activity = open_conversation(session, number=number, now=stamp, timeouts=TIMEOUTS)
            session.commit()
        self.expect(number, activity, stamp)

    @rule()
    def a_message_of_a_conversation_that_never_was(self) -> None:
        with open_session(self.engine) as session, pytest.raises(ConversationNotFoundError):
            record_activity(session, session_key="never", now=self.now, timeouts=TIMEOUTS)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_closing(self, data: st.DataObject) -> None:
        conversation = data.draw(st.sampled_from([one for each in self.model.values() for one in each]))
        with open_session(self.engine) as session:
            closed = close_conversation(session, conv_id=conversation.conv_id, now=self.now)
            session.commit()
        conversation.end_if_due(self.now)
        if conversation.status in {"pending", "progress"}:
            conversation.status = "closed"
        assert closed.status == conversation.status

    @rule(process=sweeps, batch_size=st.integers(1, 3))
    def a_sweep(self, process: Any, batch_size: int) -> None:
        process(self.engine, now=self.now, batch_size=batch_size)

    @rule(step=st.sampled_from([MOMENT, 5 * MINUTE, 10 * MINUTE - MOMENT, 10 * MINUTE, 15 * MINUTE, 60 * MINUTE]))
    def time_passes(self, step: timedelta) -> None:
        self.now += step

    @precondition(lambda self: any(self.under_way(number) for number in self.model))
    @rule(data=st.data(), before=st.booleans())
    def time_passes_to_a_deadline(self, data: st.DataObject, *, before: bool) -> None:
        ongoing = [one for number in self.model if (one := self.under_way(number))]
        deadline = data.draw(st.sampled_from(sorted({one.deadline for one in ongoing})))
        self.now = max(self.now, deadline - MOMENT if before else deadline)

    # What is true after every step

    @invariant()
    def what_must_hold_holds(self) -> None:
        rows, events = all_conversations(self.engine), all_events(self.engine)
        active = [row.session_key for row in rows if row.is_active]
        assert len(active) == len(set(active))
        endings = {event.conv_id: event for event in events if event.ended}
        assert len(endings) == sum(bool(event.ended) for event in events)
        assert set(endings) == {row.conv_id for row in rows if not row.is_active}
        for row in rows:
            assert (row.ended_at is None) == row.is_active
            if row.is_active:
                continue
            event, before = endings[row.conv_id], self.ended.setdefault(row.conv_id, row.model_dump())
            assert row.model_dump() == before
            assert (event.status, event.deadline, event.last_activity_at) == (row.status, row.deadline, row.updated_at)
            assert NOON <= event.occurred_at < self.now + MINUTE
            if row.status is ConversationStatus.CLOSED:
                assert event.cause is EventCause.CLOSE
                assert event.occurred_at < event.deadline
            else:
                assert row.status is row.status_when_due
                assert event.occurred_at >= event.deadline
            assert (event.sweep_id is not None) == (event.cause is EventCause.SWEEP)
        entered = [event.conv_id for event in events if event.status is ConversationStatus.PROGRESS]
        assert len(entered) == len(set(entered))

    def teardown(self) -> None:
        """Sweep once more, and find exactly what the model says, whatever was swept before."""
        for process in (process_idle_conversations, process_expired_conversations):
            process(self.engine, now=self.now, batch_size=2)
        for number in self.model:
            self.under_way(number)
        keys = self.session_keys
        expected = {
            (keys[number], one.conv_id, one.opened_at, one.last_activity_at, one.status)
            for number, each in self.model.items()
            for one in each
        }
        found = {
            (row.session_key, row.conv_id, row.created_at, row.updated_at, str(row.status))
            for row in all_conversations(self.engine)
        }
        assert found == expected


def run(url: str, *, examples: int, steps: int) -> None:
    engine = create_database_engine(url)

    class OnThisDatabase(Conversations):
        pass

    OnThisDatabase.engine = engine
    try:
        run_state_machine_as_test(
            OnThisDatabase,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                database=None,
                derandomize=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        engine.dispose()


def test_on_sqlite_no_order_of_messages_closings_and_sweeps_changes_the_outcome(sqlite_url: str) -> None:
    run(sqlite_url, examples=60, steps=40)


def test_on_postgresql_no_order_of_messages_closings_and_sweeps_changes_the_outcome(postgresql_url: str) -> None:
    run(postgresql_url, examples=20, steps=40)

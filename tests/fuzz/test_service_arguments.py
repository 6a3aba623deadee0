"""Whatever the services are given, they do what they say or refuse it by name, and both databases do the same."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select
from sqlmodel import Session

from models import Conversation
from models.event import ConversationEvent
from services.arguments import DEEPEST_JSON, LONGEST_JSON, LONGEST_SESSION_KEY, require_size, require_text
from services.conversations import (
    close_conversation,
    find_active_conversation,
    get_conversation,
    list_active_conversations,
    list_events,
    open_or_resume_conversation,
    record_activity,
)
from services.database import create_database_engine, open_session
from services.errors import AdjournError, InvalidValueError
from services.session_keys import canonical_session_key
from services.sweeps import (
    find_expired_conversations,
    find_idle_conversations,
    process_expired_conversations,
    process_idle_conversations,
)
from services.timeouts import LONGEST_TIMEOUT, Timeouts
from tests.fuzz.effort import tried
from tests.fuzz.values import aware, circle, identifiers, instants, json_values, nested, numbers, others, texts
from tests.support import MOMENT, NOON, TIMEOUTS

_EXISTING = uuid.UUID("01890000-0000-7000-8000-000000000001")
Both = tuple[Engine, Engine]


@pytest.fixture
def both(sqlite_url: str, postgresql_url: str) -> Iterator[Both]:
    """The two kinds of database."""
    engines = create_database_engine(sqlite_url), create_database_engine(postgresql_url)
    yield engines
    for engine in engines:
        engine.dispose()


def outcome_of(engine: Engine, act: Callable[[Session], Any]) -> Any:
    """Return what ``act`` returns, or what it says when it refuses; nothing of it stays.

    A refusal is one line of ours, has written nothing, and leaves the session as good as it was.
    """
    with open_session(engine) as session:
        try:
            return act(session)
        except AdjournError as refusal:
            text = said_by(refusal)
            assert session.scalar(select(func.count()).select_from(Conversation)) == 0
            assert session.scalar(select(func.count()).select_from(ConversationEvent)) == 0
            return type(refusal), text
        finally:
            session.rollback()


def same_outcome(both: Both, act: Callable[[Session], Any]) -> Any:
    """Return the outcome, which is that of both databases."""
    on_sqlite, on_postgresql = [outcome_of(engine, act) for engine in both]
    assert on_sqlite == on_postgresql
    return on_sqlite


def said_by(refusal: AdjournError) -> str:
    """Return what a refusal says: one line, and not long. A session key that there may be is quoted whole."""
    text = str(refusal)
    assert text.isprintable(), text
    assert len(text) < 1_000 + LONGEST_SESSION_KEY
    return text


def is_refused(outcome: Any) -> bool:
    return isinstance(outcome, tuple) and isinstance(outcome[0], type) and issubclass(outcome[0], AdjournError)


def seen(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as it is read back, without its id."""
    read = conversation.model_dump(exclude={"conv_id"})
    return read | {"metadata_": numbers_alone(read["metadata_"])}


def numbers_alone(value: Any) -> Any:
    """Return JSON without the types of its numbers: PostgreSQL keeps 1e16 as 10000000000000000, and -0.0 as 0.0."""
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return Decimal(repr(value) if isinstance(value, float) else value)
    if isinstance(value, dict):
        return {str(name): numbers_alone(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_alone(inner) for inner in value]
    return value


_GOOD: dict[str, Any] = {
    "owner_id": "acme",
    "channel": "whatsapp",
    "from_number": "+33600000001",
    "to_number": "+33123456789",
    "now": NOON,
    "timeouts": TIMEOUTS,
}
_ANY_TEXT = texts | others
_ANY_TIMEOUTS = st.builds(
    Timeouts,
    idle=st.timedeltas(MOMENT, LONGEST_TIMEOUT),
    expiry=st.timedeltas(MOMENT, LONGEST_TIMEOUT),
)
_ANY_METADATA = st.one_of(st.dictionaries(texts, json_values, max_size=3), json_values)
_ANY: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("owner_id", "channel", "from_number", "to_number", "user_id", "session_key"), _ANY_TEXT),
    "now": instants,
    "timeouts": _ANY_TIMEOUTS,
    "metadata": _ANY_METADATA,
}
_SOME_OF_THEM = st.sets(st.sampled_from(sorted(_ANY)), min_size=1, max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: _ANY[name] for name in sorted(names)})
)


@tried(50)
@given(given_=_SOME_OF_THEM)
@example(given_={"session_key": "a" * 1_000_000})
@example(given_={"session_key": "é" * 1_024})
@example(given_={"session_key": "😀" * 512, "owner_id": "😀" * 255, "user_id": "\u202e"})
@example(given_={"metadata": {"a": 10**309}})
@example(given_={"metadata": {"a": 10**308}})
@example(given_={"metadata": {"a": [1e300, -0.0, 5e-324, 0.1, 1e22, 1e16]}})
@example(given_={"metadata": {"a\0": 1}})
@example(given_={"metadata": {"a": ["b\0"]}})
@example(given_={"metadata": {"\ud800": 1}})
@example(given_={"metadata": {"a": float("nan")}})
@example(given_={"now": datetime.min.replace(tzinfo=UTC)})
@example(given_={"now": datetime.max.replace(tzinfo=UTC)})
def test_what_opens_a_conversation_is_read_back_or_refused(both: Both, given_: dict[str, Any]) -> None:
    arguments = _GOOD | given_

    def act(session: Session) -> Any:
        activity = open_or_resume_conversation(session, **arguments)
        assert activity.opened
        session.expire_all()
        return seen(get_conversation(session, conv_id=activity.conversation.conv_id))

    outcome = same_outcome(both, act)

    if not is_refused(outcome):
        timeouts = arguments["timeouts"]
        for name in ("owner_id", "channel", "from_number", "to_number"):
            assert outcome[name] == arguments[name]
        assert outcome["user_id"] == arguments.get("user_id")
        if arguments.get("session_key") is not None:
            assert outcome["session_key"] == arguments["session_key"]
        assert outcome["metadata_"] == numbers_alone(arguments.get("metadata") or {})
        assert outcome["created_at"] == outcome["updated_at"] == arguments["now"].astimezone(UTC)
        assert outcome["idle_at"] - outcome["created_at"] == timeouts.idle
        assert outcome["expires_at"] - outcome["created_at"] == timeouts.expiry


@pytest.mark.parametrize(
    ("metadata", "is_taken"),
    [
        pytest.param(lambda: nested(DEEPEST_JSON - 1), True, id="as deep as it may be"),
        pytest.param(lambda: nested(DEEPEST_JSON), False, id="one deeper"),
        pytest.param(lambda: nested(990), False, id="nearly as deep as Python goes"),
        pytest.param(lambda: nested(100_000), False, id="deeper than Python goes"),
        pytest.param(circle, False, id="in a circle"),
        pytest.param(lambda: {"a": 10**5_000}, False, id="a number that Python does not write"),
        pytest.param(lambda: {"a": 2**1_024 - 1, "b": -(2**1_024) + 1}, True, id="the largest numbers"),
        pytest.param(lambda: {"a": 2**1_024}, False, id="a larger one"),
        pytest.param(lambda: {"a": "x" * (LONGEST_JSON - 9)}, True, id="as long as it may be"),
        pytest.param(lambda: {"a": "x" * (LONGEST_JSON - 8)}, False, id="one longer"),
        pytest.param(lambda: {"a": "é" * (LONGEST_JSON // 4)}, False, id="longer in JSON"),
        pytest.param(lambda: {"a": [["x" * 1_000_000] * 9] * 9}, False, id="long in all"),
    ],
)
def test_metadata_is_taken_up_to_its_limits(both: Both, metadata: Callable[[], Any], *, is_taken: bool) -> None:
    given_ = metadata()

    def act(session: Session) -> Any:
        opened = open_or_resume_conversation(session, **_GOOD, metadata=given_).conversation
        session.expire_all()
        return get_conversation(session, conv_id=opened.conv_id).metadata_ == given_

    outcome = same_outcome(both, act)

    assert outcome is True if is_taken else is_refused(outcome)


@tried(20)
@given(now=instants, by_id=st.booleans(), timeouts=_ANY_TIMEOUTS)
@example(now=datetime.max.replace(tzinfo=UTC), by_id=True, timeouts=TIMEOUTS)
@example(now=datetime.min.replace(tzinfo=UTC), by_id=False, timeouts=TIMEOUTS)
def test_activity_at_any_time_belongs_to_a_conversation_or_is_refused(
    both: Both, now: Any, timeouts: Timeouts, *, by_id: bool
) -> None:
    def act(session: Session) -> Any:
        first = open_or_resume_conversation(session, **_GOOD).conversation
        known = {"conv_id": first.conv_id} if by_id else {"session_key": first.session_key}
        try:
            activity = record_activity(session, now=now, timeouts=timeouts, **known)
        except InvalidValueError as refusal:
            # The conversation stands as it was.
            assert seen(get_conversation(session, conv_id=first.conv_id))["status"] == "pending"
            return str(refusal)
        return activity.opened, seen(activity.conversation), len(list_events(session, conv_id=first.conv_id))

    outcome = same_outcome(both, act)

    if not isinstance(outcome, str):
        opened, conversation, events = outcome
        assert opened == (now.astimezone(UTC) >= min(NOON + TIMEOUTS.idle, NOON + TIMEOUTS.expiry))
        assert conversation["updated_at"] == max(now.astimezone(UTC), NOON)
        assert events == 1


@tried(20)
@given(now=instants)
@example(now=datetime.max.replace(tzinfo=UTC))
@example(now=datetime.min.replace(tzinfo=UTC))
def test_a_conversation_is_closed_at_any_time_or_that_time_is_refused(both: Both, now: Any) -> None:
    def act(session: Session) -> Any:
        first = open_or_resume_conversation(session, **_GOOD).conversation
        try:
            return seen(close_conversation(session, conv_id=first.conv_id, now=now))
        except InvalidValueError as refusal:
            return str(refusal)

    outcome = same_outcome(both, act)

    if not isinstance(outcome, str):
        assert outcome["status"] == ("closed" if now.astimezone(UTC) < NOON + TIMEOUTS.idle else "idle_timeout")
        assert outcome["ended_at"] == now.astimezone(UTC)


_BY_ID: tuple[Callable[[Session, Any], Any], ...] = (
    lambda session, conv_id: get_conversation(session, conv_id=conv_id),
    lambda session, conv_id: list_events(session, conv_id=conv_id),
    lambda session, conv_id: close_conversation(session, conv_id=conv_id, now=NOON),
    lambda session, conv_id: record_activity(session, conv_id=conv_id, now=NOON, timeouts=TIMEOUTS),
)


@tried(20)
@given(act=st.sampled_from(_BY_ID), conv_id=identifiers)
@example(act=_BY_ID[0], conv_id=str(_EXISTING))
@example(act=_BY_ID[1], conv_id=12)
@example(act=_BY_ID[2], conv_id=None)
@example(act=_BY_ID[3], conv_id="a\0")
def test_an_id_that_is_none_is_refused(both: Both, act: Callable[[Session, Any], Any], conv_id: Any) -> None:
    outcome = same_outcome(both, lambda session: act(session, conv_id))

    assert is_refused(outcome) or (outcome == [] and uuid.UUID(str(conv_id)))


_LISTS: tuple[Callable[[Session, Any, Any, Any], Any], ...] = (
    lambda session, text, _, limit: list_active_conversations(session, owner_id=text, limit=limit),
    lambda session, text, _, __: find_active_conversation(session, session_key=text),
    lambda session, _, now, limit: find_idle_conversations(session, now=now, limit=limit),
    lambda session, _, now, limit: find_expired_conversations(session, now=now, limit=limit),
    lambda session, text, now, _: record_activity(session, session_key=text, now=now, timeouts=TIMEOUTS),
)
_ANY_LIMIT = st.one_of(numbers, others, st.integers(1, 10_000))


@tried(15)
@given(act=st.sampled_from(_LISTS), text=_ANY_TEXT, now=instants, limit=_ANY_LIMIT)
@example(act=_LISTS[0], text="a\0", now=NOON, limit=1)
@example(act=_LISTS[0], text="\ud800", now=NOON, limit=1)
@example(act=_LISTS[0], text=1, now=NOON, limit=1)
@example(act=_LISTS[0], text="a", now=NOON, limit=1.5)
@example(act=_LISTS[0], text="a", now=NOON, limit=True)
@example(act=_LISTS[0], text="a", now=NOON, limit="1")
@example(act=_LISTS[2], text="a", now=datetime.max.replace(tzinfo=UTC), limit=1)
def test_what_is_looked_for_is_not_there_or_the_question_is_refused(
    both: Both, act: Callable[[Session, Any, Any, Any], Any], text: Any, now: Any, limit: Any
) -> None:
    outcome = same_outcome(both, lambda session: act(session, text, now, limit))

    assert is_refused(outcome) or outcome in ([], None)


@tried(20)
@given(
    sweep=st.sampled_from((process_idle_conversations, process_expired_conversations)),
    now=instants,
    batch_size=_ANY_LIMIT,
    time_budget=st.timedeltas(),
)
@example(sweep=process_idle_conversations, now=NOON, batch_size=True, time_budget=timedelta(0))
@example(sweep=process_idle_conversations, now=NOON, batch_size=2.5, time_budget=timedelta(0))
@example(
    sweep=process_expired_conversations,
    now=datetime.max.replace(tzinfo=UTC),
    batch_size=1,
    time_budget=timedelta(0),
)
def test_a_sweep_with_nothing_to_do_does_nothing_whatever_it_is_told(
    both: Both, sweep: Callable[..., Any], now: Any, batch_size: Any, time_budget: timedelta
) -> None:
    def act(session: Session) -> Any:
        return sweep(session.get_bind(), now=now, batch_size=batch_size, time_budget=time_budget).count

    outcome = same_outcome(both, act)

    assert is_refused(outcome) or outcome == 0


@tried(15)
@given(opened_at=aware, swept_at=aware)
@example(opened_at=datetime(9988, 12, 31, tzinfo=UTC), swept_at=datetime(9989, 1, 2, tzinfo=UTC))
def test_a_sweep_ends_what_was_opened_at_any_time_at_the_same_deadline(
    both: Both, opened_at: datetime, swept_at: datetime
) -> None:
    outcomes = []
    for engine in both:
        with open_session(engine) as session:
            try:
                conversation = open_or_resume_conversation(session, **_GOOD | {"now": opened_at}).conversation
                session.commit()
                count: Any = process_idle_conversations(engine, now=swept_at, stopwatch=float).count
            except InvalidValueError as refusal:
                session.rollback()
                outcomes.append(str(refusal))
                continue
            finally:
                session.rollback()
                for table in ("conversation_events", "conversations", "latest_conversations"):
                    session.connection().exec_driver_sql(f"DELETE FROM {table}")
                session.commit()
            assert count == (conversation.deadline <= swept_at.astimezone(UTC))
            outcomes.append(count)

    assert outcomes[0] == outcomes[1]


@tried(50)
@given(owner=_ANY_TEXT, channel=_ANY_TEXT, one=_ANY_TEXT, other=_ANY_TEXT)
def test_a_session_key_is_the_same_in_both_directions_or_its_part_is_refused(
    owner: Any, channel: Any, one: Any, other: Any
) -> None:
    keys = []
    for first, second in ((one, other), (other, one)):
        try:
            keys.append(canonical_session_key(owner_id=owner, channel=channel, from_number=first, to_number=second))
        except InvalidValueError as refusal:
            said_by(refusal)
            keys.append("refused")
    assert keys[0] == keys[1]


def test_a_number_that_python_does_not_write_is_refused_all_the_same() -> None:
    huge: Any = 10**5_000
    with pytest.raises(InvalidValueError, match=r"^timeouts.idle: "):
        Timeouts(idle=huge, expiry=timedelta(1))
    with pytest.raises(InvalidValueError, match=r"^limit: "):
        require_size("limit", huge, 10)
    with pytest.raises(InvalidValueError, match=r"^owner_id: "):
        require_text("owner_id", huge)


@tried(50)
@given(idle=st.one_of(st.timedeltas(), numbers, others), expiry=st.one_of(st.timedeltas(), numbers, others))
def test_timeouts_are_durations_above_zero_or_refused(idle: Any, expiry: Any) -> None:
    try:
        timeouts = Timeouts(idle=idle, expiry=expiry)
    except InvalidValueError as refusal:
        said = said_by(refusal)
    else:
        said = "timeouts."
        assert timedelta(0) < min(timeouts.idle, timeouts.expiry)
    assert said.startswith("timeouts.")

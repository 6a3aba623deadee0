"""How many statements a message takes, and by which indexes they find their rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import Session

from benchmarks.statements import Statement, statements_of
from models import Conversation
from services.conversations import close_conversation, list_active_conversations, record_activity
from services.database import create_database_engine, open_session
from tests.plans import crowd, plan_of
from tests.support import MOMENT, NOON, TIMEOUTS, open_conversation, opened

MINUTE = timedelta(minutes=1)

Way = Callable[[Session, Conversation, datetime], Any]

WAYS: dict[str, Way] = {
    "pair": lambda session, _, now: open_conversation(session, now=now),
    "id": lambda session, old, now: record_activity(session, conv_id=old.conv_id, now=now, timeouts=TIMEOUTS),
    "key": lambda session, old, now: record_activity(session, session_key=old.session_key, now=now, timeouts=TIMEOUTS),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@contextmanager
def statements_in_transaction(engine: Engine) -> Iterator[tuple[Session, list[Statement]]]:
    """Give a session whose transaction has begun, and what it sends from then on."""
    with open_session(engine) as session:
        session.connection()
        with statements_of(engine) as sent:
            yield session, sent
        session.commit()


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Engine]:
    engine = create_database_engine(postgresql_url)
    yield engine
    engine.dispose()


# One round trip


def test_opening_is_one_statement(engine: Engine) -> None:
    with statements_in_transaction(engine) as (session, sent):
        assert open_conversation(session).opened

    assert len(sent) == 1


def test_opening_the_successor_of_an_ended_conversation_is_one_statement(engine: Engine) -> None:
    old = opened(engine)
    with open_session(engine) as session:
        close_conversation(session, conv_id=old.conv_id, now=NOON)
        session.commit()

    with statements_in_transaction(engine) as (session, sent):
        assert open_conversation(session, now=NOON + MINUTE).opened

    assert len(sent) == 1


@every_way
def test_the_second_message_is_one_statement_with_its_event(postgresql: Engine, way: Way) -> None:
    old = opened(postgresql)

    with statements_in_transaction(postgresql) as (session, sent):
        way(session, old, NOON + MINUTE)

    assert len(sent) == 1
    assert "INSERT INTO conversation_events" in sent[0][0]


@every_way
def test_on_sqlite_which_cannot_write_in_a_cte_the_second_message_is_three_statements(
    sqlite_url: str, way: Way
) -> None:
    sqlite = create_database_engine(sqlite_url)
    old = opened(sqlite)

    with statements_in_transaction(sqlite) as (session, sent):
        way(session, old, NOON + MINUTE)

    assert len(sent) == 3
    sqlite.dispose()


@every_way
def test_each_later_message_is_one_statement(engine: Engine, way: Way) -> None:
    old = opened(engine)
    opened(engine, now=NOON + MINUTE)

    for number in range(2, 5):
        with statements_in_transaction(engine) as (session, sent):
            way(session, old, NOON + number * MINUTE)
        assert len(sent) == 1


@every_way
def test_a_message_stamped_earlier_than_the_last_is_one_statement_too(engine: Engine, way: Way) -> None:
    old = opened(engine)
    opened(engine, now=NOON + 2 * MINUTE)

    with statements_in_transaction(engine) as (session, sent):
        way(session, old, NOON + MINUTE)

    assert len(sent) == 1


# Plans


HOT: dict[str, Way] = {
    **WAYS,
    "close": lambda session, old, now: close_conversation(session, conv_id=old.conv_id, now=now),
    "list": lambda session, old, _: list_active_conversations(session, owner_id=old.owner_id, limit=10),
}
MOMENTS = {"first": None, "second": NOON + MINUTE, "past its deadline": NOON + TIMEOUTS.idle + MOMENT}


@pytest.fixture
def crowded(postgresql: Engine) -> Engine:
    crowd(postgresql)
    return postgresql


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", HOT)
def test_every_statement_finds_its_rows_by_an_index_and_sorts_nothing(
    crowded: Engine, name: str, moment: str, mode: str
) -> None:
    old = opened(crowded)
    now = MOMENTS[moment]
    if now is None:
        with open_session(crowded) as session:
            close_conversation(session, conv_id=old.conv_id, now=NOON)
            session.commit()

    with statements_in_transaction(crowded) as (session, sent):
        HOT[name](session, old, now or NOON + MINUTE)

    assert sent
    with open_session(crowded) as session:
        for statement in sent:
            nodes = plan_of(session, statement, mode)
            assert any("Index Scan" in node["Node Type"] for node in nodes), statement
            for node in nodes:
                assert node["Node Type"] not in {"Seq Scan", "Sort", "Bitmap Heap Scan"}, (statement, node)

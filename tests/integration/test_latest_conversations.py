"""Which conversation was opened last on a session key: kept by triggers, whoever writes."""

import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError, ProgrammingError

from models import LatestConversation
from services import migrations
from services.database import create_database_engine, open_session
from tests.support import NOON, insert_row, opened

EARLIER, LATER = "2026-01-31 11:00:00.000000", "2026-01-31 13:00:00.000000"
CLOSED = {"status": "closed", "ended_at": "2026-01-31 14:00:00.000000"}


def latest(engine: Engine) -> dict[str, uuid.UUID]:
    with open_session(engine) as session:
        return {one.session_key: one.conv_id for one in session.scalars(select(LatestConversation))}


def run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_an_opening_is_noted_with_its_instant(engine: Engine) -> None:
    conversation = opened(engine)

    with open_session(engine) as session:
        (noted,) = session.scalars(select(LatestConversation))
    assert (noted.session_key, noted.conv_id, noted.opened_at) == (conversation.session_key, conversation.conv_id, NOON)


def test_the_one_that_was_opened_last_counts_in_whatever_order_they_are_written(engine: Engine) -> None:
    insert_row(engine, session_key="key", created_at=EARLIER, **CLOSED)
    last = insert_row(engine, session_key="key", created_at=LATER, **CLOSED)
    insert_row(engine, session_key="key", **CLOSED)

    assert latest(engine) == {"key": uuid.UUID(last)}


def test_of_two_that_were_opened_at_one_instant_the_one_that_was_written_last_counts(engine: Engine) -> None:
    insert_row(engine, session_key="key", **CLOSED)
    last = insert_row(engine, session_key="key")

    assert latest(engine) == {"key": uuid.UUID(last)}


def test_an_instant_in_another_form_counts_as_what_it_is(engine: Engine) -> None:
    insert_row(engine, session_key="key", created_at="2026-01-31T13:30:00+02:00", **CLOSED)
    last = insert_row(engine, session_key="key")

    assert latest(engine) == {"key": uuid.UUID(last)}
    with open_session(engine) as session:
        (noted,) = session.scalars(select(LatestConversation))
    assert noted.opened_at == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_a_conversation_that_is_deleted_is_forgotten_with_its_key(engine: Engine) -> None:
    earlier = insert_row(engine, session_key="key", created_at=EARLIER, **CLOSED)
    last = insert_row(engine, session_key="key")

    run(engine, f"DELETE FROM conversations WHERE conv_id = '{earlier}'")
    assert latest(engine) == {"key": uuid.UUID(last)}

    run(engine, f"DELETE FROM conversations WHERE conv_id = '{last}'")
    assert latest(engine) == {}


def test_a_conversation_that_gets_another_key_is_found_by_that(engine: Engine) -> None:
    only = insert_row(engine, session_key="old")

    run(engine, "UPDATE conversations SET session_key = 'new'")

    assert latest(engine) == {"new": uuid.UUID(only)}


def test_a_writer_need_not_have_the_tables_in_its_search_path(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    conversation = opened(engine)

    run(
        engine,
        "SET LOCAL search_path = pg_catalog; INSERT INTO public.conversations "
        "SELECT gen_random_uuid(), owner_id, user_id, channel, from_number, to_number, 'another', status, metadata, "
        "created_at, updated_at, idle_at, expires_at "
        "FROM public.conversations",
    )

    assert set(latest(engine)) == {conversation.session_key, "another"}
    engine.dispose()


def test_a_role_that_may_write_conversations_only_keeps_the_latest_all_the_same(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    role = f"adjourn_writer_{uuid.uuid4().hex[:12]}"
    conversation = opened(engine)
    run(engine, f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON conversations TO {role}")
    as_role = f"SET LOCAL ROLE {role};"

    run(engine, f"{as_role} UPDATE conversations SET session_key = 'another'")
    assert latest(engine) == {"another": conversation.conv_id}
    run(engine, f"{as_role} DELETE FROM conversations")
    assert latest(engine) == {}
    with pytest.raises(ProgrammingError, match="permission denied"):
        run(engine, f"{as_role} DELETE FROM latest_conversations")

    run(engine, f"DROP OWNED BY {role}; DROP ROLE {role}")
    engine.dispose()


def test_the_upgrade_that_frees_writers_of_other_rights_waits_for_nobody(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    migrations.downgrade(engine, "0002")
    opened(engine)

    with engine.begin() as writer:
        writer.exec_driver_sql("UPDATE conversations SET session_key = 'another'")
        migrations.upgrade(engine, "0003")

    assert set(latest(engine)) == {"another"}
    engine.dispose()


def test_the_upgrade_finds_the_last_one_of_each_key_that_is_there(engine: Engine) -> None:
    migrations.downgrade(engine, "0001")
    last = insert_row(engine, session_key="key", created_at=LATER, **CLOSED)
    insert_row(engine, session_key="key", created_at=EARLIER, **CLOSED)
    only = insert_row(engine, session_key="another")

    migrations.upgrade(engine)

    assert latest(engine) == {"key": uuid.UUID(last), "another": uuid.UUID(only)}


def test_the_upgrade_gives_up_when_it_does_not_get_the_table(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    migrations.downgrade(engine, "0001")

    with engine.begin() as reader:
        reader.exec_driver_sql("SELECT 1 FROM conversations")
        with pytest.raises(OperationalError, match="lock timeout"):
            migrations.upgrade(engine)

    migrations.upgrade(engine)
    engine.dispose()

"""The roles of deploy/postgresql/roles.sql: each may do what it has to, and nothing else."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import DBAPIError

from services import foreign_writers, migrations
from services.conversations import (
    close_conversation,
    find_active_conversation,
    list_active_conversations,
    list_events,
    record_activity,
)
from services.database import check_database, create_database_engine, open_session
from services.event_reader import EndingReader
from services.monitoring.backlog_measurement import measure_backlog
from services.set_aside import list_set_aside, try_again
from services.sweeps import process_expired_conversations, process_idle_conversations
from tests.plain_sql import rows_of, run_sql
from tests.roles import Roles
from tests.support import NOON, TIMEOUTS, open_conversation

TABLES = {
    "conversations",
    "conversation_events",
    "latest_conversations",
    "set_aside_conversations",
    "adjourn_version",
}
FUNCTIONS = {
    "conversations_stay_ended",
    "conversations_keep_latest",
    "adjourn_complete_conversation",
    "adjourn_record_change",
    "adjourn_session_key",
}
#: Of each table and column: who may do what.
RIGHTS = """
    SELECT pg_get_userbyid(grantee), privilege_type, relname, NULL
    FROM pg_class CROSS JOIN LATERAL aclexplode(relacl) WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT pg_get_userbyid(grantee), privilege_type, relname, attname
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid CROSS JOIN LATERAL aclexplode(attacl)
    WHERE relnamespace = 'public'::regnamespace
"""


@pytest.fixture
def roles(empty_postgresql_url: str) -> Iterator[Roles]:
    """A database that its owner has migrated, with the rights given afterwards, as docs/security.md says."""
    roles = Roles(empty_postgresql_url)
    try:
        roles.install()
        migrate(roles.url_of("owner"))
        roles.install()
        yield roles
    finally:
        roles.drop()


@pytest.fixture
def app(roles: Roles) -> Iterator[Engine]:
    engine = create_database_engine(roles.url_of("app"))
    yield engine
    engine.dispose()


@pytest.fixture
def monitor(roles: Roles) -> Iterator[Engine]:
    engine = create_database_engine(roles.url_of("monitor"))
    yield engine
    engine.dispose()


def migrate(url: str) -> None:
    engine = create_database_engine(url)
    migrations.upgrade(engine)
    engine.dispose()


def refuse_some_ends(roles: Roles) -> None:
    """Make a trigger such as a platform may have: sweeps cannot end conversations by ``sms``."""
    run_sql(
        roles.url_of("owner"),
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON conversations FOR EACH ROW "
        "WHEN (NEW.status = 'idle_timeout' AND OLD.channel = 'sms') EXECUTE FUNCTION refuse()",
    )


def work(engine: Engine) -> None:
    """Do all that workers and applications do with the database."""
    hour = timedelta(hours=1)
    check_database(engine)
    with open_session(engine) as session:
        first = open_conversation(session).conversation
        key = first.session_key
        open_conversation(session)
        record_activity(session, now=NOON, timeouts=TIMEOUTS, conv_id=first.conv_id)
        # After its deadline: it ends, and the next one opens.
        second = record_activity(session, now=NOON + hour, timeouts=TIMEOUTS, session_key=key).conversation
        assert find_active_conversation(session, session_key=key) == second
        assert list_active_conversations(session, owner_id="acme") == [second]
        close_conversation(session, conv_id=second.conv_id, now=NOON + hour)
        # After its end: it goes on from the one that was opened last.
        record_activity(session, now=NOON + hour, timeouts=TIMEOUTS, session_key=key)
        open_conversation(session, number=2)
        assert [event.status for event in list_events(session, conv_id=first.conv_id)] == ["progress", "idle_timeout"]
        session.commit()
    assert process_expired_conversations(engine, now=NOON + 12 * hour).count == 0
    assert process_idle_conversations(engine, now=NOON + 12 * hour).count == 2
    with open_session(engine) as session:
        assert EndingReader().read(session, after=0).events
        session.commit()
    assert measure_backlog(engine).active == 0


def set_aside(engine: Engine) -> None:
    """Do what workers and people do with a conversation that cannot be ended."""
    later = NOON + timedelta(hours=12)
    with open_session(engine) as session:
        poison = open_conversation(session, number=3, channel="sms").conversation
        session.commit()
    assert process_idle_conversations(engine, now=later).set_aside == 1
    with open_session(engine) as session:
        assert [one.conv_id for one in list_set_aside(session)] == [poison.conv_id]
        try_again(session, now=later)
        session.commit()
    assert process_idle_conversations(engine, now=later).count == 0
    assert measure_backlog(engine).set_aside == 1
    with open_session(engine) as session:
        close_conversation(session, conv_id=poison.conv_id, now=NOON)
        session.commit()
    process_idle_conversations(engine, now=later)
    assert measure_backlog(engine).set_aside == 0


def look(engine: Engine) -> None:
    """Do what ``adjourn status`` does with the database."""
    assert measure_backlog(engine).active is not None


def clear(roles: Roles) -> None:
    run_sql(roles.url, "TRUNCATE conversations, conversation_events, latest_conversations, set_aside_conversations")


def owners(url: str) -> dict[str, str]:
    """Return who owns the tables and functions of ours, by name."""
    return dict(
        rows_of(
            url,
            "SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = 'public'::regnamespace "
            "UNION ALL SELECT proname, pg_get_userbyid(proowner) FROM pg_proc "
            "WHERE pronamespace = 'public'::regnamespace",
        )
    )


def test_each_role_can_do_its_work(roles: Roles, app: Engine, monitor: Engine) -> None:
    refuse_some_ends(roles)
    work(app)
    set_aside(app)
    look(monitor)
    assert {owners(roles.url)[table] for table in TABLES} == {roles.name("owner")}


def test_no_right_is_given_that_is_not_needed(roles: Roles, app: Engine, monitor: Engine) -> None:
    refuse_some_ends(roles)
    mine = {roles.name("app"): "app", roles.name("monitor"): "monitor"}
    given = [
        (mine[role], right, table, column) for role, right, table, column in rows_of(roles.url, RIGHTS) if role in mine
    ]
    assert ("app", "UPDATE", "conversations", "status") in given
    assert ("monitor", "SELECT", "conversations", "idle_at") in given

    def do_the_work_of(role: str) -> None:
        if role == "monitor":
            look(monitor)
            return
        work(app)
        set_aside(app)

    for role, right, table, column in given:
        what = f"{right} ({column})" if column else right
        # One is set aside, so that who asks how much is due has to leave it out.
        run_sql(roles.url, "INSERT INTO set_aside_conversations VALUES (gen_random_uuid(), '', 1, now(), now(), now())")
        run_sql(roles.url, f"REVOKE {what} ON {table} FROM {roles.name(role)}")
        try:
            said = refusal(partial(do_the_work_of, role))
            assert f"permission denied for table {table}" in said, f"{role} does without {what} on {table}"
        finally:
            run_sql(roles.url, f"GRANT {what} ON {table} TO {roles.name(role)}")
            clear(roles)


#: What ended stays on record, as it was; the tables, their triggers and their rights are the owner's.
REFUSED = """
    DELETE FROM conversations
    TRUNCATE conversations
    DELETE FROM conversation_events
    TRUNCATE conversation_events
    UPDATE conversation_events SET status = status
    UPDATE conversations SET session_key = session_key
    UPDATE conversations SET expires_at = expires_at
    UPDATE latest_conversations SET conv_id = conv_id
    INSERT INTO conversation_events (event_id) OVERRIDING SYSTEM VALUE VALUES (1)
    SELECT nextval(pg_get_serial_sequence('conversation_events', 'event_id'))
    UPDATE adjourn_version SET version_num = '0001'
    ALTER TABLE conversations DISABLE TRIGGER conversations_stay_ended
    ALTER TABLE conversations ADD COLUMN mine text
    CREATE TRIGGER mine BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION conversations_stay_ended()
    DROP TABLE conversations
    CREATE INDEX ON conversations (owner_id)
    CREATE TABLE mine (id integer)
    CREATE SCHEMA mine
    CREATE ROLE mine
    SELECT FROM others
    SET ROLE {owner}
    SET session_replication_role = replica
    COPY conversations TO PROGRAM 'cat'
    SELECT pg_read_file('postgresql.conf')
"""


def test_workers_and_applications_are_refused_all_else(roles: Roles, app: Engine) -> None:
    run_sql(roles.url_of("owner"), "CREATE TABLE others (id integer)")
    for statement in REFUSED.strip().splitlines():
        said = refusal(partial(run_by, app, statement.strip().format(owner=roles.name("owner"))))
        assert "permission denied" in said or "must be owner" in said, statement


def test_who_only_looks_sees_deadlines_and_nothing_of_people(roles: Roles, app: Engine, monitor: Engine) -> None:
    run_sql(roles.url_of("owner"), "CREATE TABLE others (id integer)")
    work(app)
    seen = ("SELECT metadata FROM conversations", "SELECT session_key FROM conversations")
    for statement in (*REFUSED.strip().splitlines(), *seen, "SELECT FROM conversation_events"):
        said = refusal(partial(run_by, monitor, statement.strip().format(owner=roles.name("owner"))))
        assert "permission denied" in said or "must be owner" in said, statement


def refusal(call: Callable[[], None]) -> str:
    """Return what the database says when it refuses, nothing when it does not."""
    try:
        call()
    except DBAPIError as error:
        return str(error)
    return ""


def run_by(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_triggers_for_other_writers_need_no_further_right(roles: Roles, app: Engine) -> None:
    owner = create_database_engine(roles.url_of("owner"))
    with owner.begin() as connection:
        foreign_writers.install(connection, timeouts=TIMEOUTS)
    owner.dispose()
    work(app)
    clear(roles)

    with open_session(app) as session:
        conv_id = open_conversation(session).conversation.conv_id
        session.commit()
    run_sql(roles.url_of("app"), "UPDATE conversations SET status = 'closed'")
    with open_session(app) as session:
        assert [event.cause for event in list_events(session, conv_id=conv_id)] == ["writer"]


def test_a_second_time_changes_nothing(roles: Roles) -> None:
    before = rows_of(roles.url, RIGHTS)

    assert roles.install() == ""
    assert sorted(map(repr, rows_of(roles.url, RIGHTS))) == sorted(map(repr, before))


def test_the_owner_may_give_the_rights_after_a_migration(roles: Roles, app: Engine) -> None:
    run_sql(roles.url, f"REVOKE ALL ON conversation_events FROM {roles.name('app')}")

    assert roles.install(by=roles.url_of("owner")) == ""
    work(app)


def test_what_default_privileges_give_is_taken_back(empty_postgresql_url: str) -> None:
    roles = Roles(empty_postgresql_url)
    try:
        roles.install()
        owner, app = roles.name("owner"), roles.name("app")
        run_sql(roles.url_of("owner"), f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {app}, PUBLIC")
        migrate(roles.url_of("owner"))
        roles.install()

        rights = rows_of(roles.url, RIGHTS)
        assert {role for role, *_ in rights} == {owner, app, roles.name("monitor")}
        assert (app, "DELETE", "conversations", None) not in rights
    finally:
        roles.drop()


def test_tables_and_functions_that_another_role_made_become_the_owners(empty_postgresql_url: str) -> None:
    roles = Roles(empty_postgresql_url)
    engine = create_database_engine(roles.url)
    try:
        migrations.upgrade(engine)
        with engine.begin() as connection:
            foreign_writers.install(connection, timeouts=TIMEOUTS)
        run_sql(roles.url, "CREATE TABLE others (id integer)")
        # Without a schema that is everybody's, and with the defaults of PUBLIC gone.
        name = make_url(roles.url).database
        run_sql(roles.url, "REVOKE ALL ON SCHEMA public FROM PUBLIC", f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        roles.install()

        owned = owners(roles.url)
        assert {owned[ours] for ours in TABLES | FUNCTIONS} == {roles.name("owner")}
        assert owned["others"] != roles.name("owner")
        app = create_database_engine(roles.url_of("app"))
        work(app)
        app.dispose()
        owner = create_database_engine(roles.url_of("owner"))
        migrations.downgrade(owner, "base")
        migrations.upgrade(owner)
        owner.dispose()
    finally:
        engine.dispose()
        roles.drop()


def test_no_superuser_is_needed(empty_postgresql_url: str) -> None:
    roles = Roles(empty_postgresql_url)
    administrator = roles.name("administrator")
    run_sql(
        roles.url,
        f"CREATE ROLE {administrator} LOGIN CREATEROLE",
        f"ALTER DATABASE {make_url(roles.url).database} OWNER TO {administrator}",
    )
    try:
        by = roles.url_of("administrator")
        migrate(by)
        roles.install(by=by)
        assert {owners(roles.url)[table] for table in TABLES} == {roles.name("owner")}
        app = create_database_engine(roles.url_of("app"))
        work(app)
        app.dispose()
    finally:
        roles.drop()
        run_sql(roles.url, f"REASSIGN OWNED BY {administrator} TO CURRENT_USER", f"DROP OWNED BY {administrator}")
        run_sql(roles.url, f"DROP ROLE {administrator}")


def test_an_adopted_table_stays_its_owners(roles: Roles) -> None:
    platform = roles.name("platform")
    run_sql(
        roles.url,
        f"CREATE ROLE {platform} LOGIN",
        "CREATE TABLE adjourn_adoption ()",
        f"ALTER TABLE conversations OWNER TO {platform}",
        "GRANT SELECT ON conversations TO PUBLIC",
    )
    try:
        with pytest.raises(AssertionError, match=r"conversations was adopted and is not .*\n.*: --set owner="):
            roles.install()
        roles.install(owner=platform)
        assert owners(roles.url)["conversations"] == platform
        # What the platform gives others is its own affair.
        assert rows_of(roles.url, "SELECT has_table_privilege('public', 'conversations', 'SELECT')") == [(True,)]
    finally:
        run_sql(roles.url, f"REASSIGN OWNED BY {platform} TO CURRENT_USER", f"DROP OWNED BY {platform}")
        run_sql(roles.url, f"DROP ROLE {platform}")


def test_roles_that_are_no_hurdle_and_an_open_schema_are_told(roles: Roles) -> None:
    run_sql(roles.url, f"GRANT {roles.name('owner')} TO {roles.name('app')}")
    with pytest.raises(AssertionError, match=f"role {roles.name('app')} may act as {roles.name('owner')}"):
        roles.install()
    run_sql(roles.url, f"REVOKE {roles.name('owner')} FROM {roles.name('app')}")

    run_sql(roles.url, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC;" in roles.install()

"""How much is due and active: what is counted, what the budget cuts off, by which way, and the record in Redis."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

from benchmarks.statements import statements_of
from services.backlog import UNKNOWN, Backlog, TaskBacklog
from services.cluster.backlog_record import LIFETIME, BacklogRecord
from services.database import SQLITE_BUSY_TIMEOUT, create_database_engine, current_time, open_session, reading
from services.monitoring.backlog_measurement import measure_backlog
from services.redis_client import connect
from services.scheduling import keys
from services.set_aside import set_aside
from services.sweeps import find_expired_conversations, find_idle_conversations
from services.tasks import Task
from tests.plans import crowd, plan_of
from tests.support import free_port, insert_row

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
NOTHING_DUE = TaskBacklog(due=0, due_is_capped=False, oldest_due=None)
#: Less than what takes forever, and enough for what does not.
SHORT_BUDGET = timedelta(seconds=1.5)


def now_of(engine: Engine) -> datetime:
    with reading(engine) as connection:
        return current_time(connection)


def insert_with(engine: Engine, *, idle_in: timedelta = HOUR, expires_in: timedelta = HOUR, **given: str) -> None:
    """Insert a conversation whose deadlines are so far from now; from the past, when negative."""
    now = now_of(engine)
    written = {
        name: f"{(now + distance).astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
        for name, distance in (("idle_at", idle_in), ("expires_at", expires_in))
    }
    insert_row(engine, **written, **given)


# What is counted


def test_without_conversations_nothing_is_due_and_none_is_active(engine: Engine) -> None:
    before = now_of(engine)

    backlog = measure_backlog(engine)

    assert before <= backlog.measured_at <= now_of(engine)
    assert backlog.tasks == {Task.IDLE: NOTHING_DUE, Task.EXPIRED: NOTHING_DUE}
    assert (backlog.active, backlog.active_is_estimate) == (0, False)


def test_what_is_due_is_what_each_sweep_would_end(engine: Engine) -> None:
    for idle_in, expires_in in ((-HOUR, HOUR), (-SECOND, -2 * HOUR), (HOUR, -SECOND), (-2 * HOUR, HOUR), (HOUR, HOUR)):
        insert_with(engine, idle_in=idle_in, expires_in=expires_in)
    for status in ("idle_timeout", "expired", "closed"):
        insert_with(
            engine, idle_in=-3 * HOUR, expires_in=-3 * HOUR, status=status, ended_at="2026-01-31 13:00:00.000000"
        )

    backlog = measure_backlog(engine)

    with open_session(engine, read_only=True) as session:
        idle = find_idle_conversations(session, now=backlog.measured_at)
        expired = find_expired_conversations(session, now=backlog.measured_at)
    assert (len(idle), len(expired)) == (3, 2)
    assert backlog.tasks == {
        Task.IDLE: TaskBacklog(3, due_is_capped=False, oldest_due=backlog.measured_at - idle[0].idle_at),
        Task.EXPIRED: TaskBacklog(2, due_is_capped=False, oldest_due=backlog.measured_at - expired[0].expires_at),
    }
    assert (backlog.active, backlog.active_is_estimate) == (5, False)


def test_what_is_set_aside_is_counted_for_itself_and_is_active_but_not_due(engine: Engine) -> None:
    for idle_in in (-HOUR, -2 * HOUR, HOUR):
        insert_with(engine, idle_in=idle_in)
    with open_session(engine) as session:
        _, longest_due = reversed(find_idle_conversations(session, now=now_of(engine)))
        set_aside(session.connection(), longest_due.conv_id, reason="no", now=now_of(engine))
        session.commit()

    backlog = measure_backlog(engine)

    idle = backlog.tasks[Task.IDLE]
    assert (backlog.set_aside, backlog.active, idle.due) == (1, 3, 1)
    assert idle.oldest_due is not None
    assert HOUR <= idle.oldest_due < 2 * HOUR
    assert backlog.tasks[Task.EXPIRED] == NOTHING_DUE


@pytest.mark.parametrize(("count", "told", "capped"), [(2, 2, False), (3, 3, False), (4, 3, True)])
def test_a_count_stops_at_the_cap_and_says_so_when_there_are_more(
    engine: Engine, count: int, told: int, *, capped: bool
) -> None:
    for number in range(count):
        insert_with(engine, idle_in=-HOUR - number * SECOND)

    backlog = measure_backlog(engine, cap=3)

    idle = backlog.tasks[Task.IDLE]
    assert (idle.due, idle.due_is_capped) == (told, capped)
    assert idle.oldest_due is not None
    assert HOUR < idle.oldest_due < 2 * HOUR
    assert backlog.tasks[Task.EXPIRED] == NOTHING_DUE
    # Without statistics.
    assert (backlog.active, backlog.active_is_estimate) == (told, capped)


@pytest.mark.parametrize(("count", "told", "is_estimate"), [(2, 2, False), (3, 3, False), (4, 3, True)])
def test_active_ones_that_are_not_due_are_counted_up_to_the_cap_as_well(
    engine: Engine, count: int, told: int, *, is_estimate: bool
) -> None:
    for _ in range(count):
        insert_with(engine)

    backlog = measure_backlog(engine, cap=3)

    assert backlog.tasks == {Task.IDLE: NOTHING_DUE, Task.EXPIRED: NOTHING_DUE}
    assert (backlog.active, backlog.active_is_estimate) == (told, is_estimate)


@pytest.fixture
def on_postgresql(postgresql_url: str) -> Iterator[Engine]:
    engine = create_database_engine(postgresql_url)
    yield engine
    engine.dispose()


def run_alone(engine: Engine, statement: str) -> None:
    """Carry out what PostgreSQL allows in no transaction."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


def test_beyond_the_cap_statistics_say_how_many_are_active_and_a_vacuum_counts_them(on_postgresql: Engine) -> None:
    crowd(on_postgresql)  # and analyzed: so small a table as a whole
    assert (found := measure_backlog(on_postgresql, cap=100)).active == 5_000
    assert found.active_is_estimate

    with on_postgresql.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE conversations SET idle_at = idle_at + interval '1 min' WHERE ended_at IS NULL"
        )
        connection.exec_driver_sql("DELETE FROM conversations WHERE ended_at IS NULL AND owner_id < 'owner 3'")
        left = connection.exec_driver_sql("SELECT count(*) FROM conversations WHERE ended_at IS NULL").scalar_one()
    run_alone(on_postgresql, "VACUUM conversations")

    assert 100 < left < 5_000
    assert measure_backlog(on_postgresql, cap=100).active == left
    # What can be counted is not estimated.
    assert not measure_backlog(on_postgresql, cap=left).active_is_estimate


# What the budget cuts off

#: What takes forever to be evaluated, on each database.
FOREVER = {
    "postgresql": "forever(timestamptz '2020-01-01 00:00:00+00')",
    "sqlite": "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n)",
}


def replace_conversations(engine: Engine, *, idle_at: str) -> None:
    """Put one conversation in the place of all, to whose expiry no query comes."""
    on_postgresql = engine.dialect.name == "postgresql"
    instant = f"timestamptz '{idle_at}+00'" if on_postgresql else f"'{idle_at}.000000'"
    with engine.begin() as connection:
        if on_postgresql:
            connection.exec_driver_sql(
                "CREATE FUNCTION forever(at timestamptz) RETURNS timestamptz STABLE LANGUAGE plpgsql"
                " AS 'BEGIN PERFORM pg_sleep(60); RETURN at; END'"
            )
        connection.exec_driver_sql("ALTER TABLE conversations RENAME TO others")
        connection.exec_driver_sql(f"CREATE TABLE one AS SELECT 'pending' AS status, {instant} AS idle_at")
        forever = FOREVER[engine.dialect.name]
        connection.exec_driver_sql(
            f"CREATE VIEW conversations AS SELECT status, idle_at, {forever} AS expires_at FROM one"
        )


def test_what_takes_longer_than_the_budget_is_none_and_what_came_before_is_kept(engine: Engine) -> None:
    replace_conversations(engine, idle_at="2020-01-01 00:00:00")
    began = time.monotonic()

    backlog = measure_backlog(engine, budget=SHORT_BUDGET)

    assert time.monotonic() - began < 30
    assert backlog.tasks[Task.IDLE].oldest_due == backlog.measured_at - datetime(2020, 1, 1, tzinfo=UTC)
    assert backlog.tasks[Task.IDLE].due is None
    assert backlog.tasks[Task.EXPIRED] == UNKNOWN
    assert (backlog.active, backlog.active_is_estimate) == (None, False)


def test_that_nothing_is_due_is_known_though_the_rest_takes_too_long(engine: Engine) -> None:
    replace_conversations(engine, idle_at="2999-01-01 00:00:00")

    backlog = measure_backlog(engine, budget=SHORT_BUDGET)

    assert backlog.tasks == {Task.IDLE: NOTHING_DUE, Task.EXPIRED: UNKNOWN}


def test_the_budget_is_for_all_of_it_and_the_connection_has_no_limit_afterwards(engine: Engine) -> None:
    insert_with(engine, idle_in=-HOUR)

    backlog = measure_backlog(engine, budget=timedelta(0))

    assert backlog.tasks == {Task.IDLE: UNKNOWN, Task.EXPIRED: UNKNOWN}
    assert backlog.active is None
    with reading(engine) as connection:
        many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100000) SELECT max(x) FROM n"
        assert connection.exec_driver_sql(many).scalar_one() == 100_000
    assert measure_backlog(engine).active == 1


def test_a_measurement_cannot_write_and_its_settings_end_with_it(on_postgresql: Engine) -> None:
    shown = "SELECT current_setting('transaction_read_only'), current_setting('enable_sort'),"
    shown += " current_setting('statement_timeout'), current_setting('lock_timeout')"
    during = []

    def note(_connection: Any, cursor: Any, *_: Any) -> None:
        during.append(cursor.connection.execute(shown).fetchone())

    event.listen(on_postgresql, "after_cursor_execute", note)
    measure_backlog(on_postgresql)
    event.remove(on_postgresql, "after_cursor_execute", note)

    assert {told[:2] for told in during} == {("on", "off")}
    with on_postgresql.connect() as connection:
        assert connection.exec_driver_sql(shown).one() == ("off", "on", "0", "0")


def test_a_table_that_is_locked_is_not_waited_for(on_postgresql: Engine) -> None:
    with on_postgresql.begin() as migration:
        migration.exec_driver_sql("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        backlog = measure_backlog(on_postgresql, budget=timedelta(minutes=1))

    assert time.monotonic() - began < 30
    assert backlog.tasks == {Task.IDLE: UNKNOWN, Task.EXPIRED: UNKNOWN}
    assert measure_backlog(on_postgresql).tasks[Task.IDLE] == NOTHING_DUE


def test_on_sqlite_the_writer_is_not_waited_for(sqlite_url: str) -> None:
    engine = create_database_engine(sqlite_url)
    with engine.begin() as writer:  # which begins by waiting for others to have written
        writer.exec_driver_sql("DELETE FROM conversations")
        began = time.monotonic()
        assert measure_backlog(engine, budget=timedelta(minutes=1)).active == 0
    engine.dispose()
    assert time.monotonic() - began < SQLITE_BUSY_TIMEOUT


def test_a_database_that_cannot_be_reached_is_an_error() -> None:
    engine = create_database_engine(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing")
    with pytest.raises(DBAPIError):
        measure_backlog(engine)


def test_a_database_without_tables_is_an_error(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE conversations")
    with pytest.raises(DBAPIError, match="conversations"):
        measure_backlog(engine)


# By which way


def plans_of_a_measurement(engine: Engine, mode: str) -> dict[str, list[dict[str, Any]]]:
    """Return the nodes of the plan of each query of a measurement, carried out, under the settings that it makes."""
    with statements_of(engine) as sent:
        measure_backlog(engine)
    asked = [statement for statement in sent if "FROM conversations" in statement[0]]
    plans = {}
    for name, statement in zip(("first idle", "first expired", "idle", "expired", "active"), asked, strict=True):
        with open_session(engine) as session:
            session.connection().exec_driver_sql(*sent[0])
            plans[name] = plan_of(session, statement, mode, analyze=True)
    return plans


def test_a_measurement_reads_the_indexes_of_deadlines_only_and_in_their_order(on_postgresql: Engine) -> None:
    crowd(on_postgresql)
    insert_with(on_postgresql, idle_in=-HOUR, expires_in=-HOUR)
    run_alone(on_postgresql, "VACUUM conversations")

    for mode in ("force_custom_plan", "force_generic_plan"):
        for name, nodes in plans_of_a_measurement(on_postgresql, mode).items():
            kinds = [node["Node Type"] for node in nodes]
            assert set(kinds) <= {"Aggregate", "Limit", "Subquery Scan", "Index Only Scan"}, (name, mode)
            scan = nodes[kinds.index("Index Only Scan")]
            by = "expires_at" if "expired" in name else "idle_at"
            assert scan["Index Name"] == f"conversations_active_{by}", (name, mode)
            assert scan["Heap Fetches"] == 0, (name, mode)
            assert ("Index Cond" in scan) == (name != "active"), (name, mode)
            assert name not in {"first idle", "first expired"} or scan["Actual Rows"] == 1, (name, mode)
            # 5,001 entries fill some twenty pages.
            assert nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"] < 60, (name, mode)


def test_also_after_changes_that_no_vacuum_has_seen_when_a_sort_looks_cheaper(on_postgresql: Engine) -> None:
    crowd(on_postgresql)
    with on_postgresql.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE conversations SET (autovacuum_enabled = off)")
        connection.exec_driver_sql(
            "UPDATE conversations SET idle_at = timestamptz '2020-01-01 00:00:00+00' + random() * interval '1 year',"
            " expires_at = timestamptz '2020-01-01 00:00:00+00' + random() * interval '1 year'"
        )
        connection.exec_driver_sql("ANALYZE conversations")

    for name, nodes in plans_of_a_measurement(on_postgresql, "force_custom_plan").items():
        kinds = {node["Node Type"] for node in nodes}
        assert kinds <= {"Aggregate", "Limit", "Subquery Scan", "Index Only Scan"}, name


def test_on_sqlite_each_query_goes_by_an_index_of_deadlines(sqlite_url: str) -> None:
    engine = create_database_engine(sqlite_url)
    insert_with(engine, idle_in=-HOUR, expires_in=-HOUR)
    with statements_of(engine) as sent:
        measure_backlog(engine)
    asked = [statement for statement in sent if "FROM conversations" in statement[0]]
    with engine.connect() as connection:
        plans = [
            " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given))
            for text, given in asked
        ]
    engine.dispose()

    assert len(plans) == 5
    for plan, by in zip(plans, ("idle_at", "expires_at", "idle_at", "expires_at", "idle_at"), strict=True):
        assert f"INDEX conversations_active_{by}" in plan
        assert "TEMP B-TREE" not in plan


# The record

MEASURED = Backlog(
    measured_at=datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=UTC),
    active=1_234_567,
    active_is_estimate=True,
    tasks={
        Task.IDLE: TaskBacklog(due=1_000_000, due_is_capped=True, oldest_due=timedelta(seconds=61.5)),
        Task.EXPIRED: NOTHING_DUE,
    },
    set_aside=3,
)
NOTHING_KNOWN = Backlog(MEASURED.measured_at, None, active_is_estimate=False, tasks=dict.fromkeys(Task, UNKNOWN))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, timeout=5) as client:
        yield client


def test_what_is_written_is_read_and_lasts_for_ninety_seconds(client: redis.Redis) -> None:
    record = BacklogRecord(client)
    assert record.read() is None

    record.write(MEASURED)

    assert record.read() == MEASURED
    assert timedelta(seconds=90) == LIFETIME
    assert 85_000 < client.pttl(keys.BACKLOG) <= 90_000
    assert client.hgetall(keys.BACKLOG) == {
        b"measured_at": b"1769860800123",
        b"active": b"1234567",
        b"active_is_estimate": b"1",
        b"set_aside": b"3",
        b"idle_conversations:due": b"1000000",
        b"idle_conversations:due_is_capped": b"1",
        b"idle_conversations:oldest_due_ms": b"61500",
        b"expired_conversations:due": b"0",
        b"expired_conversations:due_is_capped": b"0",
        b"expired_conversations:oldest_due_ms": b"",
    }


def test_what_could_not_be_measured_is_not_left_over_from_before(client: redis.Redis) -> None:
    record = BacklogRecord(client)
    record.write(MEASURED)

    record.write(NOTHING_KNOWN)

    assert client.hkeys(keys.BACKLOG) == [b"measured_at"]
    assert record.read() == NOTHING_KNOWN


def test_a_record_that_is_over_is_none(client: redis.Redis) -> None:
    record = BacklogRecord(client)
    record.write(MEASURED)
    client.pexpire(keys.BACKLOG, 0)
    assert record.read() is None


@pytest.mark.parametrize(
    ("field", "value", "of"),
    [
        ("active", "many", lambda backlog: backlog.active),
        ("active", "-1", lambda backlog: backlog.active),
        ("set_aside", "-1", lambda backlog: backlog.set_aside),
        ("active", "9" * 30, lambda backlog: backlog.active),
        ("idle_conversations:due", "", lambda backlog: backlog.tasks[Task.IDLE].due),
        ("idle_conversations:oldest_due_ms", "-1", lambda backlog: backlog.tasks[Task.IDLE].oldest_due),
        ("idle_conversations:oldest_due_ms", "9" * 30, lambda backlog: backlog.tasks[Task.IDLE].oldest_due),
        ("expired_conversations:oldest_due_ms", "5", lambda backlog: backlog.tasks[Task.EXPIRED].oldest_due),
        ("measured_at", "now", lambda backlog: backlog),
    ],
)
def test_a_value_that_makes_no_sense_is_none(
    client: redis.Redis, field: str, value: str, of: Callable[[Backlog | None], object]
) -> None:
    record = BacklogRecord(client)
    record.write(MEASURED)

    client.hset(keys.BACKLOG, field, value)

    assert of(record.read()) is None


@pytest.mark.parametrize(
    ("task", "seconds"),
    [
        (NOTHING_DUE, 0.0),
        (UNKNOWN, None),
        (TaskBacklog(due=7, due_is_capped=False, oldest_due=timedelta(seconds=1.5)), 1.5),
        (TaskBacklog(due=None, due_is_capped=False, oldest_due=timedelta(seconds=1.5)), 1.5),
    ],
)
def test_a_gauge_is_zero_when_nothing_is_due_and_absent_when_nobody_knows(
    task: TaskBacklog, seconds: float | None
) -> None:
    assert task.oldest_due_seconds == seconds


def test_who_reads_the_record_loads_nothing_of_a_database() -> None:
    script = "import sys, services.cluster.backlog_record; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"

"""What tests ask PostgreSQL about statements: how it carries them out."""

import re
from collections.abc import Iterator
from typing import Any

from psycopg import sql
from sqlalchemy import Engine
from sqlmodel import Session

from benchmarks.statements import Statement
from tests.support import NOON


def crowd(engine: Engine) -> None:
    """Fill a database with enough conversations, most ended, that reading all of them is never the best plan.

    The last of 5,000 idle deadlines is at half past noon, each other a second before the next.
    """
    columns = "conv_id, owner_id, channel, from_number, to_number, session_key, status, metadata, created_at,"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"""
            INSERT INTO conversations ({columns} updated_at, idle_at, expires_at, ended_at)
            SELECT gen_random_uuid(), 'owner ' || mod(number, 50), 'sms', '1', '2', 'key ' || mod(number, 5000),
                   CASE WHEN active THEN 'progress' ELSE 'closed' END, '{{}}', at, at, at + '30 min', at + '1 day',
                   CASE WHEN NOT active THEN at END
            FROM generate_series(1, 20000) AS number,
                 LATERAL (SELECT number <= 5000 AS active, timestamptz '{NOON}' - number * interval '1 s' AS at)
        """)
        connection.exec_driver_sql("""
            INSERT INTO conversation_events
                (conv_id, previous_status, status, deadline, last_activity_at, cause, occurred_at)
            SELECT conv_id, 'progress', status, idle_at, updated_at, 'close', ended_at
            FROM conversations WHERE ended_at IS NOT NULL
        """)
        connection.exec_driver_sql("ANALYZE")


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes_of(below)


def plan_of(session: Session, statement: Statement, mode: str, *, analyze: bool = False) -> list[dict[str, Any]]:
    """Return the nodes of the plan of a prepared statement, as psycopg prepares it; ``analyze`` carries it out."""
    text, given = statement
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    prepared = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", text)
    values = sql.SQL(", ").join(sql.Literal(given[name]) for name in names)
    cursor = session.connection().connection.cursor()
    cursor.execute(f"SET LOCAL plan_cache_mode = {mode}")
    cursor.execute(f"PREPARE shown AS {prepared}")
    options = "ANALYZE, BUFFERS, FORMAT JSON" if analyze else "FORMAT JSON"
    called = sql.SQL("shown ({})").format(values) if names else sql.SQL("shown")
    cursor.execute(sql.SQL("EXPLAIN ({}) EXECUTE {}").format(sql.SQL(options), called))
    (((found,),),) = cursor.fetchall()
    cursor.execute("DEALLOCATE shown")
    return list(nodes_of(found["Plan"]))

"""Whom an adoption waits for, told so that somebody can find them: a report, a forgotten session."""

from sqlalchemy import Connection, TextClause, text

from services.database import set_locally
from services.wording import span

#: The oldest first. Of a process of another role, those without pg_read_all_stats see neither its start nor its state.
_TRANSACTIONS = """
SELECT a.pid, a.application_name AS application, a.usename::text AS role, clock_timestamp() - a.xact_start AS age,
       coalesce(a.state, 'unknown') AS state
FROM pg_stat_activity a WHERE {condition} ORDER BY age DESC NULLS LAST LIMIT 3
"""
#: Those that have used the table and are not over.
_HOLDERS = text(
    _TRANSACTIONS.format(
        condition="a.pid <> pg_backend_pid() AND a.pid IN "
        "(SELECT l.pid FROM pg_locks l WHERE l.relation = 'conversations'::regclass AND l.granted)"
    )
)
_BLOCKERS = text(_TRANSACTIONS.format(condition="a.pid = ANY (pg_blocking_pids(:pid))"))


def read_holders(connection: Connection) -> list[str]:
    """Return whose transactions have used the table and are not over, three at most, in a transaction of its own."""
    return _read(connection, _HOLDERS)


def read_blockers(connection: Connection, pid: int) -> list[str]:
    """Return whom the server's process ``pid`` waits for, three at most, in a transaction of its own."""
    return _read(connection, _BLOCKERS.bindparams(pid=pid))


def _read(connection: Connection, query: TextClause) -> list[str]:
    with connection.begin():
        # As who has logged in, who may be allowed to see more than the owner of the table.
        set_locally(connection, role="none")
        rows = connection.execute(query).all()
    return [
        f"process {row.pid} of {row.application or 'an unnamed application'}, "
        + (
            f"of the role {row.role}, whose transactions only pg_read_all_stats may see"
            if row.age is None
            else f"for {span(row.age)} ({row.state})"
        )
        for row in rows
    ]

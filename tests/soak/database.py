"""What PostgreSQL tells of itself: connections, tables, indexes, and how late conversations were ended."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import psycopg

from tests.chaos.conversations.postgresql import PostgreSQLServer
from tests.soak.series import Name

_CONNECTIONS = """
    SELECT application_name, count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1
"""
_OLDEST = """
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_TABLES = """
    SELECT relname, pg_relation_size(relid), n_dead_tup FROM pg_stat_user_tables WHERE relname <> 'adjourn_version'
"""
_INDEXES = """
    SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes WHERE relname <> 'adjourn_version'
"""
_ROWS = """
    SELECT 'conversations', count(*) FROM conversations
    UNION ALL SELECT 'conversation_events', count(*) FROM conversation_events
    UNION ALL SELECT 'latest_conversations', count(*) FROM latest_conversations
"""
_ACTIVE = "SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress')"
#: Of deadlines that were met since the last look: who closes a conversation does so before its deadline.
_LAGS = """
    SELECT max(event_id), percentile_cont(ARRAY[0.5, 0.99])
        WITHIN GROUP (ORDER BY extract(epoch FROM occurred_at - deadline)::float)
    FROM conversation_events WHERE event_id > %s AND status IN ('idle_timeout', 'expired')
"""
#: Of less there is no 99th percentile to speak of, and no table whose rows are worth weighing.
_LEAST_ENDINGS, _LEAST_ROWS = 100, 1000


class Database:
    """A superuser's connection, for which there is always room, made anew whenever it is lost."""

    def __init__(self, server: PostgreSQLServer) -> None:
        self._server = server
        self._connection: psycopg.Connection[Any] | None = None
        self._last_event = 0

    def read(self) -> dict[Name, float]:
        """Return what there is; nothing while PostgreSQL does not answer."""
        try:
            if self._connection is None:
                self._connection = self._server.connect_as_superuser(application_name="soak")
            return self._read(self._connection)
        except psycopg.Error:
            self.close()
            return {}

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None

    def _read(self, connection: psycopg.Connection[Any]) -> dict[Name, float]:
        found: dict[Name, float] = {}
        for application, count in connection.execute(_CONNECTIONS).fetchall():
            if application == "adjourn":
                found["PostgreSQL", "connections"] = float(count)
        found["PostgreSQL", "oldest transaction"] = _only(connection.execute(_OLDEST).fetchall())
        found["active conversations", "active rows"] = _only(connection.execute(_ACTIVE).fetchall())
        rows = dict(connection.execute(_ROWS).fetchall())
        for table, size, dead in connection.execute(_TABLES).fetchall():
            found[table, "size"] = float(size)
            found[table, "dead rows"] = float(dead)
            if table in rows:
                found[table, "rows"] = float(rows[table])
            if rows.get(table, 0) >= _LEAST_ROWS:
                found[table, "bytes a row"] = size / rows[table]
        for index, size in connection.execute(_INDEXES).fetchall():
            found[index, "size"] = float(size)
        return found | self._read_lags(connection)

    def _read_lags(self, connection: psycopg.Connection[Any]) -> dict[Name, float]:
        [(last, lags)] = connection.execute(_LAGS, [self._last_event]).fetchall()
        if last is None or lags is None or last - self._last_event < _LEAST_ENDINGS:
            return {}
        self._last_event = last
        return {("endings", "lag, median"): lags[0], ("endings", "lag, p99"): lags[1]}


def _only(rows: Iterable[tuple[Any, ...]]) -> float:
    [(value,)] = rows
    return float(value)

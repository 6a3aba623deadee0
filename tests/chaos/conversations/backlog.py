"""What is overdue, read from PostgreSQL past everything that is under test."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from tests.chaos.conversations.postgresql import PostgreSQLServer

_QUERY = """
    SELECT clock_timestamp(), min(least(idle_at, expires_at)) FROM conversations
    WHERE status IN ('pending', 'progress') AND least(idle_at, expires_at) <= clock_timestamp()
"""
#: In milliseconds: what does not answer within that is not well.
_PATIENCE = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """What there was at an instant of the database's clock."""

    at: datetime
    #: The longest reached deadline of those that are active, None when none is reached.
    due_since: datetime | None

    @property
    def longest_due(self) -> float:
        """For how many seconds it had been reached."""
        return 0.0 if self.due_since is None else (self.at - self.due_since).total_seconds()


class Backlog:
    """A superuser's connection, for which there is always room, made anew whenever it is lost."""

    def __init__(self, server: PostgreSQLServer) -> None:
        self._server = server
        self._connection: psycopg.Connection[Any] | None = None

    def read(self) -> Reading | None:
        """Return what is overdue, None when PostgreSQL does not say."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            at, due_since = self._connection.execute(_QUERY).fetchone() or (None, None)
        except psycopg.Error:
            self.close()
            return None
        return None if at is None else Reading(at, due_since)

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None

    def _connect(self) -> psycopg.Connection[Any]:
        return self._server.connect_as_superuser(options=f"-c statement_timeout={_PATIENCE} -c timezone=UTC")

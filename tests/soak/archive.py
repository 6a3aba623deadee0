"""The operator's job: conversations that ended a while ago go to an archive, some thousand a transaction.

docs/performance.md tells operators to do so. Without it tables grow by design, and nobody could see what else grows.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import psycopg

from models.identifiers import new_identifier
from tests.chaos.conversations.postgresql import PostgreSQLServer
from tests.histories import final
from tests.histories.final import Event, FinalState, Row

_BATCH = 5000
#: In seconds.
_EVERY = 30.0


def _columns(kind: type[Row | Event]) -> str:
    return ", ".join(
        f"{field.name}::text" if field.name in {"conv_id", "sweep_id"} else field.name for field in fields(kind)
    )


_ROWS = f"""
    SELECT {_columns(Row)} FROM conversations WHERE conv_id < %s AND ended_at < %s ORDER BY conv_id LIMIT {_BATCH}
"""
_EVENTS = f"SELECT {_columns(Event)} FROM conversation_events WHERE conv_id = ANY (%s::uuid[]) ORDER BY event_id"
_DELETES = (
    "DELETE FROM conversations WHERE conv_id = ANY (%s::uuid[])",
    "DELETE FROM conversation_events WHERE conv_id = ANY (%s::uuid[])",
)


class Archive:
    """Moves conversations that ended more than ``age`` ago into files below ``directory``; with None, none."""

    def __init__(self, server: PostgreSQLServer, directory: Path, *, age: timedelta | None) -> None:
        self.directory = directory
        self._server = server
        self._age = age
        self._batches = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)

    def __enter__(self) -> Self:
        self.directory.mkdir()
        if self._age is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def add_to(self, state: FinalState) -> FinalState:
        """Return ``state`` with all that was archived."""
        rows = {row.conv_id: row for row in state.rows}
        events = {event.event_id: event for event in state.events}
        for batch in self._read():
            # Where the answer to a deletion was lost, a conversation is there twice, or in two batches.
            rows |= {row.conv_id: row for row in batch.rows}
            events |= {event.event_id: event for event in batch.events}
        in_order = sorted(events.values(), key=lambda event: event.event_id)
        return FinalState(tuple(rows.values()), tuple(in_order), state.read_at)

    def _read(self) -> Iterator[FinalState]:
        for path in sorted(self.directory.iterdir()):
            yield final.read(path)

    def _run(self) -> None:
        assert self._age is not None
        while not self._stopped.wait(_EVERY):
            # PostgreSQL may be away: the next time does it.
            with suppress(psycopg.Error), self._connect() as connection:
                while self._archive_batch(connection, self._age) == _BATCH and not self._stopped.is_set():
                    pass

    def _connect(self) -> psycopg.Connection[Any]:
        return self._server.connect(application_name="archive", options="-c timezone=UTC")

    def _archive_batch(self, connection: psycopg.Connection[Any], age: timedelta) -> int:
        """Write first, delete then: what has ended never changes."""
        [(now,)] = connection.execute("SELECT clock_timestamp()").fetchall()
        batch = _read_batch(connection, now, before=now - age)
        if batch.rows:
            self._batches += 1
            final.write(self.directory / f"{self._batches:05}.json", batch)
            ids = [row.conv_id for row in batch.rows]
            with connection.transaction():
                for statement in _DELETES:
                    connection.execute(statement.encode(), [ids])
        return len(batch.rows)


def _read_batch(connection: psycopg.Connection[Any], now: datetime, *, before: datetime) -> FinalState:
    # Ids are in the order of their openings, and what is archived opened even before it ended.
    rows = connection.execute(_ROWS.encode(), [new_identifier(before), before]).fetchall()
    known = tuple(Row(**dict(zip((field.name for field in fields(Row)), row, strict=True))) for row in rows)
    events = connection.execute(_EVENTS.encode(), [[row.conv_id for row in known]]).fetchall()
    names = [field.name for field in fields(Event)]
    return FinalState(known, tuple(Event(**dict(zip(names, event, strict=True))) for event in events), now)

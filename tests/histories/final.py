"""The final state: every conversation and every event, read with plain SQL in one snapshot."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tests import plain_sql
from tests.histories.instants import instant_of, instant_or_none_of, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A conversation as the table has it."""

    conv_id: str
    session_key: str
    status: str
    created_at: datetime
    updated_at: datetime
    idle_at: datetime
    expires_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of status as the table has it."""

    event_id: int
    conv_id: str
    previous_status: str
    status: str
    deadline: datetime
    last_activity_at: datetime
    cause: str
    sweep_id: str | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class FinalState:
    """What is there once all is done."""

    rows: tuple[Row, ...]
    #: In the order of their numbers.
    events: tuple[Event, ...]
    #: When, by the database's clock.
    read_at: datetime


_ROWS = f"SELECT {', '.join(field.name for field in fields(Row))} FROM conversations ORDER BY created_at, conv_id"
_EVENTS = f"SELECT {', '.join(field.name for field in fields(Event))} FROM conversation_events ORDER BY event_id"


def read_database(url: str) -> FinalState:
    """Read the final state from the database of ``url``, PostgreSQL or SQLite, as DATABASE_URL gives it."""
    return _read_sqlite(url) if make_url(url).get_backend_name() == "sqlite" else _read_postgresql(url)


def write(path: Path, final: FinalState) -> None:
    """Write the final state as one JSON object."""
    path.write_text(json.dumps(asdict(final), default=text_of))


def read(path: Path) -> FinalState:
    """Read what ``write`` wrote."""
    plain = json.loads(path.read_text())
    return FinalState(
        tuple(Row(**_typed(Row, row)) for row in plain["rows"]),
        tuple(Event(**_typed(Event, event)) for event in plain["events"]),
        instant_of(plain["read_at"]),
    )


def _typed(kind: type[Row | Event], plain: dict[str, Any]) -> dict[str, Any]:
    instants = [field.name for field in fields(kind) if field.name.endswith("_at") or field.name == "deadline"]
    return plain | {name: instant_or_none_of(plain[name]) for name in instants}


def _read_postgresql(url: str) -> FinalState:
    with plain_sql.connect(url) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = connection.execute(_ROWS.encode()).fetchall()
        events = connection.execute(_EVENTS.encode()).fetchall()
        [(read_at,)] = connection.execute("SELECT transaction_timestamp()").fetchall()
        connection.execute("COMMIT")
    return FinalState(_rows_of(rows), _events_of(events), read_at)


def _read_sqlite(url: str) -> FinalState:
    with closing(sqlite3.connect(str(make_url(url).database), isolation_level=None)) as connection:
        connection.execute("BEGIN")
        [(read_at,)] = connection.execute("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").fetchall()
        rows = connection.execute(_ROWS).fetchall()
        events = connection.execute(_EVENTS).fetchall()
        connection.execute("COMMIT")
    return FinalState(_rows_of(rows), _events_of(events), instant_of(f"{read_at}Z"))


def _rows_of(rows: Iterable[tuple[Any, ...]]) -> tuple[Row, ...]:
    return tuple(Row(**_read(Row, row)) for row in rows)


def _events_of(rows: Iterable[tuple[Any, ...]]) -> tuple[Event, ...]:
    return tuple(Event(**_read(Event, row)) for row in rows)


def _read(kind: type[Row | Event], row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the values of a row: ids as text, and instants, which SQLite keeps as text in UTC."""
    known: dict[str, Any] = {field.name: value for field, value in zip(fields(kind), row, strict=True)}
    for name, value in known.items():
        if value is None:
            continue
        if name in {"conv_id", "sweep_id"}:
            known[name] = str(value)
        elif isinstance(value, str) and (name.endswith("_at") or name == "deadline"):
            known[name] = instant_of(f"{value}Z")
    return known

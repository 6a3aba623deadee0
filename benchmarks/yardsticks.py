"""What Adjourn is compared with: the bare UPDATE, and one row at a time."""

import time
import uuid
from datetime import datetime

from sqlalchemy import Engine, func, select
from sqlmodel import col

from benchmarks.errors import BenchmarkError
from benchmarks.postgresql import ask, connect
from benchmarks.rows import LOADED_SWEEP
from models.conversation import Conversation, ConversationStatus, due_idle
from models.event import ConversationEvent
from services.database import create_database_engine, current_time, open_session, reading

#: No events, no look at the expiry, every row locked until the end.
BARE_UPDATE = (
    "UPDATE conversations SET status = 'idle_timeout', ended_at = {now}"
    " WHERE status IN ('pending', 'progress') AND idle_at <= {now}"
)
#: The sweep that rows were loaded with; all others are of this run.
_LOADED = uuid.UUID(LOADED_SWEEP)
_SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def time_bare_update(url: str, *, due: int) -> float:
    """Return the seconds that the bare UPDATE takes, commit included.

    Raises BenchmarkError when it does not end ``due`` rows.
    """
    if url.startswith("sqlite"):
        return _time_on_sqlite(url, due)
    with connect(url) as connection:
        ask(connection, "SELECT 1")
        began = time.perf_counter()
        ended = connection.execute(BARE_UPDATE.format(now="now()").encode()).rowcount
        took = time.perf_counter() - began
    _require(ended, due)
    return took


def _time_on_sqlite(url: str, due: int) -> float:
    engine = create_database_engine(url)
    with engine.connect() as connection:
        began = time.perf_counter()
        ended = connection.exec_driver_sql(BARE_UPDATE.format(now=_SQLITE_NOW)).rowcount
        connection.commit()
        took = time.perf_counter() - began
    engine.dispose()
    _require(ended, due)
    return took


def time_per_row(url: str, *, sample: int) -> float:
    """Return the seconds that a row takes, of ``sample`` due ones: load it with the ORM, set its status, commit."""
    engine = create_database_engine(url)
    now = _now(engine)
    with open_session(engine) as session:
        began = time.perf_counter()
        ids = session.scalars(select(col(Conversation.conv_id)).where(due_idle(now)).limit(sample)).all()
        session.commit()
        for conv_id in ids:
            conversation = session.get_one(Conversation, conv_id)
            conversation.status, conversation.ended_at = ConversationStatus.IDLE_TIMEOUT, now
            session.commit()
        took = time.perf_counter() - began
    engine.dispose()
    _require(len(ids), sample)
    return took / sample


def require_ended(url: str, *, due: int, events: int) -> None:
    """Return when all that was due has ended and this many events came about by it.

    Raises BenchmarkError.
    """
    engine = create_database_engine(url)
    with open_session(engine, read_only=True) as session:
        left = session.scalar(select(func.count()).select_from(Conversation).where(due_idle(_now(engine)))) or 0
        written = session.scalar(
            select(func.count()).select_from(ConversationEvent).where(col(ConversationEvent.sweep_id) != _LOADED)
        )
    engine.dispose()
    if left or written != events:
        raise BenchmarkError(f"of {due:,} due, {left:,} are left; there are {written:,} events, expected {events:,}")


def _now(engine: Engine) -> datetime:
    with reading(engine) as connection:
        return current_time(connection)


def _require(ended: int, due: int) -> None:
    if ended != due:
        raise BenchmarkError(f"{ended:,} rows were ended where {due:,} were due")

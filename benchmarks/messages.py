"""Section ``messages``: what one connection does a second, against a bare UPDATE of one row."""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, cycle
from typing import Any

from sqlalchemy import Engine, select
from sqlmodel import Session, col

from benchmarks.bench import Bench
from benchmarks.measures import Measurement
from benchmarks.rows import Layout, Shape
from benchmarks.tables import loaded_postgresql, loaded_sqlite
from models.conversation import Conversation, ConversationStatus
from services.conversations import open_or_resume_conversation, record_activity
from services.database import create_database_engine, open_session
from services.timeouts import Timeouts

#: Calls that one run times, each in a transaction of its own.
_CALLS = 1_000
#: Rows of the table, at most: what a message costs hardly depends on it.
_ROWS = 200_000
_TIMEOUTS = Timeouts(idle=timedelta(days=1), expiry=timedelta(days=2))
_BARE = "bare UPDATE of one row, BEGIN and COMMIT"
_UPDATE = "UPDATE conversations SET updated_at = {0}, idle_at = {0} WHERE conv_id = {0}"


def run(bench: Bench) -> None:
    """Measure on PostgreSQL, then on SQLite."""
    rows = min(bench.options.size, _ROWS)
    # Half of them not due: those get the messages.
    shape = Shape(rows=rows, due=0, waiting=rows // 2, layout=Layout.SCATTERED)
    for name, loaded in (("messages, PostgreSQL", loaded_postgresql), ("messages, SQLite", loaded_sqlite)):
        with loaded(bench, shape) as url:
            engine = create_database_engine(url)
            _measure(bench, name, engine)
            engine.dispose()


def _measure(bench: Bench, name: str, engine: Engine) -> None:
    with open_session(engine, read_only=True) as session:
        in_progress = select(col(Conversation.conv_id)).where(col(Conversation.status) == ConversationStatus.PROGRESS)
        ids = session.scalars(in_progress.limit(5 * _CALLS)).all()
    lively = cycle(ids)
    customers: dict[str, Iterator[int]] = {way: count(1) for way in ("first", "second", "later")}

    def message(which: str) -> Callable[[Session], object]:
        return lambda session: _take_message(session, next(customers[which]))

    def activity(session: Session) -> object:
        return record_activity(session, conv_id=next(lively), now=datetime.now(UTC), timeouts=_TIMEOUTS)

    calls: dict[str, Callable[[Session], object]] = {
        "open: the first message": message("first"),
        "the second message": message("second"),
        "a later message": message("later"),
        "record_activity by id": activity,
    }
    # Statements are made and prepared before any is timed.
    _time_calls(engine, _nothing_new(lively), 10)
    ways: dict[str, Callable[[], float]] = {_BARE: lambda: _time_bare(engine, lively)}
    if engine.dialect.name == "postgresql":
        ways["bare UPDATE of one row, autocommit"] = lambda: _time_bare(engine, lively, autocommit=True)
    ways |= {way: partial(_time_calls, engine, call, _CALLS) for way, call in calls.items()}
    figures = bench.measure(name, ways, unit="1/s")
    note = f"on one connection, {_CALLS:,} calls a run, a session and a commit each"
    bench.keep(
        *(
            Measurement(name, way, "1/s", tuple(runs), _BARE, "" if "bare" in way else note)
            for way, runs in figures.items()
        )
    )


def _nothing_new(lively: Iterator[uuid.UUID]) -> Callable[[Session], object]:
    return lambda session: record_activity(session, conv_id=next(lively), now=datetime.now(UTC), timeouts=_TIMEOUTS)


def _take_message(session: Session, customer: int) -> object:
    return open_or_resume_conversation(
        session,
        owner_id="bench",
        channel="whatsapp",
        from_number=f"+999{customer:09}",
        to_number="+33123456789",
        now=datetime.now(UTC),
        timeouts=_TIMEOUTS,
    )


def _time_calls(engine: Engine, call: Callable[[Session], object], calls: int) -> float:
    """Return how many calls a second there are, each in a session of its own, as an application has them."""
    began = time.perf_counter()
    for _ in range(calls):
        with open_session(engine) as session:
            call(session)
            session.commit()
    return calls / (time.perf_counter() - began)


def _time_bare(engine: Engine, lively: Iterator[uuid.UUID], *, autocommit: bool = False) -> float:
    """Return how many updates of a row by its id there are a second, on the driver's own connection."""
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    try:
        if engine.dialect.name == "sqlite":
            return _time_bare_sqlite(connection, lively)
        connection.rollback()
        connection.autocommit = autocommit
        statement = _UPDATE.format("%s")
        began = time.perf_counter()
        for _ in range(_CALLS):
            now = datetime.now(UTC)
            connection.execute(statement, (now, now + _TIMEOUTS.idle, next(lively)))
            if not autocommit:
                connection.commit()
        took = time.perf_counter() - began
        connection.autocommit = False
        return _CALLS / took
    finally:
        pooled.close()


def _time_bare_sqlite(connection: Any, lively: Iterator[uuid.UUID]) -> float:
    statement = _UPDATE.format("?")
    began = time.perf_counter()
    for _ in range(_CALLS):
        now = datetime.now(UTC)
        instants = (now.strftime("%Y-%m-%d %H:%M:%S.%f"), (now + _TIMEOUTS.idle).strftime("%Y-%m-%d %H:%M:%S.%f"))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement, (*instants, str(next(lively))))
        connection.execute("COMMIT")
    return _CALLS / (time.perf_counter() - began)

"""Section ``messages``: what one connection does a second, against a bare UPDATE of one row."""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, cycle
from typing import Any

from sqlalchemy import Engine, make_url, select
from sqlmodel import Session, col

from benchmarks.bench import Bench
from benchmarks.measures import Measurement, Target
from benchmarks.rows import Layout, Shape
from benchmarks.statements import statements_of
from benchmarks.tables import loaded_postgresql, loaded_sqlite
from models.conversation import Conversation, ConversationStatus
from services.conversations import open_or_resume_conversation, record_activity
from services.database import create_database_engine, open_session
from services.timeouts import Timeouts

#: Calls that are timed together, each in a transaction of its own.
_CALLS = 100
#: So often in each run: the disk's mood changes from second to second, and should meet all ways alike.
_TURNS = 10
#: Rows of the table, at most: what a message costs hardly depends on it.
_ROWS = 200_000
#: Conversations that get messages.
_LIVELY = 5_000
_TIMEOUTS = Timeouts(idle=timedelta(days=1), expiry=timedelta(days=2))
_BARE = "bare UPDATE of one row, BEGIN and COMMIT"
_UPDATE = "UPDATE conversations SET updated_at = {0}, idle_at = {0} WHERE conv_id = {0}"


def run(bench: Bench) -> None:
    """Measure on PostgreSQL, then on SQLite."""
    rows = min(bench.options.size, _ROWS)
    # Half of them not due: those get the messages.
    shape = Shape(rows=rows, due=0, waiting=rows // 2, layout=Layout.SCATTERED)
    with loaded_postgresql(bench, shape) as url:
        _measure(bench, "messages, PostgreSQL", url)
        # A commit's wait for the disk hides what the rest costs.
        unsafe = make_url(url).update_query_dict({"options": "-c synchronous_commit=off"})
        _measure(bench, "messages, PostgreSQL, synchronous_commit off", unsafe.render_as_string(hide_password=False))
    with loaded_sqlite(bench, shape) as url:
        _measure(bench, "messages, SQLite", url)


def _measure(bench: Bench, name: str, url: str) -> None:
    engine = create_database_engine(url)
    with open_session(engine, read_only=True) as session:
        in_progress = select(col(Conversation.conv_id)).where(col(Conversation.status) == ConversationStatus.PROGRESS)
        ids = session.scalars(in_progress.limit(_LIVELY)).all()
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
    statements = {way: _count_statements(engine, call) for way, call in calls.items()}
    ways: dict[str, Callable[[], float]] = {_BARE: lambda: _time_bare(engine, lively)}
    if engine.dialect.name == "postgresql":
        ways["bare UPDATE of one row, autocommit"] = lambda: _time_bare(engine, lively, autocommit=True)
    ways |= {way: partial(_time_calls, engine, call) for way, call in calls.items()}
    seconds = {way: [0.0] * bench.options.runs for way in ways}
    with bench.doing(name):
        for turn in range(bench.options.runs * _TURNS):
            for way, take in ways.items():
                seconds[way][turn // _TURNS] += take()
    engine.dispose()
    note = f"a second on one connection, {_CALLS * _TURNS:,} calls a run, a session and a commit each"
    for way in ways:
        runs = tuple(_CALLS * _TURNS / took for took in seconds[way])
        found = Measurement(name, way, "1/s", runs, _BARE, note if way == _BARE else _note(statements.get(way)))
        bench.keep(found)
        bench.say(f"{name}  {found.median:10,.0f} 1/s  {way}")
    if name == "messages, PostgreSQL":
        bench.judge(*(Target("6", f"statements of {way}", "", 1, number) for way, number in statements.items()))


def _note(statements: int | None) -> str:
    return "" if statements is None else f"{statements} statement{'s' if statements > 1 else ''} each"


def _count_statements(engine: Engine, call: Callable[[Session], object]) -> int:
    """Return how many statements a call sends, when it is made for the fourth time; the others prepare for it."""
    with open_session(engine) as session:
        for _ in range(3):
            call(session)
            session.commit()
        with statements_of(engine) as sent:
            call(session)
        session.commit()
    return sum(not statement.startswith("BEGIN") for statement, _ in sent)


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


def _time_calls(engine: Engine, call: Callable[[Session], object]) -> float:
    """Return the seconds that calls take, each in a session of its own, as an application has them."""
    began = time.perf_counter()
    for _ in range(_CALLS):
        with open_session(engine) as session:
            call(session)
            session.commit()
    return time.perf_counter() - began


def _time_bare(engine: Engine, lively: Iterator[uuid.UUID], *, autocommit: bool = False) -> float:
    """Return the seconds that updates of a row by its id take, on the driver's own connection."""
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
        return took
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
    return time.perf_counter() - began

"""Engines, sessions and the one clock: the database's."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    func,
    inspect,
    select,
    type_coerce,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlmodel import Session

from models.columns import UtcDateTime
from services.database_url import PREPARED_STATEMENTS, parse_database_url, shown_url
from services.distrust import UNTRUSTED, reason_of_distrust
from services.errors import DatabaseNotMigratedError, DatabaseUnavailableError, first_line

#: How long a statement on SQLite waits for the one writer before it fails, in seconds.
SQLITE_BUSY_TIMEOUT = 15.0
#: How long to wait for PostgreSQL to answer a new connection, in seconds.
CONNECT_TIMEOUT = 5
#: The first SQLite with what the statements use: RETURNING, UPDATE ... FROM, generated columns.
OLDEST_SQLITE = (3, 35)

#: A connection whose other end is gone is given up within half a minute, not when the kernel's two hours are over.
_TCP = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}


#: A DETAIL of PostgreSQL's in an error's text: up to what it may say after it.
_DETAIL = re.compile(r"\nDETAIL: .*?(?=\n(?:HINT|QUERY|CONTEXT|SCHEMA NAME|TABLE NAME|LOCATION): |\Z)", re.DOTALL)


def create_database_engine(url: URL | str, **options: Any) -> Engine:
    """Return an engine for ``url`` as Adjourn needs it; nothing is connected yet.

    With ``prepared_statements=false`` in its query, as ``Settings.database`` writes it, nothing is prepared on the
    server: the next transaction may meet another one.

    Do not carry it across a fork: make one in each process.
    """
    url = parse_database_url(url) if isinstance(url, str) else url
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT}, hide_parameters=True, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    # psycopg prepares what it has sent five times, unless told: never.
    preparing = {"prepare_threshold": None} if url.query.get(PREPARED_STATEMENTS) == "false" else {}
    engine = create_engine(
        url.difference_update_query([PREPARED_STATEMENTS]),
        # The statements re-check each row that they waited for, as READ COMMITTED does; a stricter level would fail.
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_TIMEOUT, "application_name": "adjourn", **_TCP, **preparing},
        pool_pre_ping=True,
        # Parameters are people's numbers and messages' metadata: not for a log.
        hide_parameters=True,
        **options,
    )
    event.listen(engine, "handle_error", _leave_out_details)
    event.listen(engine, "handle_error", _say_why_untrusted)
    return engine


def open_session(engine: Engine, *, read_only: bool = False) -> Session:
    """Return a session whose objects stay readable after the commit.

    On SQLite one that is not ``read_only`` waits for the one writer, and then is it, from its first statement on.
    """
    bound = engine.execution_options(read_only=True) if read_only else engine
    return Session(bound, expire_on_commit=False)


def set_locally(connection: Connection, **values: str) -> None:
    """Set settings of PostgreSQL's for the rest of this transaction, in one round trip; SQLite has none."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(*(func.set_config(name, value, True) for name, value in values.items())))


def current_time(connection: Connection) -> datetime:
    """Return the database's time, UTC: the one clock of all processes. One round trip."""
    on_sqlite = connection.dialect.name == "sqlite"
    clock = func.strftime("%Y-%m-%d %H:%M:%f", "now") if on_sqlite else func.clock_timestamp()
    return connection.execute(select(type_coerce(clock, UtcDateTime))).scalar_one()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection for reading only, which on SQLite does not wait for the writer."""
    with engine.connect().execution_options(read_only=True) as connection:
        yield connection


def check_reachable(engine: Engine) -> None:
    """Return when the database answers.

    Raises DatabaseUnavailableError.
    """
    try:
        with reading(engine) as connection:
            connection.execute(select(1))
    except DBAPIError as error:
        hint = "; set DATABASE_URL, or have adjourn migrate make this one" if engine.dialect.name == "sqlite" else ""
        raise DatabaseUnavailableError(
            f"cannot use the database at {shown_url(engine.url)}: {first_line(error)}{hint}"
        ) from None


def check_database(engine: Engine) -> None:
    """Return when the database answers and has the tables of this version, or those of a later one.

    Raises DatabaseUnavailableError or DatabaseNotMigratedError, each in one line.
    """
    from services import migrations  # noqa: PLC0415 - Alembic is slow to import

    check_reachable(engine)
    shown = shown_url(engine.url)
    with reading(engine) as connection:
        tables = set(inspect(connection).get_table_names())
        installed = migrations.installed_revision(connection)
        if migrations.is_foreign(connection):
            raise DatabaseNotMigratedError(migrations.foreign_table(connection))
    if installed is None or not {"conversations", "conversation_events"} <= tables:
        raise DatabaseNotMigratedError(f"the database at {shown} has no Adjourn tables; run: adjourn migrate")
    revisions = migrations.known_revisions()
    if installed in revisions[1:]:
        raise DatabaseNotMigratedError(
            f"the database at {shown} is at revision {installed}, this version needs {revisions[0]}; "
            "run: adjourn migrate"
        )


def _leave_out_details(context: ExceptionContext) -> None:
    """Cut PostgreSQL's DETAIL, which quotes the row, from what the error says of itself: it ends up in logs.

    It is still in ``error.orig.diag``.
    """
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None:
            error.args = tuple(_DETAIL.sub("", said) if isinstance(said, str) else said for said in error.args)


def _say_why_untrusted(context: ExceptionContext) -> None:
    if context.engine is not None and context.connection is None and UNTRUSTED in str(context.original_exception):
        reason = reason_of_distrust(context.engine.url, timeout=CONNECT_TIMEOUT)
        for error in (context.original_exception, context.sqlalchemy_exception):
            if error is not None and reason is not None:
                told = f"{UNTRUSTED}: {reason}"
                error.args = tuple(
                    said.replace(UNTRUSTED, told) if isinstance(said, str) else said for said in error.args
                )


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise OperationalError(
            "connect", {}, sqlite3.OperationalError(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 is needed")
        )
    # The driver's own BEGIN is deferred and late: two writers that had read first would fail instead of waiting.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

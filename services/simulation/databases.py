"""The database of a simulation, its own: temporary files, a schema made for it, or a file without conversations.

Nothing that was there before is touched.
"""

import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, event

from services.database import create_database_engine
from services.errors import InvalidValueError
from services.migrations import VERSION_TABLE

_TABLES = ("set_aside_conversations", "latest_conversations", "conversation_events", "conversations", VERSION_TABLE)


@contextmanager
def temporary_databases(count: int) -> Iterator[list[Path]]:
    """Give the paths of ``count`` SQLite files that do not exist yet, and are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="adjourn-simulation-") as directory:
        yield [Path(directory, f"simulation-{number}.db") for number in range(count)]


@contextmanager
def own_database(url: URL) -> Iterator[tuple[Engine, Callable[[], None]]]:
    """Give an engine on a database that is given, in what is the simulation's own, and how to undo a failed replay."""
    if url.get_backend_name() == "postgresql":
        with _postgresql_schema(url) as engine:
            yield engine, _nothing
        return
    path = _sqlite_path(url)
    tables = _tables_of(path)
    if tables & set(_TABLES):
        raise InvalidValueError(
            f"{path} has conversations, and a simulation touches none; give a SQLite file that does not exist yet"
        )
    with sqlite_engine(path) as engine:
        yield engine, partial(_clear, path) if tables else partial(_remove, path)


def _nothing() -> None:
    """Undo nothing: the schema goes anyway."""


@contextmanager
def sqlite_engine(path: Path) -> Iterator[Engine]:
    """Give an engine on a SQLite file."""
    engine = create_database_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _trust_the_machine)
    try:
        yield engine
    finally:
        engine.dispose()


def _trust_the_machine(connection: sqlite3.Connection, _record: Any) -> None:
    # A simulation that a power cut ends is run again.
    connection.execute("PRAGMA synchronous = OFF")


@contextmanager
def _postgresql_schema(url: URL) -> Iterator[Engine]:
    schema = f"adjourn_simulation_{uuid.uuid4().hex}"
    outside = create_database_engine(url)
    engine = create_database_engine(url)

    def stay_inside(connection: Connection) -> None:
        # For each transaction, not for each connection: behind a pooler those are not the same, and the tables of the
        # same name outside must stay out of reach.
        connection.exec_driver_sql(f"SET LOCAL search_path TO {schema}")

    event.listen(engine, "begin", stay_inside)
    try:
        with outside.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        try:
            yield engine
        finally:
            engine.dispose()
            with outside.begin() as connection:
                connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    finally:
        outside.dispose()


def _sqlite_path(url: URL) -> Path:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise InvalidValueError(f"{url.render_as_string()} names no file; write it like sqlite:///simulation.db")
    return Path(url.database).absolute()


def _tables_of(path: Path) -> set[str]:
    """Return the names of a SQLite file's tables, without changing a byte of it."""
    if not path.exists():
        return set()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise InvalidValueError(
            f"{path} cannot be used as a SQLite file: {error}; give one that does not exist yet"
        ) from None


def _clear(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for table in _TABLES:
            connection.execute(f"DROP TABLE IF EXISTS {table}")


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)

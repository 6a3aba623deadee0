"""Loaded databases, each made once a run: the templates that are copied for each measurement."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.postgresql import GIB, ask, connect
from benchmarks.rows import Shape, load_rows
from services import migrations
from services.database import create_database_engine, current_time, reading

#: What a row, its event and their places in the indexes take, in bytes.
ROW_BYTES = 1_000
#: Of log that a private server may keep, at most.
LOG_BYTES = 16 * GIB

#: Each index, and its table where it is that of the primary key.
_INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), CASE WHEN indisprimary THEN indrelid::regclass::text END
FROM pg_index WHERE indrelid IN ('conversations'::regclass, 'conversation_events'::regclass)
"""
#: What a trigger would have kept row by row.
_LATEST = """
INSERT INTO latest_conversations (session_key, conv_id, opened_at)
SELECT DISTINCT ON (session_key) session_key, conv_id, created_at FROM conversations
ORDER BY session_key, created_at DESC
"""


@contextmanager
def loaded_postgresql(bench: Bench, shape: Shape) -> Iterator[str]:
    """Yield the URL of a fresh database with the rows of ``shape``."""
    if shape not in bench.templates:
        require_space(shape.rows)
        bench.templates[shape] = _load_template(bench, shape)
    with bench.postgresql.copy(bench.templates[shape]) as url:
        yield url


@contextmanager
def loaded_sqlite(bench: Bench, shape: Shape) -> Iterator[str]:
    """Yield the URL of a fresh SQLite file with the rows of ``shape``."""
    template = bench.directory / f"{hash(shape):x}.db"
    if not template.exists():
        engine = create_database_engine(f"sqlite:///{template}")
        began = time.perf_counter()
        with bench.doing(f"loading {shape.rows:,} rows into SQLite"):
            migrations.upgrade(engine)
            load_rows(engine, shape, base=database_time(f"sqlite:///{template}"))
            with engine.begin() as connection:
                connection.exec_driver_sql("ANALYZE")
        with engine.connect().execution_options(read_only=True) as connection:
            connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
        engine.dispose()
        bench.say(f"loaded {shape.rows:,} rows into SQLite in {time.perf_counter() - began:.1f} s")
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        copy = Path(directory) / "adjourn.db"
        shutil.copy(template, copy)
        yield f"sqlite:///{copy}"


def database_time(url: str) -> datetime:
    """Return the time of a database."""
    engine = create_database_engine(url)
    with reading(engine) as connection:
        now = current_time(connection)
    engine.dispose()
    return now


def require_space(rows: int) -> None:
    """Return when there is room for ``rows`` twice, and for the log.

    Raises BenchmarkError.
    """
    needed = 2 * rows * ROW_BYTES + min(LOG_BYTES, rows * ROW_BYTES * 4)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise BenchmarkError(
            f"{rows:,} rows need {needed / GIB:.1f} GiB in {tempfile.gettempdir()}, where {free / GIB:.1f} are free; "
            "take a smaller SIZE, or set TMPDIR"
        )


def _load_template(bench: Bench, shape: Shape) -> str:
    name = bench.postgresql.create_migrated()
    url = bench.postgresql.url(name)
    engine = create_database_engine(url)
    began = time.perf_counter()
    with connect(url) as connection, bench.doing(f"loading {shape.rows:,} rows") as show:
        indexes = connection.execute(_INDEXES).fetchall()
        for index, _, table in indexes:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {index}" if table else f"DROP INDEX {index}")
        connection.execute("ALTER TABLE conversations DISABLE TRIGGER conversations_keep_latest")
        load_rows(
            engine,
            shape,
            base=database_time(url),
            progress=lambda done: show(f"loading {shape.rows:,} rows: {done:,}"),
        )
        connection.execute("ALTER TABLE conversations ENABLE TRIGGER conversations_keep_latest")
        show(f"making the indexes of {shape.rows:,} rows")
        connection.execute(_LATEST)
        for index, definition, table in indexes:
            connection.execute(definition)
            if table:
                connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {index} PRIMARY KEY USING INDEX {index}")
        connection.execute("VACUUM (ANALYZE) conversations, conversation_events, latest_conversations")
        connection.execute("CHECKPOINT")
        size = ask(connection, "SELECT pg_size_pretty(pg_database_size(current_database()))")
    engine.dispose()
    bench.say(f"loaded {shape.rows:,} rows, {shape.due:,} of them due, in {time.perf_counter() - began:.1f} s: {size}")
    return name

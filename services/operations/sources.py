"""The two that a person's look at the state asks: Redis and the database. Each keeps its connection between looks.

SQLAlchemy is imported when the database is asked: other commands need none.
"""

# ruff: noqa: PLC0415 - see above

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from services.backlog import Backlog
from services.cluster.state import Status
from services.cluster.status import read_status
from services.errors import (
    DatabaseNotMigratedError,
    DatabaseUnavailableError,
    RedisUnavailableError,
    first_line,
    without_password,
)
from services.operations.asking import connect_to_ask, redis_url_to_ask
from services.redis_client import ANSWER_TIMEOUT
from services.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError


class RedisSource:
    """Tells what Redis has."""

    name = "Redis"
    #: In seconds: to connect and to answer takes no longer, unless several sentinels are silent.
    limit = 2 * ANSWER_TIMEOUT

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: redis.Redis | None = None
        self._url = redis_url_to_ask(settings)

    @property
    def shown_url(self) -> str:
        """Where it was asked, without a password."""
        return without_password(self._url)

    def ask(self) -> Status:
        """Return the state.

        Raises RedisUnavailableError.
        """
        url = redis_url_to_ask(self._settings)
        # A private Redis comes and goes with its run.
        if self._client is None or url != self._url:
            self.close()
            self._url = url
            self._client = connect_to_ask(self._settings)
        try:
            return read_status(client=self._client)
        except (redis.RedisError, OSError) as error:
            self.close()
            raise RedisUnavailableError.at(url, error) from None

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None


class DatabaseSource:
    """Tells what the database has: how much is due."""

    name = "the database"
    #: In seconds: 5 to connect, 2 to measure, and one more.
    limit = 8.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    @property
    def shown_url(self) -> str:
        """Where it is asked, without a password."""
        from services.database_url import shown_url

        return shown_url(self._settings.database)

    def ask(self) -> Backlog | None:
        """Return how much is due; None when the embedded database has not been made yet.

        Raises DatabaseUnavailableError or DatabaseNotMigratedError.
        """
        from sqlalchemy.exc import DBAPIError

        from services.monitoring.backlog_measurement import measure_backlog

        if self._is_missing():
            if self._settings.database_url is None:
                return None
            raise DatabaseUnavailableError(f"there is no database at {self.shown_url}; adjourn migrate makes it")
        engine = self._engine = self._engine or self._create_engine()
        try:
            return measure_backlog(engine)
        except DBAPIError as error:
            raise self._explained(error, engine) from None

    def close(self) -> None:
        """Close the connection."""
        if self._engine is not None:
            self._engine.dispose()

    def _is_missing(self) -> bool:
        """Return whether it is a file that is not there, which to open would make."""
        url = self._settings.database
        path = url.database or ""
        return url.get_backend_name() == "sqlite" and not path.startswith("file:") and not Path(path).exists()

    def _create_engine(self) -> "Engine":
        from sqlalchemy import NullPool

        from services.database import create_database_engine

        url = self._settings.database
        # A file may be replaced by another of its name; to open it costs nothing.
        if url.get_backend_name() == "sqlite":
            return create_database_engine(url, poolclass=NullPool)
        return create_database_engine(url, pool_size=1)

    def _explained(self, error: "DBAPIError", engine: "Engine") -> DatabaseUnavailableError | DatabaseNotMigratedError:
        from sqlalchemy.exc import DBAPIError, ProgrammingError

        from services.database import check_database

        if isinstance(error, ProgrammingError) or engine.dialect.name == "sqlite":
            try:
                with suppress(DatabaseUnavailableError, DBAPIError):  # something else is wrong
                    check_database(engine)
            except DatabaseNotMigratedError as not_migrated:
                return not_migrated
        return DatabaseUnavailableError(f"cannot use the database at {self.shown_url}: {first_line(error)}")

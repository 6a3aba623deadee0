"""The session that all of an adoption is done in: one connection, alone, as the owner of the table."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import URL, Connection, NullPool, func, select, text
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from services.adoption.limits import lift_time_limits
from services.adoption.look import require_postgresql
from services.adoption.stopped import AdoptionStoppedError
from services.database import check_reachable, create_database_engine
from services.errors import InvalidValueError, first_line

#: The advisory lock of whoever adopts: "adopting" in ASCII.
_LOCK = int.from_bytes(b"adopting")
#: Whoever may not, may look.
_BE_THE_OWNER = text("""
SELECT set_config('role', pg_get_userbyid(relowner)::text, false) FROM pg_class
WHERE oid = to_regclass('conversations')
AND pg_has_role(relowner, 'USAGE') AND pg_get_userbyid(relowner) <> current_user
""")


@contextmanager
def connected(url: URL) -> Iterator[Connection]:
    """Yield the one connection that all of an adoption goes over, so that its lock is gone when its work is.

    Raises DatabaseUnavailableError.
    """
    # Names and statuses are read whatever the database calls its own encoding.
    reading_text = {"client_encoding": "utf8"} if url.get_backend_name() == "postgresql" else {}
    engine = create_database_engine(url.update_query_dict(reading_text), poolclass=NullPool)
    check_reachable(engine)
    with engine.connect() as connection:
        yield connection


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Hold the lock of whoever adopts or undoes it, without limits of time.

    Raises InvalidValueError on another database than PostgreSQL and behind a pooler, AdoptionStoppedError when somebody
    else holds the lock.
    """
    require_postgresql(connection)
    _require_session(connection)
    with connection.begin():
        lift_time_limits(connection, locally=False)
        # An instant without time zone is in UTC.
        connection.exec_driver_sql("SET TIME ZONE 'UTC'")
        is_mine = connection.execute(select(func.pg_try_advisory_lock(_LOCK))).scalar_one()
    if not is_mine:
        raise AdoptionStoppedError("another adjourn adopt is at work on this database; wait for its end")
    try:
        yield
    finally:
        # With the connection goes the lock, but not before the server has noticed: whoever undoes what was just adopted
        # need not wait for that.
        with suppress(SQLAlchemyError):
            connection.rollback()
            with connection.begin():
                connection.execute(select(func.pg_advisory_unlock(_LOCK)))
        connection.invalidate()


def _require_session(connection: Connection) -> None:
    """Raise InvalidValueError behind a pooler, where the next transaction may meet another process of the server's."""
    with connection.begin():
        pid = connection.execute(select(func.pg_backend_pid())).scalar_one()
    if server_process(connection) != pid:
        raise InvalidValueError(
            "adopt: there is a pooler between this and the database; give DATABASE_URL the database's own address: the "
            "lock that keeps a second adoption away is one of the session"
        )


def server_process(connection: Connection) -> int:
    """Return the id of the server's process, as was told when it connected: a pooler tells one of its own making."""
    driver: Any = connection.connection.driver_connection
    return int(driver.info.backend_pid)


def become_owner(connection: Connection) -> None:
    """Go on as the owner of the table, where the role may, so that all that is made is the owner's.

    Else neither the platform nor workers could use it. Raises AdoptionStoppedError where the role has the owner's
    rights, but may not take its place.
    """
    try:
        with connection.begin():
            connection.execute(_BE_THE_OWNER)
    except ProgrammingError as error:
        raise AdoptionStoppedError(
            f"what is made has to belong to the owner of conversations: {first_line(error)}; connect as the owner"
        ) from None

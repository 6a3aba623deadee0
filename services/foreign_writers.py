"""Triggers for writers that do not know of Adjourn: they fill in what those leave out, and record what they do.

A platform's own programs write plain SQL to ``conversations`` and know of ``updated_at``, ``expires_at`` and ``status``
only. With these triggers that is enough: deadlines follow the activity, and each change of status has its event. For
the services they change nothing: those give every column and write their own events. PostgreSQL only.
"""

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, Dialect, text

from models.conversation import ACTIVE_SQL, ENDED_SQL
from services.database import set_locally
from services.errors import InvalidValueError
from services.foreign_writers_functions import (
    COMPLETE_CONVERSATION,
    FUNCTIONS,
    RECORD_CHANGE,
    function_statements,
)
from services.migrations import wait_for_other_migrations
from services.timeouts import Timeouts

#: How long to wait for those who hold the table, because everybody else waits behind who waits for this.
_LOCK_TIMEOUT = "2s"

#: What Adjourn needs and another writer may leave out; NULL is left out.
_NEEDED = ("conv_id", "session_key", "status", "metadata", "created_at", "updated_at", "idle_at", "expires_at")
_LEFT_OUT = " OR ".join([*(f"NEW.{column} IS NULL" for column in _NEEDED), f"NEW.ended_at IS NULL AND NEW.{ENDED_SQL}"])
#: By the value, not by what the statement names: those who save a whole row name ``idle_at`` and mean nothing by it.
_ACTIVITY = f"NEW.updated_at <> OLD.updated_at AND NEW.idle_at = OLD.idle_at AND NEW.{ACTIVE_SQL}"
#: While a table is being adopted; from then on it is refused.
_REOPENING = f"OLD.{ENDED_SQL} AND NEW.{ACTIVE_SQL}"
#: Between statuses of ours: while a table is being adopted it may have others, for which the record has no name.
_RECORDED = f"(OLD.{ACTIVE_SQL} OR OLD.{ENDED_SQL}) AND (NEW.{ACTIVE_SQL} OR NEW.{ENDED_SQL})"
#: A sweep says that it writes its events, in a setting of its transaction's, instead of being asked for each row.
_UNRECORDED = (
    f"NEW.status <> OLD.status AND current_setting('adjourn.writes_events', true) IS DISTINCT FROM 'on' AND {_RECORDED}"
)


@dataclass(frozen=True, slots=True)
class _Trigger:
    name: str
    #: At which change of a row.
    at: str
    #: Without it, the function is not even called.
    condition: str
    function: str

    def statement(self, schema: str) -> str:
        return (
            f"CREATE OR REPLACE TRIGGER {self.name} {self.at} ON {schema}.conversations FOR EACH ROW "
            f"WHEN ({self.condition}) EXECUTE FUNCTION {schema}.{self.function}()"
        )

    def comment(self, schema: str) -> str:
        """Return what tells this definition from others: PostgreSQL does not keep it as it was written."""
        digest = hashlib.sha256(self.statement(schema).encode()).hexdigest()
        return f"Adjourn, for writers that do not know of it ({digest[:16]})"


#: They fire in the order of their names: last, so that they see what the platform's own have set.
_TRIGGERS = (
    _Trigger("zz_adjourn_opening", "BEFORE INSERT", _LEFT_OUT, COMPLETE_CONVERSATION),
    _Trigger(
        "zz_adjourn_activity", "BEFORE UPDATE", f"{_LEFT_OUT} OR {_ACTIVITY} OR {_REOPENING}", COMPLETE_CONVERSATION
    ),
    _Trigger("zz_adjourn_record", "AFTER UPDATE", _UNRECORDED, RECORD_CHANGE),
)


def require_postgresql(dialect: Dialect) -> None:
    """Return where the triggers can be had.

    Raises InvalidValueError on SQLite.
    """
    if dialect.name != "postgresql":
        raise InvalidValueError("triggers for other writers are there for PostgreSQL only, and this database is SQLite")


def install(connection: Connection, *, timeouts: Timeouts) -> None:
    """Put the triggers on ``conversations``, in the caller's transaction, or bring those that are there up to date.

    ``timeouts`` are for rows that come without deadlines. Where the triggers are as they should be, only the functions
    are replaced, and nobody waits. Else it waits for those who hold the table, for two seconds at most.

    Raises InvalidValueError on SQLite and where the tables are missing, OperationalError without the lock.
    """
    schema = _schema_of_the_tables(connection)
    wait_for_other_migrations(connection)
    for statement in function_statements(schema, timeouts):
        _execute(connection, statement)
    installed = _installed(connection)
    differing = [trigger for trigger in _TRIGGERS if installed.get(trigger.name) != trigger.comment(schema)]
    if differing:
        set_locally(connection, lock_timeout=_LOCK_TIMEOUT)
    for trigger in differing:
        _execute(connection, trigger.statement(schema))
        comment = f"COMMENT ON TRIGGER {trigger.name} ON {schema}.conversations IS '{trigger.comment(schema)}'"
        _execute(connection, comment)


def remove(connection: Connection) -> None:
    """Take the triggers and their functions away, in the caller's transaction, where there are any.

    Raises InvalidValueError on SQLite and where the tables are missing, OperationalError when others hold the table for
    more than two seconds.
    """
    schema = _schema_of_the_tables(connection)
    wait_for_other_migrations(connection)
    set_locally(connection, lock_timeout=_LOCK_TIMEOUT)
    for trigger in _TRIGGERS:
        _execute(connection, f"DROP TRIGGER IF EXISTS {trigger.name} ON {schema}.conversations")
    for function in FUNCTIONS:
        _execute(connection, f"DROP FUNCTION IF EXISTS {schema}.{function}")


def is_installed(connection: Connection) -> bool:
    """Return whether all the triggers are there and enabled, whichever their timeouts."""
    if connection.dialect.name == "sqlite":
        return False
    return _installed(connection).keys() >= {trigger.name for trigger in _TRIGGERS}


def _schema_of_the_tables(connection: Connection) -> str:
    """Return the name of the schema that has the tables, quoted where it must be."""
    require_postgresql(connection.dialect)
    query = """
        SELECT relnamespace::regnamespace::text AS schema FROM pg_class
        WHERE oid = to_regclass('conversations')
        AND to_regclass(relnamespace::regnamespace::text || '.conversation_events') IS NOT NULL
    """
    schema = connection.execute(text(query)).scalar_one_or_none()
    if schema is None:
        raise InvalidValueError("triggers for other writers: there are no tables to put them on; run: adjourn migrate")
    return str(schema)


def _installed(connection: Connection) -> dict[str, str | None]:
    """Return the comments on the triggers that are enabled, by name."""
    query = """
        SELECT tgname, obj_description(oid, 'pg_trigger') FROM pg_trigger
        WHERE tgrelid = to_regclass('conversations') AND NOT tgisinternal AND tgenabled <> 'D'
    """
    return {str(name): comment for name, comment in connection.execute(text(query))}


def _execute(connection: Connection, statement: str) -> None:
    # As it is: what may look like a parameter is text, or part of the schema's name.
    connection.exec_driver_sql(statement.replace("%", "%%"))

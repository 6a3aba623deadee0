"""The database's tables, made and unmade by Alembic without a file of its own to find."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, func, select

from services.errors import InvalidValueError

#: The advisory lock of migrations: "adjourn" in ASCII.
_LOCK = int.from_bytes(b"adjourn")
_SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to ``revision``, in one transaction.

    Raises InvalidValueError when there is no such revision.
    """
    _migrate(engine, alembic.command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to ``revision`` (``base`` removes them all), in one transaction.

    Raises InvalidValueError when there is no such revision.
    """
    _migrate(engine, alembic.command.downgrade, revision)


def installed_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, None when it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


@cache
def known_revisions() -> list[str]:
    """Return the revisions of this version of Adjourn, the one that it needs first."""
    return [script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()]


def _migrate(engine: Engine, command: Callable[[Config, str], None], revision: str) -> None:
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                # Two that migrate at once: the second waits, and finds it done.
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            command(_config(connection), revision)
    except CommandError as error:
        raise InvalidValueError(f"revision {revision!r}: {error}; give head, base or a revision's number") from None


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config

"""The database's tables, made and unmade by Alembic without a file of its own to find."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from services.errors import InvalidValueError

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
def head_revision() -> str:
    """Return the revision that this version of Adjourn needs."""
    head = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    if head is None:
        raise RuntimeError(f"no migrations in {_SCRIPTS}")
    return head


def _migrate(engine: Engine, command: Callable[[Config, str], None], revision: str) -> None:
    try:
        with engine.begin() as connection:
            command(_config(connection), revision)
    except CommandError as error:
        raise InvalidValueError(f"revision {revision!r}: {error}; give head, base or a revision's number") from None


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config

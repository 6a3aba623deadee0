"""The database's tables, made and unmade by Alembic without a file of its own to find."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, func, inspect, select

from models.errors import shown
from services.database_url import shown_url
from services.errors import InvalidValueError

#: Where the revision stands. Not Alembic's own name for it, which a platform may have for its own revisions.
VERSION_TABLE = "adjourn_version"
#: What an adoption keeps its book in: while it is there, ``conversations`` is the platform's.
ADOPTION_TABLE = "adjourn_adoption"

#: What a revision, or a step from one, may be written with.
_REVISION = re.compile(r"[\w@:+-]{1,60}", re.ASCII)
#: The advisory lock of migrations: "adjourn" in ASCII.
_LOCK = int.from_bytes(b"adjourn")
_SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to ``revision``, in one transaction.

    Raises InvalidValueError when there is no such revision, or a table ``conversations`` that Adjourn did not make.
    """
    with engine.begin() as connection:
        wait_for_other_migrations(connection)
        if is_foreign(connection):
            raise InvalidValueError(foreign_table(connection))
        _run(connection, alembic.command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to ``revision`` (``base`` removes them all), in one transaction.

    Raises InvalidValueError when there is no such revision, or when it would remove a table that was adopted.
    """
    with engine.begin() as connection:
        wait_for_other_migrations(connection)
        # Each revision by its number leaves the table.
        if revision not in known_revisions() and inspect(connection).has_table(ADOPTION_TABLE):
            raise InvalidValueError(
                f"revision {revision!r}: conversations was adopted and is not Adjourn's to drop; "
                "give it back with: adjourn adopt --undo"
            )
        _run(connection, alembic.command.downgrade, revision)


def stamp(connection: Connection) -> None:
    """Note, in the caller's transaction, that the tables are those of this version, without running a revision."""
    _run(connection, alembic.command.stamp, "head")


def installed_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, None when it was never migrated."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def is_foreign(connection: Connection) -> bool:
    """Return whether there is a table ``conversations`` that no revision made and no adoption has finished with."""
    return inspect(connection).has_table("conversations") and installed_revision(connection) is None


def foreign_table(connection: Connection) -> str:
    """Return what to say where ``is_foreign``, in one line."""
    found = f"the database at {shown_url(connection.engine.url)} has a table conversations that Adjourn did not make"
    if connection.dialect.name == "sqlite":
        return f"{found}; give it another one"
    if inspect(connection).has_table(ADOPTION_TABLE):
        return f"{found} and has not adopted to the end; run: adjourn adopt"
    return f"{found}; see what adopting it would do with: adjourn adopt --check"


@cache
def known_revisions() -> list[str]:
    """Return the revisions of this version of Adjourn, the one that it needs first."""
    return [script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()]


def wait_for_other_migrations(connection: Connection) -> None:
    """Have two that change the tables at once go one after the other; until the end of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _run(connection: Connection, command: Callable[[Config, str], None], revision: str) -> None:
    advice = "give head, base or a revision's number"
    if not _REVISION.fullmatch(revision):
        raise InvalidValueError(f"revision {shown(revision)}: it can be none; {advice}")
    try:
        command(_config(connection), revision)
    except AssertionError:
        # How Alembic takes some texts that look like one, such as head+1.
        raise InvalidValueError(f"revision {revision!r}: it can be none; {advice}") from None
    except CommandError as error:
        raise InvalidValueError(f"revision {revision!r}: {error}; {advice}") from None


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    return config

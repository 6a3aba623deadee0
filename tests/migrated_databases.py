"""Migrated PostgreSQL databases for tests: emptied and used again when a test has left the schema as it was.

To copy a template takes the server longer than most tests take.
"""

import itertools
import os
from contextlib import suppress

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from services import migrations
from services.database import create_database_engine
from tests.plain_sql import connect

_numbers = itertools.count()
#: Which changes of the schema, of statistics and of settings a database has seen: each writes rows of these catalogs.
_STATE = """
    SELECT (SELECT sum(xmin::text::bigint) FROM pg_class), (SELECT sum(xmin::text::bigint) FROM pg_attribute),
        (SELECT sum(xmin::text::bigint) FROM pg_constraint), (SELECT sum(xmin::text::bigint) FROM pg_trigger),
        (SELECT sum(xmin::text::bigint) FROM pg_proc), (SELECT sum(xmin::text::bigint) FROM pg_namespace),
        (SELECT sum(xmin::text::bigint) FROM pg_type), (SELECT sum(xmin::text::bigint) FROM pg_policy),
        (SELECT sum(xmin::text::bigint) FROM pg_event_trigger), (SELECT sum(xmin::text::bigint) FROM pg_statistic),
        (SELECT sum(xmin::text::bigint) FROM pg_rewrite), (SELECT sum(xmin::text::bigint) FROM pg_publication),
        (SELECT count(*) FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
            WHERE d.datname = current_database()),
        (SELECT string_agg(version_num, ',') FROM adjourn_version)
"""
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_EMPTY = "TRUNCATE conversations, conversation_events, latest_conversations, set_aside_conversations RESTART IDENTITY"


def url_of(server: str, name: str) -> str:
    """Return the URL of a database of ``server``."""
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def create_database(server: str, *, template: str = "template1") -> str:
    """Make a database of a name of its own, and return its name."""
    name = f"adjourn_test_{os.getpid()}_{next(_numbers)}"
    with connect(server) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return name


def drop_database(server: str, name: str) -> None:
    """Drop a database, whoever is connected to it."""
    with connect(server) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class MigratedDatabases:
    """Migrated databases without rows on a server, for one test at a time each."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._template = create_database(server)
        engine = create_database_engine(url_of(server, self._template))
        migrations.upgrade(engine)
        engine.dispose()
        #: What is left by tests that are done, with the state of each.
        self._free: list[tuple[str, object]] = []
        self._states: dict[str, object] = {}

    def take(self) -> str:
        """Return the name of a database that nobody uses."""
        if self._free:
            name, self._states[name] = self._free.pop()
            return name
        name = create_database(self._server, template=self._template)
        with connect(url_of(self._server, name)) as connection:
            self._states[name] = connection.execute(_STATE).fetchone()
        return name

    def give_back(self, name: str) -> None:
        """Empty a database for another test; drop it when its schema has changed, or somebody is connected still."""
        before, state = self._states.pop(name), None
        with suppress(psycopg.Error), connect(url_of(self._server, name)) as connection:
            found = connection.execute(_STATE).fetchone()
            if found == before and connection.execute(_OTHERS).fetchone() == (0,):
                connection.execute(_EMPTY)
                state = connection.execute(_STATE).fetchone()
        if state is None:
            drop_database(self._server, name)
        else:
            self._free.append((name, state))

    def drop(self) -> None:
        """Drop the template, and what is left."""
        for name in (self._template, *(name for name, _ in self._free)):
            drop_database(self._server, name)

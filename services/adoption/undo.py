"""Taking an adoption back: what the book says was added goes, the platform's table and its rows stay."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from services import foreign_writers
from services.adoption import locks
from services.adoption.book import BOOK, Added, Book, read_book
from services.adoption.constraints import stand_ins
from services.adoption.facts import Facts, read_facts
from services.adoption.quoting import quote_ident
from services.adoption.session import alone
from services.adoption.step import Choices, Work
from services.adoption.storage import set_key_fillfactor
from services.errors import InvalidValueError
from services.migrations import VERSION_TABLE

#: What stays, because it is the record of what happened.
_RECORD = "conversation_events"


def undo(
    connection: Connection,
    choices: Choices,
    *,
    on_done: Callable[[str], None] = lambda _: None,
    patience: Sequence[float] = locks.PATIENCE,
    pause: float = locks.PAUSE,
) -> None:
    """Remove what the adoption added, but for ``conversation_events``.

    The columns go, too: nobody keeps them from now on, and a later adoption would take them for the platform's own.

    Workers have to be stopped before. It may be cut short at any moment, and be run again.

    Raises InvalidValueError when nothing was adopted, AdoptionStoppedError when a lock is not to be had.
    """
    with alone(connection):
        work = Work(connection, choices, patience, pause)
        book, facts = work.patiently(read_book), work.patiently(read_facts)
        if book is None:
            raise InvalidValueError("adopt --undo: there is no adjourn_adoption here, so nothing was adopted")
        # First of all: a worker that starts now waits.
        work.patiently(lambda connection: connection.exec_driver_sql(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
        on_done("the stamp: workers that start now wait")
        if facts is not None:
            work.briefly(lambda connection: _release(connection, book, facts), mode=locks.ACCESS_EXCLUSIVE)
            on_done("triggers, constraints, columns, latest_conversations and storage parameters")
        with work.outside_transactions() as outside:
            for name in book.names(Added.INDEXES):
                # With its schema: another one in the search path may have an index of that name.
                outside.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {_in_schema_of(facts)}{name}")
        on_done("indexes")
        work.patiently(lambda connection: connection.exec_driver_sql(f"DROP TABLE {BOOK}"))
        on_done("the book, adjourn_adoption")


def _in_schema_of(facts: Facts | None) -> str:
    return "" if facts is None else f"{quote_ident(facts.schema)}."


def _release(connection: Connection, book: Book, facts: Facts) -> None:
    """Remove all that needs the table for itself, in one go: only the catalogs change."""
    # Whoever installed them. They need the record, so without it there are none.
    if _RECORD in facts.relations:
        foreign_writers.remove(connection)
    for name in book.names(Added.TRIGGERS):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name} ON conversations")
    for name in book.names(Added.FUNCTIONS):
        connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {name}()")
    added = [name for name in book.names(Added.COLUMNS) if name in facts.columns]
    kept = facts.columns.keys() - added
    clauses = [
        *(f"DROP CONSTRAINT IF EXISTS {name}" for name in [*book.names(Added.CONSTRAINTS), *stand_ins(facts)]),
        *(f"ALTER COLUMN {name} DROP NOT NULL" for name in book.names(Added.NOT_NULLS) if name in kept),
        *(f"ALTER COLUMN {name} DROP DEFAULT" for name in book.names(Added.DEFAULTS) if name in kept),
        *(f"DROP COLUMN {name}" for name in added),
        *(f"RESET ({name})" for name, before in book.storage.items() if before is None),
        *(f"SET ({name} = {before})" for name, before in book.storage.items() if before is not None),
    ]
    if clauses:
        connection.exec_driver_sql(f"ALTER TABLE conversations {', '.join(clauses)}")
    if book.storage and facts.key_index is not None:
        set_key_fillfactor(connection, facts.key_index, book.key_fillfactor)
    for name in book.names(Added.TABLES):
        if name != _RECORD:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")

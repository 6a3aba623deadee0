"""Taking an adoption back: what the book says was added goes, the platform's table and its rows stay."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from services import foreign_writers
from services.adoption import locks
from services.adoption.adopt import alone
from services.adoption.book import BOOK, Added, Book, read_book
from services.adoption.constraints import stand_ins
from services.adoption.facts import Facts, read_facts
from services.adoption.shape import FOR_WRITERS
from services.adoption.step import Choices, Work
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
    """Remove what the adoption added, but for columns, which stay and may be NULL, and ``conversation_events``.

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
            on_done("triggers, constraints, NOT NULLs, latest_conversations and storage parameters")
        with work.outside_transactions() as outside:
            for name in book.names(Added.INDEXES):
                outside.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        on_done("indexes")
        work.patiently(lambda connection: connection.exec_driver_sql(f"DROP TABLE {BOOK}"))
        on_done("the book, adjourn_adoption")


def _release(connection: Connection, book: Book, facts: Facts) -> None:
    """Remove all that needs the table for itself, in one go: only the catalogs change."""
    if book.has(Added.PARTS, FOR_WRITERS):
        foreign_writers.remove(connection)
    for name in book.names(Added.TRIGGERS):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name} ON conversations")
    for name in book.names(Added.FUNCTIONS):
        connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {name}()")
    clauses = [
        *(f"DROP CONSTRAINT IF EXISTS {name}" for name in [*book.names(Added.CONSTRAINTS), *stand_ins(facts)]),
        *(f"ALTER COLUMN {name} DROP NOT NULL" for name in book.names(Added.NOT_NULLS) if name in facts.columns),
        *(f"ALTER COLUMN {name} DROP DEFAULT" for name in book.names(Added.DEFAULTS) if name in facts.columns),
        *(f"RESET ({name})" for name, before in book.storage.items() if before is None),
        *(f"SET ({name} = {before})" for name, before in book.storage.items() if before is not None),
    ]
    if clauses:
        connection.exec_driver_sql(f"ALTER TABLE conversations {', '.join(clauses)}")
    if book.storage and facts.key_index is not None:
        before = book.key_fillfactor
        clause = "RESET (fillfactor)" if before is None else f"SET (fillfactor = {before})"
        connection.exec_driver_sql(f'ALTER INDEX "{facts.key_index}" {clause}')
    for name in book.names(Added.TABLES):
        if name != _RECORD:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")

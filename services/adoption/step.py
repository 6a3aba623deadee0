"""What a step of the adoption is, and what it works with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from sqlalchemy import Connection

from services.adoption import locks
from services.adoption.book import Book, read_book
from services.adoption.duplicates import Duplicate
from services.adoption.facts import Facts, read_facts
from services.adoption.rows import Overdue, Rows
from services.adoption.stopped import AdoptionStoppedError
from services.timeouts import Timeouts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choices:
    """What whoever adopts has chosen."""

    #: For rows without deadlines, and for the writers' triggers.
    timeouts: Timeouts
    #: Whether the triggers keep ``idle_at`` for writers that do not know of it; else the application does.
    foreign_writers: bool = True
    #: What becomes of conversations that are overdue; None: not chosen.
    overdue: Literal["end", "leave"] | None = None
    close_duplicates: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a look found, nothing being changed."""

    now: datetime
    choices: Choices
    facts: Facts
    book: Book | None
    #: The revision of Adjourn's tables; None: not stamped.
    revision: str | None
    has_writers_triggers: bool
    #: The rows, their duplicates and what is overdue; None where the table's shape is in the way.
    rows: Rows | None
    duplicates: Sequence[Duplicate] | None
    overdue: Overdue | None


@dataclass(frozen=True, slots=True)
class Work:
    """The connection that an adoption works on, one transaction after the other."""

    connection: Connection
    choices: Choices
    #: See ``services.adoption.locks``.
    patience: Sequence[float] = locks.PATIENCE
    pause: float = locks.PAUSE

    def briefly(self, act: Callable[[Connection], T], *, mode: str | None = None) -> T:
        """Do ``act`` in a transaction that waits for no lock for long; see ``locks.briefly``."""
        return locks.briefly(self.connection, act, mode=mode, patience=self.patience, pause=self.pause)

    def patiently(self, act: Callable[[Connection], T]) -> T:
        """Do ``act`` in a transaction whose locks hold up nobody, however long it waits for them."""
        with self.connection.begin():
            return act(self.connection)

    @contextmanager
    def outside_transactions(self) -> Iterator[Connection]:
        """Yield the connection for statements that PostgreSQL takes outside of transactions only."""
        self.connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield self.connection
        finally:
            self.connection.rollback()
            self.connection.execution_options(isolation_level="READ COMMITTED")

    def facts(self) -> Facts:
        """Return what the catalogs say now.

        Raises AdoptionStoppedError when the table is gone.
        """
        facts = self.patiently(read_facts)
        if facts is None:
            raise AdoptionStoppedError("conversations is gone: somebody dropped or renamed it meanwhile")
        return facts

    def book(self) -> Book:
        """Return the book.

        Raises AdoptionStoppedError when it is gone.
        """
        book = self.patiently(read_book)
        if book is None:
            raise AdoptionStoppedError("adjourn_adoption is gone: somebody dropped it meanwhile")
        return book


@dataclass(frozen=True, slots=True)
class Step:
    """One step. It finds out by itself whether it is done, so that it can be run again whenever it was cut short."""

    name: str
    #: What it locks, and for how long.
    lock: str
    #: What is to be done, going by what a look found; None when it is done.
    to_do: Callable[[Found], str | None]
    #: Do it; returns what was done, None when nothing was to be done. Raises AdoptionStoppedError.
    run: Callable[[Work], str | None]

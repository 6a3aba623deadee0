"""Read the record of endings from where one left off, without leaving any out.

The numbers of events are given when they are written, and seen when their transaction commits: 8 may be there before 7.
Whoever remembers 8 and asks for what comes after it never sees 7. So a reader takes events up to a number only once
every transaction that was writing events when it saw that number is over.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text
from sqlmodel import Session, col

from models.event import ConversationEvent, conversation_events
from services.arguments import LONGEST_PAGE, require_size

_e = conversation_events.c

_LAST = select(func.coalesce(func.max(_e.event_id), 0))
#: Who writes events: the lock comes before the first number and goes after the commit. A transaction sees its own.
_WRITERS = text("""
SELECT virtualtransaction FROM pg_locks
WHERE relation = 'conversation_events'::regclass AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")


@dataclass(frozen=True, slots=True)
class Endings:
    """What ended, as its events tell it, and how far that is."""

    #: By number, which for one conversation is the order in which they happened.
    events: list[ConversationEvent]
    #: Keep it, in the transaction that acts on the events, and read on ``after`` it. It may move without an event.
    position: int


class EndingReader:
    """Reads what ended, each event once.

    Make one for as long as the process reads: it remembers whom it waits for. Where it stands is the caller's to keep.
    Read in READ COMMITTED, as engines of ``create_database_engine`` are, and from the primary, not from a replica.
    """

    def __init__(self) -> None:
        #: Up to here events are asked for, once ``_awaited`` are over.
        self._bound = 0
        self._awaited: frozenset[str] = frozenset()

    def read(self, session: Session, *, after: int, limit: int = 100) -> Endings:
        """Return the first endings ``after`` a position, which is 0 to begin with the first of all; commit nothing.

        What a transaction that is not over has hidden comes later, and so does everything after it. It costs a look at
        PostgreSQL's locks and at one index.

        Raises InvalidValueError for a ``limit`` that is not from 1 to 10,000.
        """
        require_size("limit", limit, LONGEST_PAGE)
        connection = session.connection()
        if self._awaited:
            self._awaited &= _writers(connection)
        if after >= self._bound and not self._awaited:
            # The number first: who is seen to write afterwards may have written before it, who is not has not.
            self._bound = connection.execute(_LAST).scalar_one()
            self._awaited = _writers(connection)
        if self._awaited:
            return Endings([], after)
        ended = select(ConversationEvent).where(_e.event_id > after, _e.event_id <= self._bound, _e.ended.is_(True))
        events = list(session.scalars(ended.order_by(col(ConversationEvent.event_id)).limit(limit)))
        if len(events) == limit:
            return Endings(events, events[-1].event_id or after)
        return Endings(events, max(after, self._bound))


def _writers(connection: Connection) -> frozenset[str]:
    if connection.dialect.name == "sqlite":  # which has one at a time: numbers are in the order of the commits
        return frozenset()
    return frozenset(connection.execute(_WRITERS).scalars())

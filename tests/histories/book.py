"""The book: each conversation with its events and with what clients were told of it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tests.histories.final import Event, FinalState, Row
from tests.histories.record import Kind, Operation, Outcome

ACTIVE = frozenset({"pending", "progress"})


@dataclass(frozen=True, slots=True)
class Page:
    """One conversation."""

    row: Row
    #: In the order in which they were written.
    events: tuple[Event, ...]
    #: The operations that were answered with it.
    answered: tuple[Operation, ...]

    @property
    def activities(self) -> list[Operation]:
        """The acknowledged messages."""
        return [one for one in self.answered if one.kind is not Kind.CLOSE]

    @property
    def endings(self) -> list[Event]:
        """The events that ended it: one, where all is well."""
        return [event for event in self.events if event.status not in ACTIVE]

    @property
    def deadline(self) -> datetime:
        """The instant from which the row is due."""
        return min(self.row.idle_at, self.row.expires_at)

    @property
    def due_status(self) -> str:
        """The status that the deadline gives it."""
        return "expired" if self.row.expires_at <= self.row.idle_at else "idle_timeout"


@dataclass(frozen=True, slots=True)
class Chapter:
    """One session key."""

    key: str
    #: Its conversations, in the order of their ends; those that are active, last.
    #:
    #: That is the order in which they lived: the next one opens only after the end of the one before is committed, and
    #: events are numbered before they are.
    pages: tuple[Page, ...]
    #: What may have taken effect: all but what was refused.
    operations: tuple[Operation, ...]

    @property
    def unknown(self) -> list[Operation]:
        """Those of which nobody knows whether they took effect."""
        return [one for one in self.operations if one.outcome is Outcome.UNKNOWN]


@dataclass(frozen=True, slots=True)
class Book:
    """Everything, by key."""

    chapters: tuple[Chapter, ...]
    #: Acknowledged with a conversation that is not there.
    homeless: tuple[Operation, ...]
    #: Of conversations that are not there.
    stray_events: tuple[Event, ...]


@dataclass(slots=True)
class _Leaves:
    rows: list[Row] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)


def open_book(operations: Iterable[Operation], final: FinalState) -> Book:
    """Bring together what belongs together."""
    events: defaultdict[str, list[Event]] = defaultdict(list)
    for event in sorted(final.events, key=lambda event: event.event_id):
        events[event.conv_id].append(event)
    keys: defaultdict[str, _Leaves] = defaultdict(_Leaves)
    for row in final.rows:
        keys[row.session_key].rows.append(row)
    key_of = {row.conv_id: row.session_key for row in final.rows}
    answered: defaultdict[str, list[Operation]] = defaultdict(list)
    homeless = []
    for one in operations:
        if one.outcome is Outcome.REFUSED:
            continue
        keys[one.key].operations.append(one)
        if one.answer is not None:
            answered[one.answer.conv_id].append(one)
            if key_of.get(one.answer.conv_id) != one.key:
                homeless.append(one)
    chapters = []
    for key, leaves in keys.items():
        pages = [Page(row, tuple(events[row.conv_id]), tuple(answered[row.conv_id])) for row in leaves.rows]
        chapters.append(Chapter(key, _in_order(pages), tuple(leaves.operations)))
    stray = [event for conv_id, known in events.items() if conv_id not in key_of for event in known]
    return Book(tuple(chapters), tuple(homeless), tuple(stray))


def _in_order(pages: Sequence[Page]) -> tuple[Page, ...]:
    def place(page: Page) -> tuple[float, datetime]:
        ended = page.endings
        return (ended[0].event_id if ended else float("inf")), page.row.created_at

    return tuple(sorted(pages, key=place))

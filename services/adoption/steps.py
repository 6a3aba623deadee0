"""The steps, in their order."""

from sqlalchemy import Connection

from services.adoption.book import enter_adopted
from services.adoption.constraints import CONSTRAINTS
from services.adoption.fill import FILL
from services.adoption.indexes import DUPLICATES, INDEXES
from services.adoption.latest import LATEST
from services.adoption.overdue import OVERDUE
from services.adoption.shape import BOOK, COLUMNS, TABLES, WRITERS
from services.adoption.step import Found, Step, Work
from services.adoption.storage import STORAGE
from services.migrations import installed_revision, known_revisions, stamp


def _stamp_to_do(found: Found) -> str | None:
    return None if found.revision else f"note revision {known_revisions()[0]}, upon which workers begin"


def _stamp(work: Work) -> str | None:
    if work.patiently(installed_revision):
        return None

    def note(connection: Connection) -> None:
        enter_adopted(connection)
        stamp(connection)

    work.patiently(note)
    return f"at revision {known_revisions()[0]}: workers may begin"


STAMP = Step("stamp", "none on your tables", _stamp_to_do, _stamp)

#: Each relies on those before it. The table of events is there before the triggers that write to it; rows are whole
#: before the constraints that ask for it; and the stamp, for which workers wait, is the last.
STEPS = (
    BOOK,
    COLUMNS,
    TABLES,
    WRITERS,
    FILL,
    LATEST,
    DUPLICATES,
    INDEXES,
    CONSTRAINTS,
    STORAGE,
    OVERDUE,
    STAMP,
)

"""What an error of the database means to whoever ends a batch of rows: whose fault it is, and what may help."""

import sqlite3
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError


class Refusal(Enum):
    """What to do about an error."""

    #: It may lie in one of the rows: a constraint, a trigger, a policy, a value that cannot be read.
    ROW = auto()
    #: Another transaction was in the way, and this one had to give way: the same again may succeed at once.
    CONFLICT = auto()
    #: It took longer than it may: it had to wait, or there is too much to do for each row.
    TOO_LONG = auto()
    #: The connection, the server, its resources: the same again, and with fewer rows, would fail.
    OTHER = auto()


#: Classes of PostgreSQL's codes that say nothing of rows, whoever raises them: connection, resources, intervention,
#: system. Its appendix A has them all.
_NOT_OF_ROWS = {"08", "53", "57", "58"}
#: lock_not_available: a row's lock is not waited for.
_LOCKED = "55P03"
#: query_canceled: by statement_timeout, but for a person who cancels it.
_TOO_LONG = "57014"
#: serialization_failure and deadlock_detected.
_CONFLICTS = {"40001", "40P01"}
#: SQLite's primary codes that may come of what triggers and constraints make of a row.
_OF_ROWS_ON_SQLITE = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
}


def refusal_of(error: DBAPIError) -> Refusal:
    """Return what ``error`` means.

    ``ROW`` is what it may be: the code of a missing right is the same for a table of ours as for one that a trigger
    writes to. Whether the statement fails without rows as well tells them apart.
    """
    if isinstance(error.orig, sqlite3.Error):
        # What the driver refuses by itself has no code.
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
        return Refusal.ROW if code & 0xFF in _OF_ROWS_ON_SQLITE else Refusal.OTHER
    code = getattr(error.orig, "sqlstate", None)
    # Without a code nobody answered.
    if code is None:
        return Refusal.OTHER
    if code in _CONFLICTS:
        return Refusal.CONFLICT
    if code == _TOO_LONG:
        return Refusal.TOO_LONG
    return Refusal.OTHER if code == _LOCKED or code[:2] in _NOT_OF_ROWS else Refusal.ROW

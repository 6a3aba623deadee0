"""Many rows changed in short transactions, in the order of the primary key, while others write to them."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from services.adoption.step import Work
from services.database import set_locally

#: How long a transaction of a batch is meant to take, in seconds: what a writer who wants one of its rows waits.
TARGET = 0.1
#: Rows of the first batch, and the least and the most of one.
FIRST, FEWEST, MOST = 500, 50, 5_000
#: Below every other.
START = uuid.UUID(int=0)

#: Rows come in the order of the key, by its index: PostgreSQL cannot tell how many there are of those that are wanted,
#: and might sort the whole table for each batch.
_SETTINGS = dict.fromkeys(("enable_seqscan", "enable_sort", "enable_bitmapscan"), "off")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction did."""

    #: Rows that it changed.
    count: int
    #: The last key that it looked at; None: there is none behind it.
    last: uuid.UUID | None


def walk(work: Work, change: Callable[[Connection, uuid.UUID, int], Batch]) -> int:
    """Call ``change`` with the key to go on behind and how many rows to take, until there are no more.

    Each call is a transaction of its own that waits for no row for long; a batch is as large as the target of time
    allows here and now. Returns how many rows were changed.
    """
    count, after, size = 0, START, FIRST
    while True:
        started = time.monotonic()
        batch = work.briefly(lambda connection, after=after, size=size: _in_order(connection, change, after, size))  # type: ignore[misc]
        count += batch.count
        if batch.last is None:
            return count
        after = batch.last
        # Towards the size that meets the target, not past twice the last one: one slow batch says little.
        fitting = size * TARGET / max(time.monotonic() - started, TARGET / 100)
        size = round(min(max(fitting, size / 2, FEWEST), size * 2, MOST))


def _in_order(
    connection: Connection, change: Callable[[Connection, uuid.UUID, int], Batch], after: uuid.UUID, size: int
) -> Batch:
    set_locally(connection, **_SETTINGS)
    return change(connection, after, size)

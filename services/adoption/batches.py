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
#: The first and the last that there can be.
_FIRST_KEY, _LAST_KEY = uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)

#: Rows come in the order of the key, by its index: PostgreSQL cannot tell how many there are of those that are wanted,
#: and might sort the whole table for each batch. Where a few rows have to be sorted after all, that is taken for so
#: dear that it would be compiled first, each time.
_SETTINGS = dict.fromkeys(("enable_seqscan", "enable_sort", "enable_bitmapscan", "jit"), "off")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction did."""

    #: Rows that it changed.
    count: int
    #: The last key that it looked at; None: there is none behind it.
    last: uuid.UUID | None


def walk(work: Work, change: Callable[[Connection, uuid.UUID, int], Batch]) -> int:
    """Call ``change`` with the key to go on from and how many rows to take, until there are no more.

    Each call is a transaction of its own that waits for no row for long; a batch is as large as the target of time
    allows here and now. Returns how many rows were changed.
    """
    count, start, size = 0, _FIRST_KEY, FIRST
    while True:
        started = time.monotonic()
        batch = work.briefly(lambda connection, start=start, size=size: _in_order(connection, change, start, size))  # type: ignore[misc]
        count += batch.count
        if batch.last is None or batch.last == _LAST_KEY:
            return count
        start = uuid.UUID(int=batch.last.int + 1)
        # Towards the size that meets the target, not past twice the last one: one slow batch says little.
        fitting = size * TARGET / max(time.monotonic() - started, TARGET / 100)
        size = round(min(max(fitting, size / 2, FEWEST), size * 2, MOST))


def _in_order(
    connection: Connection, change: Callable[[Connection, uuid.UUID, int], Batch], start: uuid.UUID, size: int
) -> Batch:
    set_locally(connection, **_SETTINGS)
    return change(connection, start, size)

"""Telling, while an adoption waits for somebody's transaction, whose it is: making an index may wait for hours."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import URL, Connection
from sqlalchemy.exc import SQLAlchemyError

from services.adoption.holders import read_blockers
from services.adoption.session import connected, server_process
from services.errors import AdjournError

#: From one look to the next, in seconds: longer than any wait for a lock that others would queue behind. What is met
#: twice is told.
PERIOD = 5.0
#: From one telling to the next, in seconds.
_AGAIN = 60.0


@contextmanager
def telling_waits(
    url: URL, connection: Connection, tell: Callable[[list[str]], None], *, period: float = PERIOD
) -> Iterator[None]:
    """Have ``tell`` called, in a thread, with whom ``connection`` waits for, if it does for more than a ``period``."""
    pid, is_over = server_process(connection), threading.Event()

    def look() -> None:
        # It only tells: without it the adoption goes on.
        with suppress(SQLAlchemyError, AdjournError), connected(url) as other:
            was_waiting, told_at = False, float("-inf")
            while not is_over.wait(period):
                blockers = read_blockers(other, pid)
                if blockers and was_waiting and time.monotonic() - told_at >= _AGAIN:
                    tell(blockers)
                    told_at = time.monotonic()
                was_waiting = bool(blockers)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()

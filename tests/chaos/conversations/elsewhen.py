"""A stack of a fault's own, whose servers and processes live at another time than the machine.

The one that all other faults share cannot be sent there: a clock that comes back from another year leaves conversations
behind that are due in it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Self

from tests.chaos.conversations.shifted_clock import ShiftedClocks, installed_clocks
from tests.chaos.conversations.stack import LONGEST_DUE, Stack
from tests.histories import record
from tests.histories.check import check
from tests.histories.final import read_database
from tests.histories.findings import Finding

_CLIENTS, _RATE = 4, 60.0


class Elsewhen:
    """The stack, with the clocks that it lives by. What is wrong there is an incident of ``outer``."""

    def __init__(self, outer: Stack, stack: Stack, clocks: ShiftedClocks) -> None:
        self.stack = stack
        self.clocks = clocks
        self._outer = outer

    def now(self) -> datetime:
        """Return what PostgreSQL's clock says."""
        with self.stack.postgres.connect() as connection:
            found = connection.execute("SELECT clock_timestamp()").fetchone()
        assert found is not None
        now: datetime = found[0]
        return now

    def see(self, now: datetime) -> Self:
        """Note it when PostgreSQL's clock does not say so."""
        if abs(self.now() - now) > timedelta(seconds=5):
            self._outer.incidents.append(f"a fault did not come about: PostgreSQL says that it is {self.now()}")
        return self

    def wait_until_well(self, after: str, *, allowed: float = 0.0) -> None:
        """Wait until all is well, and note it when that takes longer than one interval, one batch and ``allowed``."""
        took = self.stack.wait_until_well(after=after)
        if took > self.stack.longest_due + allowed:
            self._outer.incidents.append(
                f"{after}: well after {took:.1f} s, {self.stack.longest_due:g} and {allowed:g} s are allowed"
            )

    def findings(self) -> list[Finding]:
        """Stop the clients, wait until nothing is due any more, and return what is wrong with the whole history."""
        self.stack.traffic.stop()
        history = record.read(self.stack.traffic.history)
        final = read_database(self.stack.database_url)
        return check(history.operations, final, history.checkpoints)

    def note(self, findings: list[Finding]) -> int:
        """Note all that is wrong; return how many operations were acknowledged."""
        found = [*map(str, findings), *self.stack.traffic.incidents, *self.stack.incidents]
        self._outer.incidents += [f"{one} (see {self.stack.directory})" for one in found]
        return self.stack.traffic.counts.acknowledged


@contextmanager
def elsewhen(outer: Stack, now: datetime, **environment: str) -> Iterator[Elsewhen]:
    """Start a stack at ``now``, with ``environment`` for its processes, and yield it when all is well there."""
    with installed_clocks() as clocks:
        clocks.set(now)
        before = len(outer.incidents)
        seed, slack = outer.rng.randrange(2**32), outer.longest_due - LONGEST_DUE
        rng = random.Random(seed)
        with Stack(rng=rng, clients=_CLIENTS, rate=_RATE, environment=environment, slack=slack) as stack:
            stack.wait_until_well()
            yield Elsewhen(outer, stack, clocks)
        if len(outer.incidents) == before:
            stack.remove()

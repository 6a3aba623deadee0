"""The faults of a soak, each at its time, and what it took until all was well again."""

import time
from datetime import UTC, datetime

import psycopg
import redis
from rich.console import Console

from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.rounds import Round
from tests.chaos.conversations.stack import NeverWellError, Stack
from tests.chaos.conversations.tracebacks import Logs
from tests.soak.plan import Plan


class Rounds:
    """Does the faults of a plan to a stack that runs, and keeps an account of them."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self.done: list[Round] = []
        #: What belongs to no fault.
        self.findings: list[str] = []
        self._stack = stack
        self._console = console
        self._logs = Logs()
        self._noted = (0, 0)

    def do(self, plan: Plan) -> None:
        """Do each at its time, and return when that of the plan is over."""
        began = time.monotonic()
        for number, (at, fault) in enumerate(plan.faults, 1):
            if at >= plan.length:
                break
            self._wait_until(began + at)
            self._do_one(number, fault, at)
        self._wait_until(began + plan.length)

    def look_for_incidents(self) -> list[str]:
        """Return what the stack and the clients noticed since the last time, and what processes wrote in tracebacks."""
        return self._look(())

    def _wait_until(self, monotonic: float) -> None:
        time.sleep(max(monotonic - time.monotonic(), 0))
        self.findings += self.look_for_incidents()

    def _do_one(self, number: int, fault: Fault, at: float) -> None:
        stack = self._stack
        before = stack.traffic.counts
        bound = stack.longest_due + fault.allowed
        one = Round(number, fault.name, datetime.now(UTC), stack.traffic.number, bound=bound)
        self.done.append(one)
        began = time.monotonic()
        try:
            one.what = fault.inject(stack)
        except (AssertionError, OSError, psycopg.Error, redis.RedisError) as error:
            # What the fault was to be, it was not: a finding about the harness, or about what did not come.
            one.findings.append(f"not done: {error!r}")
        one.injecting = time.monotonic() - began
        try:
            one.well_after = stack.wait_until_well(after=fault.name)
        except NeverWellError as error:
            one.findings.append(str(error))
        one.ended = datetime.now(UTC)
        one.until_operation = stack.traffic.number
        one.counts = stack.traffic.counts - before
        one.judge()
        one.findings += self._look(fault.excuses)
        well = "never" if one.well_after is None else f"{one.well_after:.2f} s"
        wrong = f"; {len(one.findings)} findings" if one.findings else ""
        self._console.print(f"{at / 60:5.1f} min  {one.name}: {one.what}; well after {well}{wrong}", markup=False)

    def _look(self, excuses: tuple[str, ...]) -> list[str]:
        of_stack, of_traffic = self._stack.incidents, self._stack.traffic.incidents
        new = of_stack[self._noted[0] :] + of_traffic[self._noted[1] :]
        self._noted = (len(of_stack), len(of_traffic))
        return [*new, *self._logs.new_tracebacks((one.log for one in self._stack.processes), excuses=excuses)]

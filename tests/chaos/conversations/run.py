"""Break all that conversations rest on, with live traffic, and see whether any was lost, early, twice or late."""

import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from tests.chaos.breakages import BREAKAGES
from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.plan import FAULTS, draw_plan, possible_faults
from tests.chaos.conversations.report import describe_run, write_report
from tests.chaos.conversations.rounds import Round, attribute, figures_of
from tests.chaos.conversations.shifted_clock import find_compiler
from tests.chaos.conversations.stack import NeverWellError, Stack
from tests.chaos.conversations.table import draw_table
from tests.chaos.conversations.tracebacks import Logs
from tests.chaos.conversations.traffic import IDLE_TIMEOUT
from tests.chaos.telling import tell_findings
from tests.histories import final as final_state
from tests.histories import record
from tests.histories.check import check
from tests.histories.final import FinalState


def run(
    *,
    faults: int,
    seed: int,
    console: Console,
    kind: str = "",
    short: bool = False,
    slack: float = 0.0,
    write: Path | None = None,
    breakage: str | None = None,
) -> int:
    """Run, print, and return the exit code: 1 with findings.

    With ``kind``, only the faults with that in their names are done; in the ``short`` form each that takes no minutes,
    once; ``slack`` is what a busy machine may add to each bound, in seconds; with ``write``, the table goes into that
    file; with ``breakage``, the product is broken so on purpose.
    """
    rng = random.Random(seed)
    possible = possible_faults(kind=kind, short=short)
    plan = draw_plan(0 if short else faults, rng, possible=possible)
    broken = BREAKAGES[breakage] if breakage else None
    console.print(f"conversations: {len(plan)} faults, --seed {seed}{f', --break {breakage}' if breakage else ''}")
    left_out = [fault.name for fault in FAULTS if kind in fault.name and fault not in possible]
    if left_out:
        why = "they take long" if find_compiler() else "there is no C compiler"
        console.print(f"left out, because {why}: {', '.join(left_out)}")
    began = time.monotonic()
    stack = Stack(
        rng=rng,
        environment=broken.environment if broken else None,
        statements=broken.statements if broken else (),
        slack=slack,
    )
    run_of_it = _Run(stack, console)
    if broken is not None:
        broken.break_clients()
    with stack:
        run_of_it.do(plan)
    run_of_it.conclude()
    took = time.monotonic() - began
    found = figures_of(run_of_it.rounds, run_of_it.final)
    rows = {fault.name: found[fault.name] for fault in FAULTS if fault.name in found}
    console.print(draw_table(rows))
    about = describe_run(
        stack=stack, final=run_of_it.final, faults=len(plan), seed=seed, took=took, findings=len(run_of_it.findings)
    )
    console.print(about)
    if write is not None:
        write_report(write, rows, about)
    if not run_of_it.findings:
        stack.remove()
        return 0
    tell_findings(run_of_it.findings, console)
    console.print(f"\nRepeat with --seed {seed}. Logs, the history and the final state: {stack.directory}")
    return 1


class _Run:
    """The rounds of a run, and what was found."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self.rounds: list[Round] = []
        self.final: FinalState | None = None
        self.findings: list[str] = []
        self._stack = stack
        self._console = console
        self._logs = Logs()
        self._noted = (0, 0)

    def do(self, plan: list[Fault]) -> None:
        """Do all faults to a stack that runs, then read what is left."""
        stack = self._stack
        try:
            stack.wait_until_well(after="the start")
            for number, fault in enumerate(plan, 1):
                # At any point of the second.
                time.sleep(stack.rng.random())
                self._do_one(number, fault, of=len(plan))
        except NeverWellError as error:
            self.findings.append(f"left due: {error}")
        finally:
            self._finish()

    def conclude(self) -> None:
        """Check the history against what is left, now that nothing runs any more."""
        stack = self._stack
        history = record.read(stack.traffic.history)
        if self.final is None:
            self.findings.append("the final state could not be read")
            return
        final_state.write(stack.directory / "final.json", self.final)
        found = check(history.operations, self.final, history.checkpoints, allowed=timedelta(seconds=stack.longest_due))
        self.findings += attribute(found, self.rounds)
        for one in self.rounds:
            self.findings += [f"{text} (fault {one.number}, {one.name}: {one.what})" for text in one.findings]

    def _do_one(self, number: int, fault: Fault, *, of: int) -> None:
        stack = self._stack
        before = stack.traffic.counts
        bound = stack.longest_due + fault.allowed
        one = Round(number, fault.name, datetime.now(UTC), stack.traffic.number, bound=bound)
        self.rounds.append(one)
        began = time.monotonic()
        try:
            one.what = fault.inject(stack)
            one.injecting = time.monotonic() - began
            one.well_after = stack.wait_until_well(after=fault.name)
        except AssertionError as error:
            # What the fault was to be, it was not: a finding about the harness, or about what did not come.
            one.findings.append(f"not done: {error}")
            one.well_after = stack.wait_until_well(after=fault.name)
        finally:
            one.ended = datetime.now(UTC)
            one.until_operation = stack.traffic.number
            one.counts = stack.traffic.counts - before
            one.judge()
            one.findings += [*self._new_incidents(), *self._new_tracebacks(fault)]
        well = "never" if one.well_after is None else f"{one.well_after:.2f} s"
        self._console.print(
            f"{number:4}/{of}  {one.injecting:5.1f} s, well after {well}  {fault.name}: {one.what}", markup=False
        )
        for finding in one.findings:
            self._console.print(f"          {finding}", markup=False)

    def _new_incidents(self) -> list[str]:
        """Return what the stack and the clients noticed since the last time."""
        of_stack, of_traffic = self._stack.incidents, self._stack.traffic.incidents
        new = of_stack[self._noted[0] :] + of_traffic[self._noted[1] :]
        self._noted = (len(of_stack), len(of_traffic))
        return new

    def _new_tracebacks(self, fault: Fault | None = None) -> list[str]:
        excuses = fault.excuses if fault else ()
        return list(self._logs.new_tracebacks((one.log for one in self._stack.processes), excuses=excuses))

    def _finish(self) -> None:
        """Let the clients finish and what they left fall due, then read what there is."""
        stack = self._stack
        stack.traffic.stop()
        # Until then some still have to be due; what is so for longer is found.
        time.sleep(IDLE_TIMEOUT + stack.longest_due)
        with suppress(Exception):
            self.final = final_state.read_database(stack.database_url)
        for one in [*stack.schedulers, *stack.workers]:
            stack.stop(one)
        self.findings += [*self._new_incidents(), *self._new_tracebacks()]

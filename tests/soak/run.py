"""A soak from its start to its verdict."""

import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from tests.chaos.conversations.rounds import attribute
from tests.chaos.conversations.stack import Stack
from tests.chaos.conversations.traffic import IDLE_TIMEOUT
from tests.chaos.telling import tell_findings
from tests.histories import final as final_state
from tests.histories.final import FinalState
from tests.soak import series
from tests.soak.archive import Archive
from tests.soak.breakages import Breakage
from tests.soak.lags import lags_of
from tests.soak.plan import Plan
from tests.soak.report import Report
from tests.soak.rounds import Rounds
from tests.soak.shards import check_in_shards
from tests.soak.verdict import Verdict, judge_all
from tests.soak.watch import Watch

#: So many that those who do other work in their transactions do not keep the others from their pace.
_CLIENTS = 30
#: Where each worker keeps its metrics: below its own directory.
_METRICS = {"dramatiq_prom_db": "metrics"}


class Soak:
    """A stack under the traffic and the faults of a plan, watched."""

    def __init__(
        self, plan: Plan, *, rate: float, seed: int, slack: float, console: Console, breakage: Breakage | None
    ) -> None:
        broken = breakage or Breakage("nothing")
        self.stack = Stack(
            rng=random.Random(seed),
            clients=_CLIENTS,
            rate=rate,
            environment={**_METRICS, **broken.environment},
            statements=(*plan.statements, *broken.statements),
            slack=slack,
        )
        self._plan = plan
        self._console = console
        self._rounds = Rounds(self.stack, console)
        self._samples = self.stack.directory / "samples.jsonl"
        self._began = datetime.now(UTC)
        #: What clients did, and for how long, in seconds.
        self._traffic = (self.stack.traffic.counts, 0.0)

    def run(self, command: str) -> Report:
        """Run it to its end, and judge."""
        with self.stack:
            final = self._watch()
        self._console.print("checking the history")
        findings = list(self._rounds.findings)
        allowed = timedelta(seconds=self.stack.longest_due)
        shards = self.stack.directory / "shards"
        found = check_in_shards(self.stack.traffic.history, final, shards, allowed=allowed)
        if found:
            # For `python -m tests.histories`.
            final_state.write(self.stack.directory / "final.json", final)
        findings += attribute(found, self._rounds.done)
        for one in self._rounds.done:
            findings += [f"{text} (fault {one.number}, {one.name}: {one.what})" for text in one.findings]
        judgements = judge_all(series.series_of(series.read(self._samples)), self._plan.terms)
        findings += [str(one) for one in judgements if one.verdict is Verdict.GROWS]
        counts, took = self._traffic
        faults = [(one.began, one.ended) for one in self._rounds.done if one.ended is not None]
        return Report(
            command=command,
            took=took,
            versions=self.stack.versions,
            counts=counts,
            conversations=len(final.rows),
            events=len(final.events),
            began=self._began,
            judgements=judgements,
            rounds=self._rounds.done,
            # Those that were due when workers were still starting are none of its.
            lags=lags_of((event for event in final.events if event.deadline >= self._began), faults),
            findings=findings,
        )

    def _watch(self) -> FinalState:
        """Do all that the plan says to a stack that runs; return what it left, and what was archived."""
        stack, plan = self.stack, self._plan
        stack.wait_until_well(after="the start")
        archive = Archive(stack.postgres, stack.directory / "archive", age=plan.archive_after)
        before, began = stack.traffic.counts, time.monotonic()
        self._began = datetime.now(UTC)
        with archive, Watch(stack, self._samples, every=plan.sampling) as watch:
            self._rounds.do(plan)
        self._rounds.findings += watch.incidents
        self._traffic = (stack.traffic.counts - before, time.monotonic() - began)
        stack.traffic.stop()
        # Until then some still have to be due; what is so for longer is found.
        time.sleep(IDLE_TIMEOUT + stack.longest_due)
        final = final_state.read_database(stack.database_url)
        for one in [*stack.schedulers, *stack.workers]:
            stack.stop(one)
        self._rounds.findings += self._rounds.look_for_incidents()
        return archive.add_to(final)


def run(
    plan: Plan,
    *,
    rate: float,
    seed: int,
    slack: float,
    console: Console,
    command: str,
    write: Path | None,
    breakage: Breakage | None,
    keep: bool,
) -> int:
    """Run, print, and return the exit code: 1 with findings. Without any, files go unless they are to be kept.

    ``slack`` is what a busy machine may add to the time until all is well after a fault, in seconds.
    """
    console.print(f"{command}: {plan.name}, up to {rate:g} operations a second, {len(plan.faults)} faults")
    soak = Soak(plan, rate=rate, seed=seed, slack=slack, console=console, breakage=breakage)
    report = soak.run(command)
    report.show(console)
    if write is not None:
        report.write(write)
    if not report.findings:
        if keep:
            console.print(f"Logs, the history, the samples and the archive: {soak.stack.directory}")
        else:
            soak.stack.remove()
        return 0
    tell_findings(report.findings, console)
    console.print(f"\nLogs, the history, the samples and the archive: {soak.stack.directory}")
    return 1

"""Break the schedulers on purpose, and see from Redis alone whether every slot was enqueued once.

Real ``periodiq actors`` processes run schedules of one second on a real redis-server, and faults drawn from a seed are
done to them, each kind at least once. At the end a table, and exit code 1 with the findings when anything was wrong.
"""

import json
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tests.chaos.breakages import BREAKAGES
from tests.chaos.scheduling.cluster import Cluster, NeverSteadyError
from tests.chaos.scheduling.faults import Done, inject
from tests.chaos.scheduling.records import Kind, Record, Round
from tests.chaos.scheduling.table import draw_table
from tests.chaos.scheduling.verdict import Verdict, judge

#: How many kinds of faults there are: the fewest to do.
KINDS = len(Kind)
#: Schedulers: a leader, and two who may follow it.
_SCHEDULERS = 3
#: Slots of the last moment may still be on their way.
_UNDER_WAY = 1.5


def run(*, faults: int, seed: int, console: Console, breakage: str | None = None) -> int:
    """Run, print, and return the exit code: 1 with findings. With ``breakage``, schedulers are broken on purpose."""
    rng = random.Random(seed)
    plan = _draw_plan(faults, rng)
    console.print(f"scheduling: {len(plan)} faults, {_SCHEDULERS} schedulers, --seed {seed}")
    began = time.monotonic()
    environment = BREAKAGES[breakage].environment if breakage else {}
    with Cluster(schedulers=_SCHEDULERS, rng=rng, environment=environment) as cluster:
        try:
            _run(plan, cluster, console)
        except NeverSteadyError as error:
            cluster.record.incidents.append(f"never steady again: {error}")
    cluster.note_tracebacks()
    verdict = judge(cluster.record)
    console.print(draw_table(verdict))
    return _conclude(verdict, cluster, console, seed=seed, took=time.monotonic() - began)


def _draw_plan(faults: int, rng: random.Random) -> list[Kind]:
    """Return every kind at least once, in any order."""
    plan = [*Kind, *rng.choices(list(Kind), k=faults - len(Kind))]
    rng.shuffle(plan)
    return plan


def _run(plan: Sequence[Kind], cluster: Cluster, console: Console) -> None:
    start = cluster.wait_until_steady()
    for number, kind in enumerate(plan, 1):
        # At any point of the second.
        time.sleep(cluster.rng.random())
        done = Done("not done to its end", ())
        try:
            done = inject(kind, cluster)
            cluster.wait_until_steady()
        finally:
            end = time.time()
            cluster.record.rounds.append(Round(number, kind, done.what, start, end, done.outages))
        findings = len(judge(cluster.record).findings)
        so_far = f"; {findings} findings so far" if findings else ""
        console.print(f"{number:4}/{len(plan)}  {end - start:5.1f} s  {kind}: {done.what}{so_far}")
        start = end
    # What the last round left under way has arrived by now, and the rounds end before.
    time.sleep(_UNDER_WAY)


def _conclude(verdict: Verdict, cluster: Cluster, console: Console, *, seed: int, took: float) -> int:
    if verdict.forgotten:
        console.print(
            f"{verdict.forgotten} slots were enqueued again after Redis had lost its data: it forgot that they were,"
            " and the latest slot is always made up for."
        )
    if not verdict.findings:
        shutil.rmtree(cluster.directory, ignore_errors=True)
        console.print(f"Nothing was wrong in {took:.0f} s.")
        return 0
    _write_record(cluster.record, cluster.directory / "record.json")
    console.print(f"\n{len(verdict.findings)} findings:")
    for finding in verdict.findings:
        console.print(f"- {finding}")
        if finding.round is not None:
            console.print(f"    {finding.round.what}")
    console.print(f"\nRepeat with --seed {seed}. Logs and what was seen in Redis: {cluster.directory}")
    return 1


def _write_record(record: Record, path: Path) -> None:
    path.write_text(json.dumps(asdict(record), indent=1))

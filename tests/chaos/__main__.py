"""Break the schedulers on purpose, and see from Redis alone whether every slot was enqueued once.

    python -m tests.chaos [--faults N] [--seed S] [--short] [--schedulers 3]

Real ``periodiq actors`` processes run schedules of one second on a real redis-server, and faults drawn from a seed are
done to them, each kind at least once. At the end a table, and exit code 1 with the findings when anything was wrong.
"""

import argparse
import json
import random
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tests.chaos.cluster import Cluster, NeverSteadyError
from tests.chaos.faults import Done, inject
from tests.chaos.records import Kind, Record, Round
from tests.chaos.table import draw_table
from tests.chaos.verdict import Verdict, judge

_FAULTS = 110
#: Slots of the last moment may still be on their way.
_UNDER_WAY = 1.5
#: Where there is no terminal to fit.
_WIDTH = 160


def main() -> int:
    """Run, print, and return the exit code."""
    options = _parse()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, soft_wrap=True)
    rng = random.Random(options.seed)
    plan = _draw_plan(len(Kind) if options.short else options.faults, rng)
    console.print(f"{len(plan)} faults, {options.schedulers} schedulers, --seed {options.seed}")
    began = time.monotonic()
    with Cluster(schedulers=options.schedulers, rng=rng) as cluster:
        try:
            _run(plan, cluster, console)
        except NeverSteadyError as error:
            cluster.record.incidents.append(f"never steady again: {error}")
    cluster.note_tracebacks()
    verdict = judge(cluster.record)
    console.print(draw_table(verdict))
    return _conclude(verdict, cluster, console, seed=options.seed, took=time.monotonic() - began)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--faults", type=int, default=_FAULTS, help=f"how many, at least {len(Kind)} ({_FAULTS})")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="repeats a plan (drawn)")
    parser.add_argument("--short", action="store_true", help="every kind of fault once")
    parser.add_argument("--schedulers", type=int, default=3, help="how many processes, at least 2 (3)")
    options = parser.parse_args()
    if options.schedulers < 2 or options.faults < len(Kind):
        parser.error(f"it takes at least 2 schedulers and {len(Kind)} faults")
    return options


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


if __name__ == "__main__":
    sys.exit(main())

"""Clocks that are wrong: those of workers and schedulers minutes apart, those of PostgreSQL and Redis stepped.

What is due the database's clock says, which slot it is Redis's; nobody else's is asked. A database's clock that goes
back is beyond what the checker can follow: a conversation may then be ended by a clock that has not yet shown its
deadline again. There, what must hold whatever the clock does is looked up in the tables.
"""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from tests.acceptance.commands import PROJECT, run
from tests.chaos.conversations.elsewhen import Elsewhen, elsewhen
from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.processes import CLOCK, Process
from tests.chaos.conversations.shifted_clock import POSTGRESQL, REDIS
from tests.chaos.conversations.stack import LEASE, RENEW, Stack
from tests.support import attempts

#: How far clocks are apart, in seconds.
_LEAST, _MOST = 120.0, 600.0
#: How long they stay so, in seconds.
_LENGTH = 8.0
_PATIENCE = 30.0

#: What no clock may excuse.
_NEVER = {
    "two active on a key": """
        SELECT count(*) FROM (SELECT FROM conversations WHERE status IN ('pending', 'progress')
                              GROUP BY session_key HAVING count(*) > 1) AS twice
        """,
    "ended twice": """
        SELECT count(*) FROM (SELECT FROM conversation_events WHERE status NOT IN ('pending', 'progress')
                              GROUP BY conv_id HAVING count(*) > 1) AS twice
        """,
    "ended before its deadline": """
        SELECT count(*) FROM conversation_events WHERE status IN ('idle_timeout', 'expired') AND occurred_at < deadline
        """,
    "ended without an event": """
        SELECT count(*) FROM conversations AS c WHERE status NOT IN ('pending', 'progress')
        AND NOT EXISTS (SELECT FROM conversation_events AS e WHERE e.conv_id = c.conv_id AND e.status = c.status)
        """,
}


def _set_workers_apart(stack: Stack) -> str:
    """Put workers and schedulers with fast and slow clocks in the place of those with right ones, and these back."""
    shifts = [stack.rng.uniform(_LEAST, _MOST), -stack.rng.uniform(_LEAST, _MOST)]
    path = f"{CLOCK}:{PROJECT}"
    began = datetime.now(UTC)
    known = _problems(stack)
    started = []
    for index, old in enumerate([*stack.workers, *stack.schedulers]):
        shift = shifts[index % 2]
        stack.stop(old)
        started.append((stack.replace(old, PYTHONPATH=path, CHAOS_CLOCK_SHIFT=str(shift)), shift))
    _wait_for_workers(stack)
    time.sleep(_LENGTH)
    for process, shift in started:
        _see_shift(stack, process, began, shift)
    made_up = _problems(stack) - known
    if made_up:
        stack.incidents.append(f"adjourn status, with clocks apart: {', '.join(sorted(made_up))}")
    for process, _ in started:
        stack.stop(process)
        stack.replace(process)
    _wait_for_workers(stack)
    return f"clocks of workers and schedulers {shifts[0]:+.0f} s and {shifts[1]:+.0f} s for {_LENGTH:g} s"


def _wait_for_workers(stack: Stack) -> None:
    for _ in attempts(_PATIENCE):
        if all("Worker process is ready" in one.output for one in stack.workers):
            return
    stack.incidents.append(f"no word of workers within {_PATIENCE:g} s")


def _see_shift(stack: Stack, process: Process, began: datetime, shift: float) -> None:
    """Note it when the lines of a process do not have the time of its clock."""
    stamps = [json.loads(line)["timestamp"] for line in process.output.splitlines() if line.startswith('{"')]
    ahead = [(datetime.fromisoformat(stamp) - began).total_seconds() for stamp in stamps]
    if not ahead or abs(ahead[-1] - shift) > 2 * _PATIENCE:
        stack.incidents.append(f"a fault did not come about: the clock of {process} was not {shift:+.0f} s")


def _problems(stack: Stack) -> set[str]:
    """Return what ``adjourn status`` says is wrong, by its names of it."""
    done = run("adjourn", "status", "--json", directory=stack.directory, variables=stack.environment())
    if "Traceback" in done.stderr or not done.stdout.startswith("{"):
        stack.incidents.append(f"adjourn status ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        return set()
    return {problem["kind"] for problem in json.loads(done.stdout)["problems"]}


def _stepped(other: Elsewhen, steps: Sequence[timedelta], program: str) -> Iterator[tuple[timedelta, timedelta]]:
    """Take each step with the clock of ``program``; yield it, and how far the clock is off then."""
    shift = timedelta(0)
    for step in steps:
        shift += step
        other.clocks.shift(shift, program)
        yield step, shift


def _put_database_forward(stack: Stack) -> str:
    steps = [timedelta(seconds=stack.rng.uniform(_LEAST, _MOST)) for _ in range(3)]
    with elsewhen(stack, datetime.now(UTC)) as other:
        for step, shift in _stepped(other, steps, POSTGRESQL):
            other.see(datetime.now(UTC) + shift).wait_until_well(f"the database's clock {step.total_seconds():+.0f} s")
            time.sleep(stack.rng.uniform(0, 3))
        acknowledged = other.note(other.findings())
    return f"PostgreSQL's clock {_shown(steps)}, {acknowledged} operations acknowledged there"


def _put_database_back(stack: Stack) -> str:
    """Step it by less than a fault lasts: until it shows again what it showed, nothing becomes due."""
    steps = [-timedelta(seconds=stack.rng.uniform(4, 12)) for _ in range(2)]
    with elsewhen(stack, datetime.now(UTC)) as other:
        for step, shift in _stepped(other, steps, POSTGRESQL):
            other.see(datetime.now(UTC) + shift)
            time.sleep(-step.total_seconds())
            other.wait_until_well(f"the database's clock {step.total_seconds():+.1f} s")
        other.stack.traffic.stop()
        _check_tables(other)
        acknowledged = other.note([])
    return f"PostgreSQL's clock {_shown(steps)}, {acknowledged} operations acknowledged there"


def _check_tables(other: Elsewhen) -> None:
    with other.stack.postgres.connect() as connection:
        for what, query in _NEVER.items():
            found = connection.execute(query).fetchone()
            if found is None or found[0]:
                other.stack.incidents.append(f"{what}: {found and found[0]} conversations")


def _step_redis(stack: Stack) -> str:
    steps = [timedelta(seconds=stack.rng.uniform(_LEAST, _MOST)) for _ in range(2)]
    steps.insert(1, -steps[0] / 2)
    with elsewhen(stack, datetime.now(UTC)) as other:
        for step, shift in _stepped(other, steps, REDIS):
            with other.stack.redis.client() as client:
                said = client.time()[0]
            if abs(said - time.time() - shift.total_seconds()) > _PATIENCE:
                stack.incidents.append(f"a fault did not come about: Redis's clock was not {shift} ahead")
            other.wait_until_well(f"Redis's clock {step.total_seconds():+.0f} s", allowed=LEASE + RENEW)
            time.sleep(stack.rng.uniform(0, 3))
        acknowledged = other.note(other.findings())
    return f"Redis's clock {_shown(steps)}, {acknowledged} operations acknowledged there"


def _shown(steps: list[timedelta]) -> str:
    return ", ".join(f"{step.total_seconds():+.0f} s" for step in steps)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "clocks of workers apart",
        _set_workers_apart,
        allowed=RENEW + 3,
        because="all processes are started anew at its end",
    ),
    Fault("the database's clock put forward", _put_database_forward, sets_clocks=True),
    Fault("the database's clock put back", _put_database_back, sets_clocks=True),
    Fault("Redis's clock put forward and back", _step_redis, sets_clocks=True),
)

"""The judge of a worker command: from what its processes wrote down, whether it is healthy, and why not.

It runs in the process that answers HTTP, which does not work itself: it tells the truth while all workers are stuck. It
reads files only, so it answers at once.
"""

import multiprocessing
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from services.health import HealthReport, HealthStatus, ProcessHealth, Role, TaskCounts, describe_trouble
from services.monitoring.worker_state import WorkerState, frozen_among, read_states
from services.tasks import Task

#: A process that has not been heard of for longer, in seconds, is stopped; so old a state says nothing of now.
SILENCE = 10.0


def read_worker_health(directory: Path) -> HealthReport:
    """Return the health of the worker command that keeps its state in ``directory``, and that started this process."""
    states = read_states(directory)
    parent = multiprocessing.parent_process()
    command = None if parent is None else parent.pid
    frozen = frozen_among(pid for pid in (command, *(state.pid for state in states)) if pid is not None)
    return judge_worker(states, now=time.monotonic(), frozen=frozen, command=command)


def judge_worker(
    states: Sequence[WorkerState], *, now: float, frozen: Collection[int] = (), command: int | None = None
) -> HealthReport:
    """Return the health of a worker command with these processes, at ``now`` of the monotonic clock, in seconds.

    ``frozen`` are the processes that a signal has stopped, ``command`` is the one that started the others.
    """
    beating = [state for state in states if now - state.heard <= SILENCE]
    blocking = [*_of_command(frozen, command), *_of_silent(states, now, frozen), *_of_threads(beating)]
    telling = [state for state in beating if now - state.told <= SILENCE]
    waiting = [state for state in telling if state.awaited is not None]
    reasons = [
        *blocking,
        *_of_mute(beating, telling),
        *_of_starts(waiting),
        *_of_dependencies([state for state in telling if state not in waiting]),
        *_of_runs(telling, now),
    ]
    if not states:
        reasons.append("no worker process is there")
    status = HealthStatus.DEGRADED if reasons else HealthStatus.HEALTHY
    counts = {task: sum((state.tasks.get(task, TaskCounts()) for state in states), TaskCounts()) for task in Task}
    return HealthReport(
        role=Role.WORKER,
        status=status if beating else HealthStatus.STOPPED,
        is_live=bool(beating) and not blocking,
        reasons=tuple(reasons),
        uptime_seconds=now - min((state.started for state in states), default=now),
        cycle_count=sum(count.runs for count in counts.values()),
        tasks=counts,
        processes=tuple(_process(state, now) for state in states),
    )


def _of_command(frozen: Collection[int], command: int | None) -> Iterator[str]:
    if command is not None and command in frozen:
        yield f"the process that looks after the workers ({command}) is stopped by a signal, such as SIGSTOP"


def _of_silent(states: Sequence[WorkerState], now: float, frozen: Collection[int]) -> Iterator[str]:
    for state in states:
        silence = now - state.heard
        if silence > SILENCE:
            why = "it is stopped by a signal, such as SIGSTOP" if state.pid in frozen else "it hangs"
            yield f"worker process {state.pid} has not been heard of for {silence:.0f} s: {why}"


def _of_mute(beating: Sequence[WorkerState], telling: Sequence[WorkerState]) -> Iterator[str]:
    for state in beating:
        if state not in telling:
            yield f"worker process {state.pid} cannot write down how it is: is the disk of its run directory full?"


def _of_threads(beating: Sequence[WorkerState]) -> Iterator[str]:
    for state in beating:
        for reason in state.threads.gone:
            yield f"worker process {state.pid}: {reason}"


def _of_starts(waiting: Sequence[WorkerState]) -> Iterator[str]:
    for state in waiting:
        yield f"worker process {state.pid} takes no messages yet: {state.awaited}"


def _of_dependencies(beating: Sequence[WorkerState]) -> Iterator[str]:
    for name, answers in (
        ("the database", [(state, state.database) for state in beating]),
        ("Redis", [(state, state.redis) for state in beating]),
    ):
        silent = [(state, answer) for state, answer in answers if not answer.answers]
        if silent:
            where = "" if len(silent) == len(beating) else _where([state for state, _ in silent])
            yield f"{describe_trouble(name, *(answer for _, answer in silent))}{where}"


def _of_runs(beating: Sequence[WorkerState], now: float) -> Iterator[str]:
    for state in beating:
        for reason in state.threads.overruns:
            yield f"worker process {state.pid}: {reason}"
    # While Redis does not answer, nobody knows what the others have done.
    knowing = [state for state in beating if state.redis.answers]
    for task in Task:
        expected = [state.expected[task] for state in knowing if task in state.expected]
        latest = max(expected, key=lambda one: one.late_from, default=None)
        # One that knows of nothing to expect has seen that the task is paused or, it may be, has not asked yet.
        if latest is not None and len(expected) == len(knowing) and now >= latest.late_from:
            yield latest.reason
    for state in beating:
        if state.is_ending:
            yield f"worker process {state.pid} is ending: it takes no more messages"


def _where(states: Sequence[WorkerState]) -> str:
    pids = ", ".join(str(state.pid) for state in states)
    return f" (as seen by worker process {pids})"


def _process(state: WorkerState, now: float) -> ProcessHealth:
    return ProcessHealth(
        pid=state.pid,
        started_at=state.started_at,
        heard_seconds_ago=max(now - state.heard, 0),
        threads=state.threads.count,
        busy=state.threads.busy,
        database=state.database,
        redis=state.redis,
    )

"""What is judged healthy, degraded or stopped: each boundary just before, exactly at and just after."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.health import LOOK_TIMEOUT, OVERRUN, Run, threads_of
from services.cluster.state import Asked, ClaimedSlot, RunOutcome, TaskStatus
from services.cluster.state import Run as LastRun
from services.health import Answer, Failure, HealthReport, Role, TaskCounts, describe_trouble
from services.monitoring.addresses import base_url
from services.monitoring.success_watch import SuccessWatch, late_from
from services.monitoring.worker_health import SILENCE, judge_worker
from services.monitoring.worker_probes import PATIENCE, Probe
from services.monitoring.worker_state import (
    Expectation,
    Threads,
    WorkerState,
    frozen_among,
    read_states,
    remove_state,
    state_file,
    write_state,
)
from services.schedules import Cron, Every
from services.scheduling.health import LEADERLESS, SchedulerFacts, judge_scheduler
from services.tally import RunTally
from services.tasks import Task
from tests.support import NOON, wait_for

PROJECT = Path(__file__).resolve().parents[2]
SECOND = timedelta(seconds=1)
#: The monotonic clock of these tests, in seconds.
NOW = 1000.0
EARLIER, LATER = 0.001, 0.001
DOWN = Answer(answers=False, since=NOON, reason="connection refused")


def process(pid: int = 11, **given: Any) -> WorkerState:
    fields: dict[str, Any] = {
        "pid": pid,
        "started_at": NOON,
        "started": NOW - 60,
        "heard": NOW,
        "told": NOW,
        "threads": Threads(8, 0),
    }
    return WorkerState(**fields | given)


def judged(*states: WorkerState, **given: Any) -> HealthReport:
    return judge_worker(states, now=NOW, **given)


def outcome(report: HealthReport) -> tuple[str, bool, bool]:
    return report.status.value, report.is_live, report.is_ready


def test_workers_that_are_fine_and_have_nothing_to_do_are_healthy() -> None:
    report = judged(process(11), process(12))

    assert outcome(report) == ("healthy", True, True)
    assert report.reasons == ()
    assert report.uptime_seconds == 60


@pytest.mark.parametrize(
    ("silent_for", "expected"),
    [(SILENCE - EARLIER, "healthy"), (SILENCE, "healthy"), (SILENCE + LATER, "degraded")],
)
def test_a_process_that_has_not_been_heard_of_is_said_to_be_stopped(silent_for: float, expected: str) -> None:
    silent = process(11, heard=NOW - silent_for)
    report = judged(silent, process(12))

    assert judged(silent).status.value == ("healthy" if expected == "healthy" else "stopped")
    assert report.status.value == expected
    assert report.is_live == (expected == "healthy")
    assert list(report.reasons) == (
        [] if expected == "healthy" else ["worker process 11 has not been heard of for 10 s: it hangs"]
    )


@pytest.mark.parametrize(("silent_for", "expected"), [(10, "healthy"), (10.1, "degraded")])
def test_a_process_that_cannot_write_down_how_it_is_lives(silent_for: float, expected: str) -> None:
    report = judged(process(11, told=NOW - silent_for, database=Answer()))

    assert outcome(report) == (expected, True, expected == "healthy")
    assert len(report.reasons) == (expected == "degraded")


def test_a_process_that_waits_before_it_takes_messages_lives_and_says_what_for() -> None:
    report = judged(process(11, awaited="no Redis", redis=DOWN), process(12))

    assert outcome(report) == ("degraded", True, False)
    assert report.reasons == ("worker process 11 takes no messages yet: no Redis",)


def test_workers_of_which_none_is_heard_of_are_stopped() -> None:
    report = judged(process(11, heard=NOW - 11), process(12, heard=NOW - 12), frozen={11})

    assert outcome(report) == ("stopped", False, False)
    assert report.reasons == (
        "worker process 11 has not been heard of for 11 s: it is stopped by a signal, such as SIGSTOP",
        "worker process 12 has not been heard of for 12 s: it hangs",
    )
    assert outcome(judged()) == ("stopped", False, False)


def test_a_command_whose_own_process_is_stopped_is_degraded_and_a_restart_would_help() -> None:
    report = judged(process(11), frozen={10}, command=10)

    assert outcome(report) == ("degraded", False, False)
    assert "(10) is stopped by a signal" in report.reasons[0]
    assert judged(process(11), frozen=set(), command=10).is_ready
    assert judged(process(11)).is_ready


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"database": DOWN}, "the database cannot be used since 2026-01-31 12:00:00 UTC: connection refused"),
        ({"redis": DOWN}, "Redis cannot be used since 2026-01-31 12:00:00 UTC: connection refused"),
        ({"is_ending": True}, "worker process 11 is ending: it takes no more messages"),
        ({"threads": Threads(8, 1, overruns=("a run is late",))}, "worker process 11: a run is late"),
    ],
)
def test_what_a_restart_would_not_mend_costs_readiness_and_not_liveness(given: dict[str, Any], reason: str) -> None:
    report = judged(process(11, **given))

    assert outcome(report) == ("degraded", True, False)
    assert report.reasons == (reason,)


def test_threads_that_are_gone_cost_liveness_too() -> None:
    report = judged(process(11, threads=Threads(8, 0, gone=("1 of its 8 threads have ended",))), process(12))

    assert outcome(report) == ("degraded", False, False)
    assert report.reasons == ("worker process 11: 1 of its 8 threads have ended",)


def test_a_database_that_one_of_two_processes_cannot_reach_is_said_with_the_process() -> None:
    assert judged(process(11), process(12, database=DOWN)).reasons == (
        "the database cannot be used since 2026-01-31 12:00:00 UTC: connection refused (as seen by worker process 12)",
    )
    earlier = replace(DOWN, since=NOON - SECOND, reason="no route")
    assert judged(process(11, database=DOWN), process(12, database=earlier)).reasons == (
        "the database cannot be used since 2026-01-31 11:59:59 UTC: no route",
    )
    assert describe_trouble("it", Answer(answers=False)) == "it cannot be used: nobody knows why"


@pytest.mark.parametrize(("late_since", "expected"), [(-EARLIER, "healthy"), (0.0, "degraded"), (LATER, "degraded")])
def test_a_task_that_should_have_succeeded_by_now_is_said_to_be_late(late_since: float, expected: str) -> None:
    late = {Task.IDLE: Expectation(NOW - late_since, "it has not succeeded")}
    report = judged(process(11, expected=late))

    assert outcome(report) == (expected, True, expected == "healthy")


def test_a_success_that_one_process_knows_of_counts_for_all() -> None:
    late, fine = ({Task.IDLE: Expectation(NOW + in_, "it has not succeeded")} for in_ in (-1, 1))

    assert judged(process(11, expected=late), process(12, expected=fine)).is_ready
    # It has seen that the task is paused, or has not asked yet.
    assert judged(process(11, expected=late), process(12)).is_ready
    # What is known from before Redis went away says nothing.
    assert judged(process(11, expected=late, redis=DOWN)).reasons == (describe_trouble("Redis", DOWN),)
    assert judged(process(11, expected=late), process(12, redis=DOWN)).reasons[1:] == ("it has not succeeded",)
    # A process that is stopped knows nothing new.
    assert len(judged(process(11, expected=late), process(12, expected=fine, heard=NOW - 11)).reasons) == 2


def test_what_the_processes_did_is_added_up() -> None:
    one = TaskCounts(2, 1, 1, 10, NOON, NOON - SECOND, Failure(NOON, "no"), 1.5)
    other = TaskCounts(3, 3, 0, 5, NOON - SECOND, NOON, None, 2.0)
    report = judged(process(11, tasks={Task.IDLE: one}), process(12, tasks={Task.IDLE: other}))

    assert report.tasks[Task.IDLE] == TaskCounts(5, 4, 1, 15, NOON, NOON, Failure(NOON, "no"), 3.5)
    assert report.tasks[Task.EXPIRED] == TaskCounts()
    assert report.cycle_count == 5
    later = replace(other, last_error=Failure(NOON + SECOND, "later"))
    assert (one + later).last_error == (later + one).last_error == Failure(NOON + SECOND, "later")


def test_a_report_is_one_object_with_all_keys() -> None:
    counts = TaskCounts(1, 0, 1, 0, NOON, None, Failure(NOON, "no"), 0.25)
    written = json.loads(json.dumps(judged(process(11, tasks={Task.IDLE: counts}, database=DOWN)).as_object()))

    assert written == {
        "role": "worker",
        "status": "degraded",
        "running": True,
        "live": True,
        "ready": False,
        "reasons": ["the database cannot be used since 2026-01-31 12:00:00 UTC: connection refused"],
        "uptime_seconds": 60.0,
        "cycle_count": 1,
        "tasks": {
            "idle_conversations": {
                "runs": 1,
                "successes": 0,
                "failures": 1,
                "items_processed": 0,
                "last_run_at": "2026-01-31T12:00:00.000+00:00",
                "last_success_at": None,
                "last_error": {"at": "2026-01-31T12:00:00.000+00:00", "message": "no"},
                "total_seconds": 0.25,
            },
            "expired_conversations": {
                "runs": 0,
                "successes": 0,
                "failures": 0,
                "items_processed": 0,
                "last_run_at": None,
                "last_success_at": None,
                "last_error": None,
                "total_seconds": 0.0,
            },
        },
        "processes": [
            {
                "pid": 11,
                "started_at": "2026-01-31T12:00:00.000+00:00",
                "heard_seconds_ago": 0.0,
                "threads": 8,
                "busy": 0,
                "database": {
                    "answers": False,
                    "since": "2026-01-31T12:00:00.000+00:00",
                    "reason": "connection refused",
                },
                "redis": {"answers": True, "since": None, "reason": None},
                "leads": None,
            }
        ],
    }


# What the processes write down.


def test_a_state_is_read_as_it_was_written_and_that_of_a_process_that_is_gone_is_not(tmp_path: Path) -> None:
    state = process(
        os.getpid(),
        database=DOWN,
        threads=Threads(8, 1, ("gone",), ("late",)),
        tasks={Task.IDLE: TaskCounts(1, 0, 1, 0, NOON, None, Failure(NOON, "no"), 0.25)},
        expected={Task.EXPIRED: Expectation(NOW, "late")},
        is_ending=True,
    )
    write_state(tmp_path, state)
    ended = subprocess.Popen(["true"])
    ended.wait()
    write_state(tmp_path, process(ended.pid))
    (tmp_path / "worker-1.json").write_text("{")

    assert read_states(tmp_path) == [state]
    remove_state(tmp_path, os.getpid())
    assert read_states(tmp_path) == []
    assert not state_file(tmp_path, os.getpid()).exists()
    assert read_states(tmp_path / "nowhere") == []


def test_a_process_that_a_signal_has_stopped_is_seen_as_such() -> None:
    sleeping = subprocess.Popen(["sleep", "60"])
    try:
        assert frozen_among([sleeping.pid, os.getpid()]) == set()
        sleeping.send_signal(signal.SIGSTOP)
        wait_for(lambda: frozen_among([sleeping.pid, os.getpid()]) == {sleeping.pid})
    finally:
        sleeping.kill()
        sleeping.wait()
    assert frozen_among([sleeping.pid]) == set()


# The probes.


class Clock:
    def __init__(self) -> None:
        self.seconds = NOW

    def __call__(self) -> float:
        return self.seconds


def test_a_question_that_hangs_counts_as_no_answer_from_the_moment_it_was_asked() -> None:
    clock, asked, released = Clock(), threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        assert released.wait(30)

    probe = Probe(hang, name="it", monotonic=clock)
    before = datetime.now(UTC)
    thread = threading.Thread(target=probe.ask)
    thread.start()
    assert asked.wait(30)

    clock.seconds = NOW + PATIENCE
    assert probe.answer() == Answer()
    clock.seconds = NOW + PATIENCE + LATER
    answer = probe.answer()
    assert (answer.answers, answer.reason) == (False, "no answer within 5 s")
    assert answer.since is not None
    assert before <= answer.since <= datetime.now(UTC)
    assert probe.answered_for() == 0

    released.set()
    thread.join(30)
    assert probe.answer() == Answer()
    assert probe.answered_for() == 0  # it has just come back
    clock.seconds += 3
    assert probe.answered_for() == 3


def test_a_question_that_is_not_asked_any_more_is_no_answer() -> None:
    clock = [0.0]
    probe = Probe(lambda: None, name="it", interval=5, patience=5, monotonic=lambda: clock[0])
    probe.ask()

    clock[0] = 15.0
    assert probe.answer().answers
    clock[0] = 15.1
    assert not probe.answer().answers


def test_failures_in_a_row_are_one_trouble_with_its_latest_reason_until_an_answer() -> None:
    answers: list[Exception | None] = [OSError("refused\nand more"), ValueError("not now"), None]

    def ask() -> None:
        if (error := answers.pop(0)) is not None:
            raise error

    probe = Probe(ask, name="it", monotonic=Clock())
    assert probe.answer() == Answer()
    probe.ask()
    first = probe.answer()
    assert (first.answers, first.reason) == (False, "refused")
    probe.ask()
    assert probe.answer() == Answer(answers=False, since=first.since, reason="not now")
    probe.ask()
    assert probe.answer() == Answer()


def test_a_probe_goes_on_after_whatever_is_raised() -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        raise RuntimeError

    probe = Probe(ask, name="it", interval=0.01)
    probe.start()
    wait_for(lambda: asked > 2, what="a third question")
    probe.stop(timeout=5)
    assert probe.answer().reason == "RuntimeError"


# dramatiq's threads.


def thread(*, is_alive: bool = True) -> Any:
    return SimpleNamespace(is_alive=lambda: is_alive)


def threads(*, alive: tuple[bool, ...] = (True, True), consumer: bool = True, **given: Any) -> Threads:
    worker = SimpleNamespace(
        workers=[thread(is_alive=one) for one in alive], consumers={"sweeps": thread(is_alive=consumer)}
    )
    arguments: dict[str, Any] = {"runs": [], "looked_at": {}, "now": NOW}
    return threads_of(worker, **arguments | given)


def test_threads_are_fine_while_they_live_and_look_for_messages() -> None:
    assert threads() == Threads(2, 0)
    assert threads(runs=[Run("sweep", NOW, 60)]) == Threads(2, 1)


def test_a_thread_that_has_ended_is_gone_unless_the_worker_ends() -> None:
    assert threads(alive=(True, False)).gone == ("1 of its 2 threads have ended",)
    assert threads(consumer=False).gone == ("it takes no messages of the queue sweeps: its consumer has ended",)
    assert threads(alive=(True, False), consumer=False, is_ending=True).gone == ()


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        (LOOK_TIMEOUT - EARLIER, ()),
        (LOOK_TIMEOUT, ()),
        (LOOK_TIMEOUT + LATER, ("it takes no messages of the queue sweeps: it has not looked for 30 s",)),
    ],
)
def test_a_consumer_that_does_not_look_for_messages_takes_none(ago: float, expected: tuple[str, ...]) -> None:
    assert threads(looked_at={"sweeps": NOW - ago, "elsewhere": 0}).gone == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (60 + OVERRUN, ()),
        (60 + OVERRUN + LATER, ("a run of sweep goes on for 75 s, though it may take 60 s",)),
    ],
)
def test_a_run_that_goes_on_for_longer_than_it_may_is_said(seconds: float, expected: tuple[str, ...]) -> None:
    assert threads(runs=[Run("sweep", NOW - seconds, 60)]).overruns == expected


# Three intervals without a success.


def test_three_slots_may_pass_and_a_little_more() -> None:
    assert late_from(Every(seconds=60), NOON) == NOON + timedelta(minutes=3, seconds=15)
    assert late_from(Every(seconds=60), NOON + SECOND) == NOON + timedelta(minutes=3, seconds=15)
    assert late_from(Cron("0 3 * * *"), NOON) == datetime(2026, 2, 3, 3, 0, 15, tzinfo=UTC)


def task(**given: Any) -> TaskStatus:
    fields: dict[str, Any] = dict.fromkeys(TaskStatus.__slots__)
    return TaskStatus(**fields | {"task": Task.IDLE, "actor": "process_idle_conversations"} | given)


def run(outcome: RunOutcome, *, started_at: datetime = NOON, error: str | None = None) -> LastRun:
    ended_at = None if outcome is RunOutcome.RUNNING else started_at
    return LastRun(None, started_at, ended_at, outcome, limit=timedelta(minutes=10), error=error)


def slot(at: datetime) -> ClaimedSlot:
    return ClaimedSlot(at, None, at, 1, "id")


def late_by(watch: SuccessWatch, *, now: datetime, **given: Any) -> tuple[float, str]:
    """Return for how long the task is late, in seconds, and what is said of it."""
    expectation = watch.look(task(**given), now=now, at=NOW)
    assert expectation is not None
    return round(NOW - expectation.late_from, 6), expectation.reason.partition(": ")[2]


def watch_since(start: datetime) -> SuccessWatch:
    watch = SuccessWatch({Task.IDLE: Every(seconds=60)})
    watch.look(task(), now=start, at=NOW)
    return watch


def test_a_task_is_late_from_its_last_success_or_from_the_first_look() -> None:
    at = NOON + timedelta(minutes=3, seconds=15)

    assert late_by(watch_since(NOON), now=at)[0] == 0
    assert late_by(watch_since(NOON), now=at, last_success_at=NOON + timedelta(minutes=1))[0] == -60
    assert late_by(watch_since(NOON), now=at, last_success_at=NOON - timedelta(hours=1))[0] == 0


def test_a_redis_that_lost_its_data_makes_no_task_late() -> None:
    watch = watch_since(NOON)
    now = NOON + timedelta(hours=1)
    late_by(watch, now=now, last_success_at=now)

    assert late_by(watch, now=now, last_success_at=None)[0] == -195
    # Nor does a clock that was ahead hide what is late for longer than it has to.
    late_by(watch, now=now, last_success_at=now + timedelta(days=1))
    assert late_by(watch, now=now)[0] == -195


def test_a_paused_task_is_not_expected_to_succeed_and_gets_its_time_when_it_goes_on() -> None:
    watch = watch_since(NOON)
    hour = NOON + timedelta(hours=1)

    assert watch.look(task(pause=Asked(NOON, "ann")), now=hour, at=NOW) is None
    assert late_by(watch, now=hour + SECOND)[0] == -194


def test_a_task_that_is_disabled_is_not_expected_to_succeed() -> None:
    assert SuccessWatch({Task.EXPIRED: Every(seconds=60)}).look(task(), now=NOON, at=NOW) is None


def test_a_run_that_works_off_a_backlog_may_take_as_long_as_its_limit_unless_runs_fail() -> None:
    now = NOON + timedelta(minutes=5)
    under_way = run(RunOutcome.RUNNING, started_at=NOON + timedelta(minutes=1))

    assert late_by(watch_since(NOON), now=now, last_run=under_way)[0] == -375
    # Not from each of those that follow one another and come to nothing.
    later = run(RunOutcome.RUNNING, started_at=now)
    assert late_by(watch_since(NOON), now=now, last_run=later)[0] == -375
    failing = watch_since(NOON)
    late_by(failing, now=now, last_run=run(RunOutcome.FAILED))
    assert late_by(failing, now=now, last_run=under_way)[0] == 105
    late_by(failing, now=now, last_run=run(RunOutcome.DONE))
    assert late_by(failing, now=now, last_run=under_way)[0] == -375


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "no tick has come for it, is a scheduler running?"),
        (
            {"last_slot": slot(NOON - timedelta(hours=1))},
            "no tick since 2026-01-31 11:00:00 UTC, is a scheduler running?",
        ),
        (
            {"last_slot": slot(NOON), "last_run": run(RunOutcome.FAILED, error="no_idle")},
            "the last run failed: no_idle",
        ),
        (
            {"last_slot": slot(NOON), "last_run": run(RunOutcome.FAILED)},
            "the last run failed: the log of the workers says why",
        ),
        (
            {
                "last_slot": slot(NOON - timedelta(hours=1)),
                "last_run": run(RunOutcome.FAILED, started_at=NOON - timedelta(minutes=59), error="no_idle"),
            },
            "no tick since 2026-01-31 11:00:00 UTC, is a scheduler running?; the last run failed: no_idle",
        ),
        (
            {"last_slot": slot(NOON), "last_run": run(RunOutcome.RUNNING)},
            "a run is under way since 2026-01-31 12:00:00 UTC",
        ),
        (
            {"last_slot": slot(NOON), "awaited_since": NOON},
            "its messages wait for a worker since 2026-01-31 12:00:00 UTC",
        ),
        ({"last_slot": slot(NOON)}, "its runs came to nothing"),
    ],
)
def test_it_is_said_why_a_task_does_not_succeed(given: dict[str, Any], reason: str) -> None:
    assert late_by(watch_since(NOON), now=NOON + SECOND, **given)[1] == reason
    expectation = watch_since(NOON).look(task(), now=NOON, at=NOW)
    assert expectation is not None
    assert expectation.reason.startswith("idle_conversations has not succeeded since 2026-01-31 12:00:00 UTC: ")


# The scheduler.


def scheduler(**given: Any) -> HealthReport:
    fields: dict[str, Any] = {
        "pid": 11,
        "started_at": NOON,
        "uptime": timedelta(minutes=1),
        "rounds": 60,
        "is_loop_alive": True,
        "loop_late": timedelta(),
        "is_election_alive": True,
        "leads": True,
        "leaderless": timedelta(),
        "lease_timeout": timedelta(seconds=15),
        "trouble": None,
        "failing_ticks": {},
        "tasks": {},
    }
    return judge_scheduler(SchedulerFacts(**fields | given))


def test_a_scheduler_that_leads_is_healthy_and_so_is_one_that_stands_by() -> None:
    assert outcome(scheduler()) == outcome(scheduler(leads=False)) == ("healthy", True, True)
    written = scheduler(leads=False).as_object()
    assert (written["role"], written["cycle_count"], written["uptime_seconds"]) == ("scheduler", 60, 60.0)
    assert written["processes"][0]["leads"] is False


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"is_loop_alive": False, "loop_late": timedelta(seconds=31)},
            "Periodiq's loop is dead: it should have woken up 31 s ago",
        ),
        ({"is_election_alive": False}, "the election is dead: its thread has ended or hangs"),
    ],
)
def test_a_scheduler_of_which_a_part_is_dead_is_stopped_and_a_restart_would_help(
    given: dict[str, Any], reason: str
) -> None:
    report = scheduler(**given)

    assert outcome(report) == ("stopped", False, False)
    assert report.reasons == (reason,)


@pytest.mark.parametrize(
    ("leaderless", "expected"),
    [
        (timedelta(seconds=15) + LEADERLESS, "healthy"),
        (timedelta(seconds=15) + LEADERLESS + timedelta(microseconds=1), "degraded"),
    ],
)
def test_a_scheduler_that_knows_of_no_leader_for_a_lease_and_ten_seconds_says_so(
    leaderless: timedelta, expected: str
) -> None:
    report = scheduler(leads=False, leaderless=leaderless)

    assert outcome(report) == (expected, True, expected == "healthy")
    if report.reasons:
        assert report.reasons == ("nobody leads, neither this scheduler nor another that it knows of, for 25 s",)


def test_a_scheduler_says_that_redis_cannot_be_used_and_that_ticks_are_not_enqueued() -> None:
    failing = {"process_idle_conversations": "OOM"}

    assert outcome(scheduler(trouble=DOWN)) == ("degraded", True, False)
    assert scheduler(trouble=DOWN, failing_ticks=failing).reasons == (
        "Redis cannot be used since 2026-01-31 12:00:00 UTC: connection refused",
    )
    assert scheduler(failing_ticks=failing).reasons == (
        "the last tick of process_idle_conversations was not enqueued: OOM",
    )
    assert scheduler(failing_ticks=failing, leads=False).is_ready


# The tally.


def test_runs_are_counted_with_what_they_processed_also_when_they_fail() -> None:
    clock, instants = Clock(), iter([NOON, NOON + SECOND])
    tally = RunTally(monotonic=clock, clock=lambda: next(instants))

    with tally.run(Task.IDLE) as run:
        run.add(3)
        run.add(4)
        clock.seconds += 2

    def interrupted() -> None:
        with tally.run(Task.IDLE) as run:
            run.add(1)
            clock.seconds += 1
            raise KeyboardInterrupt  # which is no Exception either

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert tally.counts() == {
        Task.IDLE: TaskCounts(
            2, 1, 1, 8, NOON + SECOND, NOON, Failure(NOON + SECOND, "KeyboardInterrupt"), total_seconds=3
        ),
        Task.EXPIRED: TaskCounts(),
    }


def test_runs_of_several_threads_are_all_counted() -> None:
    tally = RunTally()

    def work() -> None:
        for _ in range(500):
            with tally.run(Task.EXPIRED) as run:
                run.add(2)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    counts = tally.counts()[Task.EXPIRED]
    assert (counts.runs, counts.successes, counts.items_processed) == (2000, 2000, 4000)


# Where the command asks.


@pytest.mark.parametrize(
    ("role", "variables", "expected"),
    [
        (Role.WORKER, {}, "http://127.0.0.1:9191"),
        (Role.SCHEDULER, {}, "http://127.0.0.1:9192"),
        (Role.WORKER, {"dramatiq_prom_port": "9300", "dramatiq_prom_host": "0.0.0.0"}, "http://127.0.0.1:9300"),
        (Role.WORKER, {"dramatiq_prom_host": "10.0.0.7"}, "http://10.0.0.7:9191"),
        (Role.WORKER, {"dramatiq_prom_host": "::"}, "http://[::1]:9191"),
        (Role.WORKER, {"dramatiq_prom_host": "fd00::7"}, "http://[fd00::7]:9191"),
        (Role.SCHEDULER, {"BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "9400"}, "http://127.0.0.1:9400"),
    ],
)
def test_the_environment_says_where_to_ask(
    role: Role, variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    assert base_url(role, {"ADJOURN_DATA_DIR": str(tmp_path), **variables}) == expected


def test_an_adjourn_run_on_other_ports_is_found_unless_the_environment_names_one(tmp_path: Path) -> None:
    (tmp_path / "endpoints.json").write_text(
        json.dumps({"pid": os.getpid(), "worker": "http://127.0.0.1:41001", "scheduler": "http://127.0.0.1:41002"})
    )
    variables = {"ADJOURN_DATA_DIR": str(tmp_path)}

    assert base_url(Role.WORKER, variables) == "http://127.0.0.1:41001"
    assert base_url(Role.WORKER, {**variables, "dramatiq_prom_port": "9300"}) == "http://127.0.0.1:9300"
    port = "BACKGROUND_TASK_SCHEDULER_METRICS_PORT"
    assert base_url(Role.SCHEDULER, {**variables, port: "0"}) == "http://127.0.0.1:41002"
    ended = subprocess.Popen(["true"])
    ended.wait()
    for left in ("[]", json.dumps({"pid": ended.pid, "worker": "http://127.0.0.1:41001"})):
        (tmp_path / "endpoints.json").write_text(left)
        assert base_url(Role.WORKER, variables) == "http://127.0.0.1:9191"


def test_the_command_loads_little_before_a_scheduler_does_not_answer() -> None:
    script = "import sys, services.cli, services.operations.health_report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT)

    loaded = set(done.stdout.split())
    assert "services.operations.asking_health" in loaded
    assert not loaded & {"sqlalchemy", "sqlmodel", "dramatiq", "redis", "pydantic", "structlog", "prometheus_client"}

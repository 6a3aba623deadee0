"""What ``adjourn status`` calls wrong, and whether conversations end on time."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.backlog import UNKNOWN, TaskBacklog
from services.cluster.state import (
    Asked,
    ClaimedSlot,
    QueueStatus,
    Run,
    RunOutcome,
    SchedulerState,
    SchedulerStatus,
    Trigger,
)
from services.operations.overview import SourceState
from services.operations.problem import ProblemKind
from services.operations.problems import problems_of
from services.operations.punctuality import Punctuality, punctuality_of
from services.scheduling.queue import Outcome
from services.tasks import Task
from tests.statuses import (
    BACKLOG,
    NOTHING_DUE,
    SCHEDULER,
    SECOND,
    STATUS,
    TASK,
    WORKER,
    due_for,
    kinds,
    overview_of,
    with_task,
)
from tests.support import MOMENT, NOON


def test_nothing_is_wrong_with_a_leader_and_tasks_that_run() -> None:
    assert kinds(STATUS) == []


@pytest.mark.parametrize(("late", "said"), [(20 * SECOND, []), (20 * SECOND + MOMENT, [ProblemKind.OVERDUE])])
def test_a_slot_is_overdue_when_it_was_not_claimed_within_the_patience(
    late: timedelta, said: list[ProblemKind]
) -> None:
    assert kinds(with_task(next_slot=NOON - late)) == said


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": None},
        # A leader wrote it down a moment after the slot was claimed.
        {"last_slot": ClaimedSlot(NOON - 3600 * SECOND, Outcome.ENQUEUED, None, None, None)},
    ],
)
def test_a_slot_of_no_schedule_or_one_that_was_claimed_is_not_overdue(changes: dict[str, Any]) -> None:
    assert kinds(with_task(next_slot=NOON - 3600 * SECOND, **changes)) == []


def test_a_paused_task_is_paused_and_not_overdue() -> None:
    status = with_task(next_slot=NOON - 3600 * SECOND, pause=Asked(NOON - 90 * SECOND, "ann@web-1"))

    (problem,) = problems_of(overview_of(status))
    assert problem.kind is ProblemKind.PAUSED
    assert problem.text == (
        "idle_conversations is paused since 11:58:30 UTC (1 min 30 s ago) by ann@web-1; to go on: adjourn resume idle"
    )


def run(seconds_ago: float, outcome: RunOutcome = RunOutcome.DONE) -> Run:
    at = NOON - seconds_ago * SECOND
    return Run(at, at, None if outcome is RunOutcome.RUNNING else at, outcome, 60 * SECOND)


@pytest.mark.parametrize(
    ("awaited", "last_run", "said"),
    [
        (20, run(3_620), False),
        (21, run(3_621), True),
        (21, None, True),
        # It runs, so what comes meanwhile waits; but not for longer than it may.
        (40, run(59, RunOutcome.RUNNING), False),
        (40, run(60, RunOutcome.RUNNING), True),
        (None, run(9_000), False),
        (None, None, False),
    ],
)
def test_messages_that_no_worker_takes_are_said_to_wait(
    awaited: int | None, last_run: Run | None, *, said: bool
) -> None:
    status = with_task(awaited_since=awaited and NOON - awaited * SECOND, last_run=last_run)

    assert (ProblemKind.NOT_RUN in kinds(status)) == said


def test_a_failed_run_and_a_request_that_waits_are_said() -> None:
    failed = Run(None, NOON - 5 * SECOND, NOON - 2 * SECOND, RunOutcome.FAILED)

    status = with_task(last_run=failed, waiting_trigger=Trigger("r", NOON - 9 * SECOND, "ann@web-1"))

    assert [problem.text for problem in problems_of(overview_of(status))] == [
        (
            "the last run of idle_conversations failed, which began at 11:59:55 UTC (5 s ago) after 3 s: "
            "the log of the workers says why"
        ),
        "a run of idle_conversations that ann@web-1 asked for at 11:59:51 UTC (9 s ago) waits for a leader to send it",
    ]


@pytest.mark.parametrize(
    ("schedulers", "last_term", "said"),
    [
        ((), None, "none was ever heard of; start one with: periodiq actors"),
        ((), 7, "none runs; start one with: periodiq actors"),
        (
            (replace(SCHEDULER, state=SchedulerState.GONE, heard_at=NOON - 3_700 * SECOND),),
            7,
            (
                "the last one heard of that did not resign was web-1 (pid 12) at 10:58:20 UTC (1 h 1 min ago); "
                "start one with: periodiq actors"
            ),
        ),
        (
            (replace(SCHEDULER, state=SchedulerState.STANDING_BY, heard_at=NOON - 2 * SECOND),),
            7,
            "the last one heard of was web-1 (pid 12) at 11:59:58 UTC (2 s ago)",
        ),
    ],
)
def test_without_a_leader_it_says_who_was_heard_of_last(
    schedulers: tuple[SchedulerStatus, ...], last_term: int | None, said: str
) -> None:
    (problem,) = problems_of(overview_of(replace(STATUS, leader=None, schedulers=schedulers, last_term=last_term)))

    assert problem.text == f"no scheduler leads: {said}"


def test_a_loop_that_is_stuck_is_said_unless_its_scheduler_is_gone() -> None:
    stuck = replace(SCHEDULER, loop="stuck")

    assert kinds(replace(STATUS, schedulers=(stuck,))) == [ProblemKind.LOOP_STUCK]
    assert kinds(replace(STATUS, schedulers=(replace(stuck, state=SchedulerState.GONE),))) == []


def test_what_is_worst_comes_first() -> None:
    status = with_task(waiting_trigger=Trigger("r", None, None), pause=Asked(None, None))

    assert kinds(replace(status, leader=None)) == [
        ProblemKind.NO_LEADER,
        ProblemKind.PAUSED,
        ProblemKind.TRIGGER_WAITS,
    ]


@pytest.mark.parametrize(
    ("oldest", "interval", "is_overdue"),
    [
        (180 * SECOND, 60 * SECOND, False),
        (180 * SECOND + MOMENT, 60 * SECOND, True),
        (30 * SECOND, 10 * SECOND, False),
        (30 * SECOND + MOMENT, 10 * SECOND, True),
        # Nobody knows the interval.
        (180 * SECOND, None, False),
        (180 * SECOND + MOMENT, None, True),
    ],
)
def test_conversations_are_overdue_after_three_intervals_of_their_task(
    oldest: timedelta, interval: timedelta | None, *, is_overdue: bool
) -> None:
    overview = overview_of(with_task(interval=interval, last_success_at=NOON), backlog=due_for(oldest))

    assert kinds(overview) == [ProblemKind.OVERDUE_CONVERSATIONS] * is_overdue
    assert punctuality_of(overview, problems_of(overview)) == ("late" if is_overdue else "on_time")


def test_how_many_are_overdue_is_said_as_far_as_it_is_known() -> None:
    counted, uncounted, capped = (
        problems_of(overview_of(backlog=replace(BACKLOG, tasks={Task.IDLE: due, Task.EXPIRED: NOTHING_DUE})))[0].text
        for due in (
            TaskBacklog(1_204, due_is_capped=False, oldest_due=250 * SECOND),
            TaskBacklog(None, due_is_capped=False, oldest_due=250 * SECOND),
            TaskBacklog(1_000_000, due_is_capped=True, oldest_due=250 * SECOND),
        )
    )

    assert counted == "idle_conversations are overdue: 1,204 due, the oldest for 4 min 10 s"
    assert uncounted == "idle_conversations are overdue: some due, the oldest for 4 min 10 s"
    assert capped == "idle_conversations are overdue: 1,000,000 or more due, the oldest for 4 min 10 s"


@pytest.mark.parametrize(
    ("seconds_ago", "changes", "said"),
    [
        (195, {}, False),
        (195.001, {}, True),
        (45, {"interval": 10 * SECOND}, False),
        (45.001, {"interval": 10 * SECOND}, True),
        (9_000, {"interval": None}, False),
        (9_000, {"schedule": None}, False),
        (9_000, {"pause": Asked(NOON, "ann")}, False),
    ],
)
def test_a_task_without_success_for_three_intervals_and_a_little_is_said_unless_it_should_not_run(
    seconds_ago: float, changes: dict[str, Any], *, said: bool
) -> None:
    status = with_task(last_success_at=NOON - seconds_ago * SECOND, **changes)

    assert (ProblemKind.NO_SUCCESS in kinds(status)) == said


def test_a_task_of_which_no_success_is_known_may_have_had_one() -> None:
    assert kinds(with_task(last_success_at=None)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, True),
        ({"leader": None}, True),
        ({"tasks": ()}, True),
        # Nobody sends messages that would wait for one.
        ({"leader": None, "tasks": (replace(TASK, schedule=None),)}, False),
    ],
)
def test_no_worker_is_wrong_where_one_should_be(changes: dict[str, Any], *, said: bool) -> None:
    status = replace(STATUS, **changes)

    assert (ProblemKind.NO_WORKER in kinds(replace(status, workers=()))) == said
    assert (ProblemKind.NO_WORKER in kinds(replace(status, workers=(replace(WORKER, is_alive=False),)))) == said
    assert ProblemKind.NO_WORKER not in kinds(status)


def test_messages_that_wait_are_not_said_as_well_where_there_is_no_worker_at_all() -> None:
    status = with_task(awaited_since=NOON - 60 * SECOND)

    assert kinds(status) == [ProblemKind.NOT_RUN]
    assert kinds(replace(status, workers=())) == [ProblemKind.NO_WORKER]


def test_a_worker_that_fell_silent_is_said_beside_one_that_works() -> None:
    gone = replace(WORKER, id="v", is_alive=False, heard_at=NOON - 40 * SECOND)

    (problem,) = problems_of(overview_of(replace(STATUS, workers=(WORKER, gone))))

    assert (problem.kind, problem.worker) == (ProblemKind.WORKER_GONE, "v")
    assert problem.text.startswith("the worker on web-3 (pid 13) is silent for 40 s: ")


def test_dead_letters_are_said_with_where_they_lie() -> None:
    queues = (QueueStatus("drains", 0, 1), QueueStatus("odd", None, None), QueueStatus("sweeps", 0, 1_204))

    (problem,) = problems_of(overview_of(replace(STATUS, queues=queues)))

    assert problem.kind is ProblemKind.DEAD_LETTERS
    assert problem.text.endswith(", 1 in drains, 1,204 in sweeps; to see why: adjourn dead-letters list")


def test_a_server_that_is_down_is_said_first_and_why() -> None:
    overview = overview_of()
    redis = replace(overview.redis, state=SourceState.DOWN, error="cannot use Redis")
    database = replace(overview.database, state=SourceState.DOWN, error="cannot use the database")

    neither = replace(overview, status=None, backlog=None, redis=redis, database=database)
    assert [(one.kind, one.text) for one in problems_of(neither)] == [
        (ProblemKind.REDIS_DOWN, "cannot use Redis"),
        (ProblemKind.DATABASE_DOWN, "cannot use the database"),
    ]
    measured = replace(BACKLOG, measured_at=NOON - 12 * SECOND)
    only_redis = replace(overview, database=database, backlog=measured, is_backlog_current=False)
    assert [one.text for one in problems_of(only_redis)] == [
        "cannot use the database; a worker measured what is due 12 s ago"
    ]


def test_an_embedded_database_that_is_not_there_yet_is_nothing_wrong() -> None:
    overview = overview_of(backlog=None)

    assert kinds(replace(overview, database=replace(overview.database, state=SourceState.ABSENT))) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, Punctuality.ON_TIME),
        ({"backlog": None}, Punctuality.UNKNOWN),
        ({"backlog": due_for(9 * SECOND, due=None)}, Punctuality.ON_TIME),
        ({"backlog": replace(BACKLOG, tasks={**BACKLOG.tasks, Task.EXPIRED: UNKNOWN})}, Punctuality.UNKNOWN),
        ({"status": replace(STATUS, leader=None)}, Punctuality.AT_RISK),
        ({"status": replace(STATUS, workers=())}, Punctuality.AT_RISK),
        ({"status": replace(STATUS, leader=None), "backlog": due_for(181 * SECOND)}, Punctuality.LATE),
        # It wants a look, and delays nothing.
        ({"status": replace(STATUS, queues=(QueueStatus("sweeps", 0, 1),))}, Punctuality.ON_TIME),
    ],
)
def test_conversations_end_on_time_unless_one_is_overdue_or_something_will_make_it_so(
    changes: dict[str, Any], said: Punctuality
) -> None:
    overview = overview_of(**changes)

    assert punctuality_of(overview, problems_of(overview)) is said


@pytest.mark.parametrize(
    ("count", "said", "punctuality"),
    [
        (None, [], Punctuality.ON_TIME),
        (0, [], Punctuality.ON_TIME),
        (1, [ProblemKind.SET_ASIDE], Punctuality.AT_RISK),
    ],
)
def test_what_is_set_aside_is_a_problem_and_no_lateness_of_the_others(
    count: int | None, said: list[ProblemKind], punctuality: Punctuality
) -> None:
    overview = replace(overview_of(STATUS), backlog=replace(BACKLOG, set_aside=count))

    problems = problems_of(overview)

    assert [problem.kind for problem in problems] == said
    assert punctuality_of(overview, problems) is punctuality

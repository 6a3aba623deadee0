"""How ``adjourn status`` is printed: the screen for people, the object for programs."""

import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from services.backlog import TaskBacklog
from services.cluster.state import (
    Asked,
    ClaimedSlot,
    QueueStatus,
    Run,
    RunOutcome,
    SchedulerState,
    SchedulerStatus,
    Status,
    Trigger,
    WorkerStatus,
)
from services.operations.overview import Clock, Overview, SourceState
from services.operations.status_json import json_text
from services.operations.status_screen import draw_screen
from services.scheduling.queue import Outcome
from services.tasks import Task
from services.wording import shorten, span
from tests.statuses import BACKLOG, SCHEDULER, SECOND, STATUS, TASK, WORKER, due_for, overview_of, screen, with_task
from tests.support import NOON

STANDBY = SchedulerStatus("t", SchedulerState.STANDING_BY, "web-2", 9, NOON, NOON - SECOND, "running")
EXPIRED_TASK = replace(TASK, task=Task.EXPIRED, actor="process_expired_conversations")


def lines(seen: Status | Overview) -> list[str]:
    return [" ".join(line.split()) for line in screen(seen).splitlines()]


def drawn(overview: Overview, **options: Any) -> str:
    """Return what is drawn on a terminal of 80 columns."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, highlight=False, **options)
    console.print(draw_screen(overview, width=console.width))
    return stream.getvalue()


def test_a_person_sees_whether_conversations_end_on_time_and_then_all_else() -> None:
    status = replace(with_task(next_slot=NOON + 48 * SECOND), schedulers=(SCHEDULER, STANDBY))

    assert lines(replace(status, tasks=(*status.tasks, EXPIRED_TASK))) == [
        "conversations end on time: 5,000 active, none due",
        "",
        "schedulers leader web-1 (pid 12) term 7 for 1 min",
        "standby web-2 (pid 9) heard 1 s ago",
        "workers alive web-3 (pid 13) 2 of 8 threads busy",
        "",
        "idle_conversations expired_conversations",
        "due now none none",
        "schedule every 60 s every 60 s",
        "last slot 11:59:00 enqueued 1 s late 11:59:00 enqueued 1 s late",
        "next slot 12:00:48 in 48 s 12:00:00 due since 0 ms",
        "last run 11:59:01 done in 1 s 11:59:01 done in 1 s",
        "runs 1,204, 3 failed 1,204, 3 failed",
        "ended 18,204 18,204",
        "",
        "queues drains 0, sweeps 2",
        "dead letters none",
        "redis redis://***@redis.example/0",
        "database postgresql+psycopg://adjourn:***@db.example/adjourn",
        "time 2026-01-31 12:00:00 UTC by the clock of Redis",
    ]


@pytest.mark.parametrize(
    ("overview", "said"),
    [
        (
            overview_of(backlog=replace(due_for(2 * SECOND), active_is_estimate=True)),
            "conversations end on time: about 5,000 active, the oldest due for 2 s",
        ),
        (
            overview_of(replace(STATUS, workers=()), backlog=due_for(2 * SECOND)),
            "conversations may end late: 5,000 active, the oldest due for 2 s",
        ),
        (
            overview_of(backlog=due_for(250 * SECOND)),
            "conversations end late: 5,000 active, the oldest due for 4 min 10 s",
        ),
        (
            overview_of(backlog=replace(BACKLOG, measured_at=NOON - 12 * SECOND), is_backlog_current=False),
            "conversations end on time: 5,000 active, none due, 12 s ago",
        ),
        (overview_of(backlog=None), "nobody can tell whether conversations end on time"),
    ],
)
def test_the_first_line_says_whether_conversations_end_on_time(overview: Overview, said: str) -> None:
    assert lines(overview)[0] == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"next_slot": NOON}, "next slot 12:00:00 due since 0 ms"),
        ({"next_slot": NOON - 65 * SECOND, "last_slot": None}, "next slot 11:58:55 overdue by 1 min 5 s"),
        ({"last_run": Run(None, NOON - 9 * SECOND, None, RunOutcome.RUNNING)}, "last run 11:59:51 running for 9 s"),
        (
            {"last_run": Run(None, NOON - 9 * SECOND, NOON, RunOutcome.FAILED)},
            "last success 11:59:02, 58 s ago",
        ),
        ({"last_slot": ClaimedSlot(NOON, Outcome.PAUSED, NOON + SECOND, 7, None)}, "last slot 12:00:00 paused"),
        (
            {"last_slot": ClaimedSlot(NOON, Outcome.CAUGHT_UP, NOON + SECOND, 7, None)},
            "last slot 12:00:00 caught up 1 s late",
        ),
        ({"last_slot": ClaimedSlot(NOON, None, None, None, None)}, "last slot 12:00:00 unknown"),
        (
            {"last_slot": ClaimedSlot(NOON - timedelta(days=1), Outcome.PAUSED, None, 7, None)},
            "last slot 2026-01-30 12:00:00 paused",
        ),
        ({"pause": Asked(NOON - SECOND, "ann@[red]web")}, "paused since 11:59:59, 1 s ago, by ann@[red]web"),
        ({"waiting_trigger": Trigger("r", None, None)}, "run awaited since unknown, by somebody"),
        ({"last_trigger": Trigger("r", NOON - SECOND, "ann", "m")}, "run sent 11:59:59, 1 s ago, by ann"),
        ({"schedule": None}, "schedule not scheduled"),
        ({"dropped": 1_234}, "ticks dropped 1,234"),
        ({"dropped": None}, "ticks dropped unknown"),
        ({"runs": 2, "failures": 0, "ended": 0}, "runs 2"),
        ({"runs": None, "failures": None}, "runs unknown, unknown failed"),
    ],
)
def test_a_row_says_what_there_is(changes: dict[str, Any], said: str) -> None:
    assert said in lines(with_task(**changes))


def test_what_is_due_is_told_of_each_task() -> None:
    capped = TaskBacklog(1_000_000, due_is_capped=True, oldest_due=250 * SECOND)
    uncounted = TaskBacklog(None, due_is_capped=False, oldest_due=None)

    overview = overview_of(backlog=replace(BACKLOG, tasks={Task.IDLE: capped, Task.EXPIRED: uncounted}))

    assert "due now 1,000,000 or more, oldest 4 min 10 s unknown" in lines(overview)


def test_what_redis_would_tell_is_left_out_when_it_is_down() -> None:
    overview = overview_of(None, clock=Clock.DATABASE, backlog=due_for(2 * SECOND))
    overview = replace(overview, redis=replace(overview.redis, state=SourceState.DOWN, error="cannot use Redis"))

    assert lines(overview) == [
        "conversations may end late: 5,000 active, the oldest due for 2 s",
        "! cannot use Redis",
        "",
        "idle_conversations expired_conversations",
        "due now 40, oldest 2 s none",
        "",
        "redis redis://***@redis.example/0 (down)",
        "database postgresql+psycopg://adjourn:***@db.example/adjourn",
        "time 2026-01-31 12:00:00 UTC by the clock of the database",
    ]


def test_figures_that_a_worker_measured_before_are_said_to_be_as_old_as_they_are() -> None:
    overview = overview_of(backlog=replace(BACKLOG, measured_at=NOON - 12 * SECOND), is_backlog_current=False)

    assert "due 12 s ago none none" in lines(overview)


def test_nobody_at_all_and_an_unknown_place_are_told() -> None:
    assert {"schedulers none", "workers none"} <= set(lines(replace(STATUS, leader=None, schedulers=(), workers=())))
    nameless = WorkerStatus("w-1", True, None, None, None, NOON, None, None)
    assert "workers alive w-1 heard 0 ms ago" in lines(replace(STATUS, workers=(nameless,)))


def crowded(**names: str) -> Overview:
    """Return what two schedulers and three workers, two of which are in trouble, look like."""
    worker, scheduler = (names.get(role, f"{role}-1") for role in ("worker", "scheduler"))
    workers = [replace(WORKER, id=str(n), host=worker, pid=4_194_300 + n) for n in range(2)]
    gone = replace(WORKER, id="g", host=worker, pid=4_194_303, is_alive=False, heard_at=NOON - 40 * SECOND)
    failed = Run(NOON, NOON - 60 * SECOND, NOON - 59 * SECOND, RunOutcome.FAILED, error="deadlock detected")
    status = replace(
        STATUS,
        schedulers=(replace(SCHEDULER, host=scheduler, pid=4_194_301), replace(STANDBY, host=scheduler, loop="stuck")),
        workers=(*workers, gone),
        tasks=(replace(TASK, last_run=failed), EXPIRED_TASK),
        queues=(*STATUS.queues, QueueStatus("measurements", 12, 1_204)),
    )
    return overview_of(status, backlog=due_for(250 * SECOND, due=1_204_003))


def test_no_row_is_wrapped_on_a_terminal_of_80_columns() -> None:
    overview = crowded(worker="adjourn-worker-7d9f8b6c5d-x2x4z", scheduler="adjourn-scheduler-7d9f8b6c5d-mm4qs")

    found = drawn(overview, color_system=None).splitlines()

    assert max(map(len, found)) <= 80
    # What begins a row's right part is a row of its own: none is the rest of another.
    assert [line.split()[0] for line in found if line.startswith(" " * 15)] == [
        "standby",
        "alive",
        "gone",
        "idle_conversations",
    ]
    assert "workers        alive    adjour…x2x4z (pid 4194300)  2 of 8 threads busy" in "\n".join(found)


def test_colours_are_for_what_is_wrong_and_what_is_not() -> None:
    assert "\x1b[1;32mconversations end on time\x1b[0m" in drawn(overview_of(), color_system="standard")
    assert "\x1b[31m" not in drawn(overview_of(), color_system="standard")
    wrong = drawn(crowded(), color_system="standard")
    assert "\x1b[1;31mconversations end late\x1b[0m" in wrong
    assert "\x1b[31m!\x1b[0m" in wrong
    assert "\x1b[31mgone" in wrong


def test_no_colour_is_used_where_none_is_wanted() -> None:
    shown = drawn(crowded(), _environ={"NO_COLOR": "1", "TERM": "xterm-256color"})

    assert "\x1b[1mconversations end late\x1b[0m" in shown
    assert not any(f"\x1b[{code}m" in shown for code in ("31", "1;31", "32", "1;32"))


def test_json_has_every_key_and_problems_first() -> None:
    status = with_task(pause=Asked(NOON, "ann@web-1"), last_run=None, awaited_since=NOON - 60 * SECOND)

    report = json.loads(json_text(overview_of(status, backlog=due_for(2.5 * SECOND))))

    assert list(report) == [
        *("punctuality", "problems", "now", "clock", "redis", "database", "leader", "last_term"),
        *("schedulers", "workers", "backlog", "tasks", "queues"),
    ]
    assert report["punctuality"] == "at_risk"
    assert report["problems"][1] == {
        "kind": "paused",
        "task": "idle_conversations",
        "scheduler": None,
        "worker": None,
        "text": (
            "idle_conversations is paused since 12:00:00 UTC (0 ms ago) by ann@web-1; to go on: adjourn resume idle"
        ),
    }
    assert (report["now"], report["clock"]) == ("2026-01-31T12:00:00.000Z", "redis")
    assert report["redis"] == {"url": "redis://***@redis.example/0", "state": "answers", "error": None}
    assert report["leader"] == {
        "id": "s",
        "host": "web-1",
        "pid": 12,
        "term": 7,
        "since": "2026-01-31T11:59:00.000Z",
        "lease_ends_at": "2026-01-31T12:00:10.000Z",
    }
    assert report["workers"] == [
        {
            "id": "w",
            "alive": True,
            "host": "web-3",
            "pid": 13,
            "started_at": "2026-01-31T12:00:00.000Z",
            "heard_at": "2026-01-31T11:59:59.000Z",
            "threads": 8,
            "busy": 2,
        }
    ]
    assert report["backlog"] == {
        "source": "database",
        "measured_at": "2026-01-31T12:00:00.000Z",
        "active": 5_000,
        "active_is_estimate": False,
        "set_aside": None,
    }
    assert report["queues"] == [
        {"name": "drains", "waiting": 0, "dead": 0},
        {"name": "sweeps", "waiting": 2, "dead": 0},
    ]
    assert report["tasks"] == [
        {
            "task": "idle_conversations",
            "actor": "process_idle_conversations",
            "due": 40,
            "due_is_capped": False,
            "oldest_due_seconds": 2.5,
            "schedule": "every 60 s",
            "interval_seconds": 60.0,
            "last_slot": {
                "slot": "2026-01-31T11:59:00.000Z",
                "outcome": "enqueued",
                "enqueued_at": "2026-01-31T11:59:01.000Z",
                "late_seconds": 1.0,
                "term": 7,
                "message_id": "m",
            },
            "next_slot": "2026-01-31T12:00:00.000Z",
            "overdue": False,
            "last_run": None,
            "last_success_at": "2026-01-31T11:59:02.000Z",
            "runs": 1204,
            "failures": 3,
            "ended": 18204,
            "awaited_since": "2026-01-31T11:59:00.000Z",
            "dropped": 0,
            "paused": {"at": "2026-01-31T12:00:00.000Z", "by": "ann@web-1"},
            "waiting_trigger": None,
            "last_trigger": None,
        }
    ]


def test_json_has_the_same_keys_when_nobody_answers() -> None:
    known, unknown = (json.loads(json_text(one)) for one in (overview_of(), overview_of(None, backlog=None)))

    assert list(known) == list(unknown)
    assert [list(task) for task in unknown["tasks"]] == [list(known["tasks"][0])] * 2
    assert unknown["tasks"][0] == {
        **dict.fromkeys(known["tasks"][0]),
        "task": "idle_conversations",
        "actor": "process_idle_conversations",
        "due_is_capped": False,
    }
    assert {unknown[key] for key in ("leader", "last_term", "schedulers", "workers", "backlog", "queues")} == {None}


def test_json_fits_on_a_line_when_it_should() -> None:
    assert "\n" not in json_text(overview_of(), indent=None)


def test_a_slot_that_was_enqueued_on_the_dot_is_zero_seconds_late() -> None:
    status = with_task(last_slot=ClaimedSlot(NOON, Outcome.ENQUEUED, NOON, 7, "m"))

    assert json.loads(json_text(overview_of(status)))["tasks"][0]["last_slot"]["late_seconds"] == 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.9999, "999 ms"),
        (1, "1 s"),
        (-59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_601, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_a_span_is_told_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert span(seconds * SECOND) == said


@pytest.mark.parametrize(("longest", "said"), [(9, "worker-12"), (8, "work…-12"), (7, "wor…-12"), (2, "w…"), (1, "…")])
def test_a_long_name_loses_its_middle(longest: int, said: str) -> None:
    assert shorten("worker-12", longest) == said

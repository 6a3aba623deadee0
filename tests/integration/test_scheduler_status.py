"""What ``adjourn status`` reads from Redis, what it calls wrong, and how it prints it."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import time_machine

from services.embedded.redis_server import PrivateRedis
from services.errors import RedisUnavailableError
from services.operations.asking import asking, redis_url_to_ask
from services.operations.problems import ProblemKind, problems_of
from services.operations.status import (
    Asked,
    ClaimedSlot,
    Leader,
    Run,
    RunOutcome,
    SchedulerState,
    SchedulerStatus,
    Status,
    TaskStatus,
    Trigger,
    actor_of,
    read_status,
)
from services.operations.status_json import json_text
from services.operations.status_tables import print_tables
from services.operations.wording import span
from services.scheduling import keys
from services.scheduling.queue import Outcome
from services.settings import load_settings
from services.tasks import Task
from tests.servers import redis_server_with
from tests.support import MOMENT, NOON

SECOND = timedelta(seconds=1)
IDLE = keys.task_key(actor_of(Task.IDLE))
URL = "redis://:secret@redis.example/0"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def now_ms(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return int(seconds * 1000 + microseconds // 1000)


def take_lease(client: redis.Redis, holder: str, *, lease_ms: int = 15_000, term: int = 7) -> None:
    client.set(keys.TERM, term)
    client.hset(keys.LEASE, mapping={"holder": holder, "term": term, "since": now_ms(client), "timeout": lease_ms})
    client.pexpire(keys.LEASE, lease_ms)
    be_heard(client, holder)


def be_heard(client: redis.Redis, scheduler: str, *, seconds_ago: float = 0, **about: Any) -> None:
    said = {"host": f"host-of-{scheduler}", "pid": 12, "started_at": NOON.isoformat(), "loop": "running", **about}
    client.hset(keys.MEMBERS, scheduler, json.dumps(said))
    client.zadd(keys.SEEN, {scheduler: now_ms(client) - seconds_ago * 1000})


def idle_task(status: Status) -> TaskStatus:
    return status.tasks[0]


def table(status: Status) -> str:
    stream = io.StringIO()
    print_tables(status, redis_url=URL, stream=stream)
    return stream.getvalue()


def cells(status: Status) -> list[str]:
    """Return the cells of a table of one task, each as one line."""
    lines = table(status).splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("task "))
    starts = [lines[head].index(name) for name in ("task", "last slot", "next slot", "last run", "asked for")]
    columns = zip(starts, [*starts[1:], None], strict=True)
    return [" ".join(" ".join(line[start:end].split()) for line in lines[head + 2 :]) for start, end in columns]


# What is read


def test_an_empty_redis_has_no_leader_and_tasks_that_are_not_scheduled(client: redis.Redis) -> None:
    status = read_status(client=client)

    assert (status.leader, status.last_term, status.schedulers) == (None, None, ())
    assert [task.task for task in status.tasks] == list(Task)
    assert idle_task(status) == TaskStatus(
        task=Task.IDLE,
        actor="process_idle_conversations",
        schedule=None,
        last_slot=None,
        next_slot=None,
        last_run=None,
        awaited_since=None,
        dropped=0,
        pause=None,
        waiting_trigger=None,
        last_trigger=None,
    )
    assert [problem.text for problem in problems_of(status)] == [
        "no scheduler leads: none was ever heard of; start one with: periodiq actors"
    ]


def test_the_leader_comes_first_then_those_who_stand_by_then_those_who_are_gone(client: redis.Redis) -> None:
    be_heard(client, "a", seconds_ago=60)
    be_heard(client, "b", seconds_ago=5, loop="stuck")
    take_lease(client, "c")

    status = read_status(client=client)

    assert [(one.id, one.state) for one in status.schedulers] == [
        ("c", SchedulerState.LEADING),
        ("b", SchedulerState.STANDING_BY),
        ("a", SchedulerState.GONE),
    ]
    assert status.schedulers[1].host == "host-of-b"
    assert status.schedulers[1].started_at == NOON
    assert status.schedulers[1].loop == "stuck"
    assert status.leader is not None
    assert (status.leader.host, status.leader.pid, status.leader.term) == ("host-of-c", 12, 7)
    assert status.leader.since is not None
    assert status.now - SECOND < status.leader.since <= status.now
    assert status.leader.lease_ends_at is not None
    assert timedelta(seconds=14) < status.leader.lease_ends_at - status.now <= timedelta(seconds=15)


@pytest.mark.parametrize(
    ("lease_ms", "seconds_ago", "state"),
    [
        (3_000, 6, SchedulerState.STANDING_BY),
        (3_000, 9, SchedulerState.GONE),
        (120_000, 60, SchedulerState.STANDING_BY),
        (120_000, 127, SchedulerState.GONE),
    ],
)
def test_a_scheduler_is_gone_when_it_was_silent_for_a_lease_and_five_seconds_whatever_the_lease(
    client: redis.Redis, lease_ms: int, seconds_ago: float, state: SchedulerState
) -> None:
    be_heard(client, "quiet", seconds_ago=seconds_ago)
    take_lease(client, "leader", lease_ms=lease_ms)

    assert read_status(client=client).schedulers[1].state is state


def test_a_leader_who_is_not_among_the_members_is_shown_by_its_id(client: redis.Redis) -> None:
    client.hset(keys.LEASE, mapping={"holder": "somebody"})
    client.pexpire(keys.LEASE, 15_000)

    status = read_status(client=client)

    assert status.leader is not None
    assert (status.leader.id, status.leader.host, status.leader.term) == ("somebody", None, None)
    assert "an unknown host (pid unknown) somebody" in table(status)


def test_a_task_is_read_whole(client: redis.Redis) -> None:
    at = int(NOON.timestamp())
    client.hset(
        IDLE,
        mapping={
            "slot": at,
            "message_id": "m1",
            "outcome": "caught_up",
            "term": 3,
            "enqueued_at": at * 1000 + 2_500,
            "schedule": "every 60 s",
            "next_slot": at + 60,
            "dropped": 4,
            "awaited_since": at * 1000 + 4_000,
            "run_slot": at,
            "run_started_at": at * 1000 + 3_000,
            "run_ended_at": at * 1000 + 3_012,
            "run_outcome": "failed",
            "paused_at": at * 1000 + 5_000,
            "paused_by": "ann@web-1",
            "trigger_id": "r2",
            "trigger_at": at * 1000 + 6_000,
            "trigger_by": "bob@web-1",
            "triggered_id": "r1",
            "triggered_at": at * 1000 + 1_000,
            "triggered_by": "cy@web-1",
            "triggered_message_id": "m0",
        },
    )

    task = idle_task(read_status(client=client))

    assert task == TaskStatus(
        task=Task.IDLE,
        actor="process_idle_conversations",
        schedule="every 60 s",
        last_slot=ClaimedSlot(NOON, Outcome.CAUGHT_UP, NOON + 2.5 * SECOND, 3, "m1"),
        next_slot=NOON + 60 * SECOND,
        last_run=Run(NOON, NOON + 3 * SECOND, NOON + 3.012 * SECOND, RunOutcome.FAILED),
        awaited_since=NOON + 4 * SECOND,
        dropped=4,
        pause=Asked(NOON + 5 * SECOND, "ann@web-1"),
        waiting_trigger=Trigger("r2", NOON + 6 * SECOND, "bob@web-1"),
        last_trigger=Trigger("r1", NOON + SECOND, "cy@web-1", "m0"),
    )
    assert task.last_slot is not None
    assert task.last_slot.lateness == 2.5 * SECOND


def test_a_run_that_has_not_ended_is_running_and_one_out_of_turn_has_no_slot(client: redis.Redis) -> None:
    client.hset(IDLE, mapping={"run_slot": "", "run_started_at": now_ms(client)})

    run = idle_task(read_status(client=client)).last_run

    assert run is not None
    assert (run.slot, run.outcome, run.duration) == (None, RunOutcome.RUNNING, None)


def test_a_slot_that_fell_in_a_pause_has_no_message(client: redis.Redis) -> None:
    client.hset(IDLE, mapping={"slot": 60, "message_id": "never-sent", "outcome": "paused"})

    slot = idle_task(read_status(client=client)).last_slot

    assert slot is not None
    assert (slot.outcome, slot.message_id) == (Outcome.PAUSED, None)


FIELDS = (
    *("slot", "message_id", "outcome", "term", "enqueued_at", "schedule", "next_slot", "dropped"),
    *("run_slot", "run_started_at", "run_ended_at", "run_outcome", "paused_at", "paused_by"),
    *("trigger_id", "trigger_at", "trigger_by"),
    *("triggered_id", "triggered_at", "triggered_by", "triggered_message_id"),
)


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"nan", b"-1", b"9" * 30, b"9" * 5_000, b"\x1b[31mred", b"[/red]"])
def test_values_that_make_no_sense_are_unknown_and_never_a_failure(client: redis.Redis, value: bytes) -> None:
    for task in Task:
        client.hset(keys.task_key(actor_of(task)), mapping=dict.fromkeys(FIELDS, value))
    client.set(keys.TERM, value)
    client.hset(keys.LEASE, mapping={"holder": "h", "term": value, "since": value, "timeout": value})
    client.hset(
        keys.MEMBERS, mapping={"h": value, b"\xff": b'{"pid": "x", "loop": [], "host": 1, "started_at": "noon"}'}
    )
    client.zadd(keys.SEEN, {"h": float("-inf"), "i": float("inf"), "j": 1e300, "k": -6e13})

    status = read_status(client=client)

    assert json.loads(json_text(status, redis_url=URL))["leader"]["id"] == "h"
    assert "\x1b" not in table(status)


def test_a_lease_of_any_length_can_be_shown(client: redis.Redis) -> None:
    take_lease(client, "h", lease_ms=2**60)
    client.zadd(keys.SEEN, {"h": -6e13})

    assert "its lease lasts for ever" in table(read_status(client=client))


def test_keys_of_another_type_are_unknown(client: redis.Redis) -> None:
    for key in (keys.LEASE, keys.MEMBERS, keys.SEEN, IDLE):
        client.set(key, "text")
    client.lpush(keys.TERM, "list")

    status = read_status(client=client)

    assert (status.leader, status.last_term, status.schedulers) == (None, None, ())
    assert idle_task(status).last_slot is None


def test_the_clock_of_the_machine_that_asks_does_not_matter(client: redis.Redis) -> None:
    take_lease(client, "leader")
    with time_machine.travel(datetime(2001, 1, 1, tzinfo=UTC)):
        shown = table(read_status(client=client))

    assert re.search(r"since [0-9:]{8}, [0-9]+ ms ago; its lease lasts 1[45] s still", shown)
    assert "nothing is wrong" in shown


# What is wrong

SCHEDULER = SchedulerStatus("s", SchedulerState.LEADING, "web-1", 12, NOON, NOON, "running")
TASK = TaskStatus(
    task=Task.IDLE,
    actor="process_idle_conversations",
    schedule="every 60 s",
    last_slot=ClaimedSlot(NOON - 60 * SECOND, Outcome.ENQUEUED, NOON - 59 * SECOND, 7, "m"),
    next_slot=NOON,
    last_run=Run(NOON - 60 * SECOND, NOON - 59 * SECOND, NOON - 58 * SECOND, RunOutcome.DONE),
    awaited_since=None,
    dropped=0,
    pause=None,
    waiting_trigger=None,
    last_trigger=None,
)
STATUS = Status(
    now=NOON,
    leader=Leader("s", "web-1", 12, 7, NOON - 60 * SECOND, NOON + 10 * SECOND),
    last_term=7,
    schedulers=(SCHEDULER,),
    tasks=(TASK,),
    patience=20 * SECOND,
)


def kinds(status: Status) -> list[ProblemKind]:
    return [problem.kind for problem in problems_of(status)]


def with_task(**changes: Any) -> Status:
    return replace(STATUS, tasks=(replace(TASK, **changes),))


def test_nothing_is_wrong_with_a_leader_and_tasks_that_run() -> None:
    assert kinds(STATUS) == []
    assert table(STATUS).startswith("nothing is wrong\n2026-01-31 12:00:00 UTC by the clock of redis://***@redis.")


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

    (problem,) = problems_of(status)
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


def test_a_redis_that_is_full_can_still_be_read(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        take_lease(client, "leader")
        client.config_set("maxmemory", 1)

        assert read_status(client=client).leader is not None


def test_a_failed_run_and_a_request_that_waits_are_said() -> None:
    failed = Run(None, NOON - 5 * SECOND, NOON - 2 * SECOND, RunOutcome.FAILED)

    status = with_task(last_run=failed, waiting_trigger=Trigger("r", NOON - 9 * SECOND, "ann@web-1"))

    assert [problem.text for problem in problems_of(status)] == [
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
    (problem,) = problems_of(replace(STATUS, leader=None, schedulers=schedulers, last_term=last_term))

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


# How it is printed


def test_a_person_sees_a_row_a_scheduler_and_a_row_a_task() -> None:
    standby = SchedulerStatus("t" * 36, SchedulerState.STANDING_BY, "web-2", 9, NOON - 86400 * SECOND, NOON, "stuck")
    status = replace(
        with_task(
            next_slot=NOON + 48 * SECOND,
            last_trigger=Trigger("r", NOON - 9 * SECOND, "ann@[red]web", "m"),
            dropped=1_234,
        ),
        schedulers=(SCHEDULER, standby),
    )

    assert [" ".join(line.split()) for line in table(status).splitlines()[2:]] == [
        "",
        "leader web-1 (pid 12) s term 7, since 11:59:00, 1 min ago; its lease lasts 10 s still",
        "standing by web-2 (pid 9) tttttttt started 2026-01-30 12:00:00; heard of 0 ms ago; its loop is stuck",
        "",
        "task last slot next slot last run asked for",
        table(status).splitlines()[7],
        "idle_conversations 11:59:00, 1 min ago 12:00:48 11:59:01, 59 s ago run, sent: 11:59:51, 9 s ago, ann@[red]web",
        "every 60 s enqueued 1 s late in 48 s done in 1 s",
        "by term 7 1,234 ticks dropped",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"next_slot": NOON}, "due since 0 ms"),
        ({"next_slot": NOON - 65 * SECOND, "last_slot": None}, "overdue by 1 min 5 s"),
        ({"last_run": Run(None, NOON - 9 * SECOND, None, RunOutcome.RUNNING)}, "running for 9 s"),
        ({"last_slot": ClaimedSlot(NOON, Outcome.PAUSED, NOON + SECOND, 7, None)}, "paused by term 7"),
        ({"last_slot": ClaimedSlot(NOON, Outcome.CAUGHT_UP, NOON + SECOND, 7, None)}, "caught up 1 s late by term 7"),
        ({"last_slot": ClaimedSlot(NOON, None, None, None, None)}, "12:00:00, 0 ms ago unknown by term unknown"),
        ({"pause": Asked(NOON - SECOND, "ann")}, "pause: 11:59:59, 1 s ago, ann"),
        ({"waiting_trigger": Trigger("r", None, None)}, "run, which waits: unknown, somebody"),
        ({"schedule": None}, "idle_conversations not scheduled"),
        ({"dropped": None}, "unknown ticks dropped"),
    ],
)
def test_a_row_says_what_there_is(changes: dict[str, Any], said: str) -> None:
    assert any(said in cell for cell in cells(with_task(**changes)))


def test_json_has_every_key_and_problems_first() -> None:
    status = with_task(pause=Asked(NOON, "ann@web-1"), last_run=None, awaited_since=NOON - 60 * SECOND)

    report = json.loads(json_text(status, redis_url=URL))

    assert list(report) == ["problems", "now", "redis", "leader", "last_term", "schedulers", "tasks"]
    assert report["problems"][1].items() >= {"kind": "paused", "task": "idle_conversations", "scheduler": None}.items()
    assert report["redis"] == "redis://***@redis.example/0"
    assert report["leader"] == {
        "id": "s",
        "host": "web-1",
        "pid": 12,
        "term": 7,
        "since": "2026-01-31T11:59:00.000Z",
        "lease_ends_at": "2026-01-31T12:00:10.000Z",
    }
    assert report["tasks"] == [
        {
            "task": "idle_conversations",
            "actor": "process_idle_conversations",
            "schedule": "every 60 s",
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
            "awaited_since": "2026-01-31T11:59:00.000Z",
            "dropped": 0,
            "paused": {"at": "2026-01-31T12:00:00.000Z", "by": "ann@web-1"},
            "waiting_trigger": None,
            "last_trigger": None,
        }
    ]


def test_a_slot_that_was_enqueued_on_the_dot_is_zero_seconds_late() -> None:
    status = with_task(last_slot=ClaimedSlot(NOON, Outcome.ENQUEUED, NOON, 7, "m"))

    assert json.loads(json_text(status, redis_url=URL))["tasks"][0]["last_slot"]["late_seconds"] == 0


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


# Which Redis is asked


def test_the_private_redis_of_a_run_is_found_in_the_data_directory(tmp_path: Path) -> None:
    settings = load_settings(ADJOURN_DATA_DIR=str(tmp_path), REDIS_URL=None)
    assert redis_url_to_ask(settings) == "redis://127.0.0.1:6379/0"

    server = PrivateRedis(tmp_path / "redis").start()
    try:
        assert redis_url_to_ask(settings) == server.url
        with asking(settings) as client:
            assert read_status(client=client).leader is None
        named = load_settings(ADJOURN_DATA_DIR=str(tmp_path), REDIS_URL="redis://elsewhere/3")
        assert redis_url_to_ask(named) == "redis://elsewhere/3"
    finally:
        server.stop()

    assert redis_url_to_ask(settings) == "redis://127.0.0.1:6379/0"


def test_a_redis_that_stops_answering_is_one_line_without_its_password(redis_url: str) -> None:
    settings = load_settings(REDIS_URL=redis_url)

    with (
        pytest.raises(RedisUnavailableError, match="cannot use Redis at"),
        asking(settings),
    ):
        raise redis.ConnectionError("gone")

    with (
        pytest.raises(RedisUnavailableError) as refused,
        asking(load_settings(REDIS_URL="redis://:pa55word@127.0.0.1:1/0")),
    ):
        pass
    assert "pa55word" not in str(refused.value)

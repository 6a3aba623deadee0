"""Pause, resume and trigger: what they ask of the schedulers, and what they say."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import redis

from services.cluster.state import Asked, TaskStatus
from services.cluster.status import read_status
from services.errors import InvalidValueError
from services.operations.control import (
    find_task,
    pause,
    request_trigger,
    resume,
    wait_for_trigger,
    who_asks,
)
from services.operations.report import print_pause, print_resume, print_trigger
from services.scheduling import keys
from services.tasks import Task, actor_of
from tests.support import wait_for

T = TypeVar("T")

IDLE = keys.task_key(actor_of(Task.IDLE))
SECOND = timedelta(seconds=1)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def woken(client: redis.Redis) -> Iterator[Callable[[], list[bytes]]]:
    """What schedulers have been woken by since the last call."""
    with client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(keys.WAKE)
        channel.get_message(timeout=5)

        def heard() -> list[bytes]:
            client.publish(keys.WAKE, "that is all")
            return list(iter(lambda: next(channel.listen())["data"], b"that is all"))

        yield heard


def idle_task(client: redis.Redis) -> TaskStatus:
    return read_status(client=client).tasks[0]


def redis_now(client: redis.Redis) -> datetime:
    seconds, microseconds = client.time()
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


def carry_out(client: redis.Redis, *, message_id: str) -> None:
    """Do to the request that waits what a leader does."""
    asked: Any = client.hmget(IDLE, "trigger_id", "trigger_by")
    done: dict[Any, Any] = {
        "triggered_id": asked[0],
        "triggered_by": asked[1],
        "triggered_at": int(redis_now(client).timestamp() * 1000),
        "triggered_message_id": message_id,
    }
    with client.pipeline(transaction=True) as at_once:
        at_once.hdel(IDLE, "trigger_id", "trigger_at", "trigger_by")
        at_once.hset(IDLE, mapping=done)
        at_once.execute()


def at_once(call: Callable[[str], T]) -> list[T]:
    """Return what ten people get who all ask at the same time."""
    ready = threading.Barrier(10)

    def ask(number: int) -> T:
        ready.wait()
        return call(f"person-{number}")

    with ThreadPoolExecutor(10) as people:
        return list(people.map(ask, range(10)))


# Names


@pytest.mark.parametrize("task", Task)
def test_a_task_goes_by_three_names(task: Task) -> None:
    assert {find_task(name) for name in (task.name.lower(), task.value, f"process_{task.value}")} == {task}


@pytest.mark.parametrize("name", ["", "IDLE", "idel", "process_idle"])
def test_any_other_name_is_refused_with_those_that_would_be_right(name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"is no task; give one of idle, idle_conversations, process_idle_conv"):
        find_task(name)


def test_the_person_and_the_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    assert who_asks().startswith("ann@")

    monkeypatch.setenv("LOGNAME", "\udcff\x1b[31m")
    assert who_asks().encode().startswith(b"??[31m@")


# Pause and resume


def test_a_pause_says_since_when_and_by_whom_and_wakes_the_schedulers(
    client: redis.Redis, woken: Callable[[], list[bytes]]
) -> None:
    before = redis_now(client)

    answer = pause(client=client, task=Task.IDLE, by="ann@web-1")

    assert answer.changed
    assert answer.pause is not None
    assert answer.pause.at is not None
    assert before - SECOND < answer.pause.at <= redis_now(client)
    assert idle_task(client).pause == Asked(answer.pause.at, "ann@web-1")
    assert read_status(client=client).tasks[1].pause is None
    assert woken() == [b"paused"]


def test_a_second_pause_changes_nothing_and_says_who_was_first(
    client: redis.Redis, woken: Callable[[], list[bytes]]
) -> None:
    first = pause(client=client, task=Task.IDLE, by="ann@web-1")

    second = pause(client=client, task=Task.IDLE, by="bob@web-2")

    assert not second.changed
    assert second.pause == first.pause == idle_task(client).pause
    assert woken() == [b"paused"]


def test_a_task_that_goes_on_is_not_paused_and_the_schedulers_are_woken(
    client: redis.Redis, woken: Callable[[], list[bytes]]
) -> None:
    paused = pause(client=client, task=Task.IDLE, by="ann@web-1")

    answer = resume(client=client, task=Task.IDLE)

    assert answer.changed
    assert answer.pause == paused.pause
    assert idle_task(client).pause is None
    assert not client.exists(IDLE)
    assert woken() == [b"paused", b"resumed"]


def test_a_task_that_was_not_paused_is_left_alone(client: redis.Redis, woken: Callable[[], list[bytes]]) -> None:
    answer = resume(client=client, task=Task.IDLE)

    assert (answer.changed, answer.pause) == (False, None)
    assert not client.exists(IDLE)
    assert woken() == []


def test_of_several_who_pause_at_once_one_does(client: redis.Redis) -> None:
    answers = at_once(lambda person: pause(client=client, task=Task.IDLE, by=person))

    assert [answer.changed for answer in answers].count(True) == 1
    assert {answer.pause for answer in answers} == {idle_task(client).pause}


# Trigger


def test_a_request_waits_for_the_leader_who_is_woken(client: redis.Redis, woken: Callable[[], list[bytes]]) -> None:
    before = redis_now(client)

    answer = request_trigger(client=client, task=Task.IDLE, by="ann@web-1")

    assert answer.added
    assert answer.trigger == idle_task(client).waiting_trigger
    assert answer.trigger.by == "ann@web-1"
    assert answer.trigger.at is not None
    assert before - SECOND < answer.trigger.at <= redis_now(client)
    assert woken() == [b"trigger"]


def test_a_request_that_waits_already_is_not_doubled(client: redis.Redis, woken: Callable[[], list[bytes]]) -> None:
    first = request_trigger(client=client, task=Task.IDLE, by="ann@web-1")

    second = request_trigger(client=client, task=Task.IDLE, by="bob@web-2")

    assert not second.added
    assert second.trigger == first.trigger == idle_task(client).waiting_trigger
    assert woken() == [b"trigger"]


def test_of_several_who_ask_at_once_one_request_waits(client: redis.Redis) -> None:
    answers = at_once(lambda person: request_trigger(client=client, task=Task.IDLE, by=person))

    assert [answer.added for answer in answers].count(True) == 1
    assert {answer.trigger for answer in answers} == {idle_task(client).waiting_trigger}


def test_who_waits_sees_the_request_carried_out(client: redis.Redis) -> None:
    request = request_trigger(client=client, task=Task.IDLE, by="ann@web-1").trigger
    leader = threading.Timer(0.2, carry_out, args=(client,), kwargs={"message_id": "m1"})
    leader.start()

    progress = wait_for_trigger(client=client, task=Task.IDLE, request_id=request.id, seconds=30)

    leader.join()
    assert not progress.waiting
    assert progress.done is not None
    assert (progress.done.id, progress.done.message_id) == (request.id, "m1")


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_who_waits_in_vain_is_told_that_it_waits_still(client: redis.Redis, seconds: float) -> None:
    request = request_trigger(client=client, task=Task.IDLE, by="ann@web-1").trigger

    progress = wait_for_trigger(client=client, task=Task.IDLE, request_id=request.id, seconds=seconds)

    assert (progress.waiting, progress.done) == (True, None)


def test_a_request_that_another_followed_is_not_taken_for_that_one(client: redis.Redis) -> None:
    first = request_trigger(client=client, task=Task.IDLE, by="ann@web-1").trigger
    carry_out(client, message_id="m1")
    request_trigger(client=client, task=Task.IDLE, by="ann@web-1")
    carry_out(client, message_id="m2")

    progress = wait_for_trigger(client=client, task=Task.IDLE, request_id=first.id, seconds=30)

    assert (progress.waiting, progress.done) == (False, None)


# What is said


@pytest.fixture
def said(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], list[str]]:
    """The lines that were printed since the last call."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("LOGNAME", "ann")
    return lambda: capsys.readouterr().out.splitlines()  # noqa: PLW0108 - read at each call


def test_each_step_of_a_pause_is_said(said: Callable[[], list[str]]) -> None:
    print_pause("idle")
    assert said() == ["idle_conversations is paused; to go on: adjourn resume idle"]

    print_pause("idle_conversations")
    (line,) = said()
    assert line.startswith("idle_conversations is paused already, since ")
    assert ", by ann@" in line
    assert line.endswith("; nothing changed")

    print_resume("idle")
    (line,) = said()
    assert line.startswith("idle_conversations goes on with its next slot; it was paused since ")

    print_resume("idle")
    assert said() == ["idle_conversations was not paused; nothing changed"]


def test_a_trigger_without_a_leader_says_what_will_become_of_it(said: Callable[[], list[str]]) -> None:
    print_trigger("idle", seconds=0)
    assert said() == [
        "a run of idle_conversations is asked for",
        "no scheduler leads now: it is sent as soon as one does; see: adjourn status",
    ]

    print_trigger("idle", seconds=0)
    assert said()[0].endswith(" waits already; no other is added")


def test_a_trigger_that_the_leader_does_not_carry_out_in_time_says_so(
    client: redis.Redis, said: Callable[[], list[str]]
) -> None:
    client.hset(keys.LEASE, mapping={"holder": "h", "term": 1})
    client.pexpire(keys.LEASE, 15_000)
    pause(client=client, task=Task.IDLE, by="ann@web-1")

    print_trigger("idle", seconds=0.1)

    assert said()[1:] == [
        (
            "it was not sent within 0.1 s: the leader, an unknown host (pid unknown), sends it at its next renewal; "
            "see: adjourn status"
        ),
        "idle_conversations is paused: that stops its schedule, not this run",
    ]


def test_a_trigger_that_was_carried_out_names_its_message(client: redis.Redis, said: Callable[[], list[str]]) -> None:
    client.hset(IDLE, "schedule", "every 60 s")

    def lead() -> None:
        wait_for(lambda: idle_task(client).waiting_trigger, what="the request")
        carry_out(client, message_id="m1")

    leader = threading.Thread(target=lead)
    leader.start()
    print_trigger("idle", seconds=30)
    leader.join()

    asked, sent = said()
    assert asked == "a run of idle_conversations is asked for"
    assert sent.startswith("it was sent at ")
    assert sent.endswith(": message m1")

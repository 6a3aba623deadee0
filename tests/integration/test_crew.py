"""The crew of a task: who drains its backlog, who is called in, and who has no room."""

import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from services.redis_client import connect
from services.scheduling.crew import CALL_TIMEOUT, Crew, Muster
from services.scheduling.keys import calls_key, crew_key
from services.scheduling.shift import HEARTBEAT, Shift
from tests.servers import redis_server_with

CREW, CALLS = crew_key("task"), calls_key("task")
#: Long enough for a busy machine; a test makes members older than they are.
SILENCE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scheduling.crew.SILENCE", SILENCE)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, timeout=5) as client:
        yield client


class Clock:
    """A monotonic clock that a test puts forward."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_as_many_are_in_as_may_be_and_the_next_is_refused(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=2)

    assert crew.join_or_stay("a") == Muster(is_in=True, size=1)
    assert crew.join_or_stay("b") == Muster(is_in=True, size=2)
    assert crew.join_or_stay("c") == Muster(is_in=False, size=2)
    assert crew.join_or_stay("a") == Muster(is_in=True, size=2)

    crew.leave("a")
    assert crew.join_or_stay("c") == Muster(is_in=True, size=2)


def test_crews_of_two_tasks_have_their_room_each(client: redis.Redis) -> None:
    assert Crew(client, "task", limit=1).join_or_stay("a").is_in
    assert Crew(client, "other", limit=1).join_or_stay("b").is_in


def age(client: redis.Redis, key: str, member: str, *, milliseconds: int) -> None:
    """Have it been so long since a member was heard of."""
    client.zincrby(key, -milliseconds, member)


def test_a_member_that_is_silent_for_too_long_loses_its_place(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=1)
    limit = int(SILENCE.total_seconds() * 1000)
    crew.join_or_stay("killed")

    age(client, CREW, "killed", milliseconds=limit // 2)
    assert not crew.join_or_stay("next").is_in
    age(client, CREW, "killed", milliseconds=limit // 2)
    assert crew.join_or_stay("next").is_in
    assert not crew.join_or_stay("killed").is_in


def test_who_stays_is_heard_of(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=1)
    limit = int(SILENCE.total_seconds() * 1000)
    crew.join_or_stay("a")
    age(client, CREW, "a", milliseconds=limit * 3 // 4)
    crew.join_or_stay("a")
    age(client, CREW, "a", milliseconds=limit * 3 // 4)

    assert not crew.join_or_stay("next").is_in


def test_nothing_of_a_crew_outlives_it(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=3)
    crew.join_or_stay("a", candidates=["b", "c"])
    assert 0 < int(client.pttl(CREW)) <= SILENCE.total_seconds() * 1000
    assert 0 < int(client.pttl(CALLS)) <= CALL_TIMEOUT.total_seconds() * 1000

    for member in ("a", "b", "c"):
        crew.leave(member)
    assert client.exists(CREW, CALLS) == 0


def test_no_more_are_called_in_than_there_is_room_for(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=4)

    assert crew.join_or_stay("a", candidates=["b", "c", "d"]).called == ["b", "c", "d"]
    assert crew.join_or_stay("e", candidates=["f", "g", "h"]).called == []  # they are on their way
    crew.leave("b")  # it came, and found nothing
    crew.leave("e")
    assert crew.join_or_stay("i", candidates=["j", "k", "l"]).called == []
    crew.leave("i")
    assert crew.join_or_stay("a", candidates=["m", "n"]).called == ["m"]


def test_who_was_called_and_comes_is_counted_once(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=3)
    crew.join_or_stay("a", candidates=["b", "c"])
    assert crew.join_or_stay("b") == Muster(is_in=True, size=2)

    assert client.zrange(CALLS, 0, -1) == [b"c"]


def test_a_call_that_nobody_followed_is_forgotten(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=2)
    crew.join_or_stay("a", candidates=["lost"])
    assert crew.join_or_stay("a", candidates=["b"]).called == []

    age(client, CALLS, "lost", milliseconds=int(CALL_TIMEOUT.total_seconds() * 1000))
    assert crew.join_or_stay("a", candidates=["b"]).called == ["b"]


def test_a_run_calls_in_as_many_as_there_is_room_for_once(client: redis.Redis) -> None:
    calls: list[Sequence[str]] = []
    clock = Clock()
    shift = Shift(Crew(client, "task", limit=3), call_in=calls.append, monotonic=clock)

    assert shift.proceed()
    clock.now += HEARTBEAT
    client.delete(CALLS)
    assert shift.proceed()

    assert [len(called) for called in calls] == [2]
    assert len({uuid.UUID(one) for one in calls[0]}) == 2
    assert (shift.called, shift.was_called) == (2, False)


def test_a_run_that_was_called_in_calls_nobody(client: redis.Redis) -> None:
    shift = Shift(Crew(client, "task", limit=3), sweep_id=uuid.uuid4())

    assert shift.proceed()
    assert client.exists(CALLS) == 0
    assert (shift.called, shift.was_called) == (0, True)


def test_a_run_for_which_there_is_no_room_ends_and_calls_nobody(client: redis.Redis) -> None:
    calls: list[Sequence[str]] = []
    Crew(client, "task", limit=1).join_or_stay("another")
    shift = Shift(Crew(client, "task", limit=1), call_in=calls.append)

    assert not shift.proceed()
    shift.end()

    assert shift.is_refused
    assert not calls
    assert client.zrange(CREW, 0, -1) == [b"another"]


def test_redis_is_asked_once_a_second_at_most(client: redis.Redis) -> None:
    clock = Clock()
    shift = Shift(Crew(client, "task", limit=1), call_in=lambda _: None, monotonic=clock)
    assert shift.proceed()
    client.zadd(CREW, {"another": "inf"})
    client.zrem(CREW, str(shift.sweep_id))

    clock.now += HEARTBEAT * 0.9
    assert shift.proceed()
    clock.now += HEARTBEAT * 0.1
    assert not shift.proceed()


def test_nothing_of_a_run_is_left_when_it_has_ended(client: redis.Redis) -> None:
    crew = Crew(client, "task", limit=3)
    called: list[str] = []
    first = Shift(crew, call_in=called.extend)
    first.proceed()
    second, third = (Shift(crew, sweep_id=uuid.UUID(one)) for one in called)
    second.proceed()

    for shift in (first, second, third):  # the third met no backlog
        shift.end()

    assert client.exists(CREW, CALLS) == 0


def test_a_run_that_is_told_to_stop_takes_no_further_batch(client: redis.Redis) -> None:
    shift = Shift(Crew(client, "task", limit=3), call_in=lambda _: None, is_stopping=lambda: True)

    assert not shift.proceed()
    assert not shift.is_refused
    assert client.exists(CREW, CALLS) == 0


def test_a_run_goes_on_alone_when_redis_does_not_answer(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, connect(server.url, timeout=10) as client:
        clock = Clock()
        crew = Crew(client, "task", limit=2)
        shift = Shift(crew, call_in=lambda _: None, monotonic=clock)
        assert shift.proceed()

        server.kill()
        clock.now += HEARTBEAT
        assert shift.proceed()
        shift.end()

        server.start()
        for member in ("a", "b"):
            crew.join_or_stay(member)
        clock.now += HEARTBEAT
        assert shift.proceed()  # it asks no more


def test_a_run_whose_calls_could_not_be_sent_takes_them_back(client: redis.Redis) -> None:
    def refuse(_: Sequence[str]) -> None:
        raise redis.ConnectionError("gone")

    shift = Shift(Crew(client, "task", limit=3), call_in=refuse)
    assert shift.proceed()
    shift.end()

    assert client.exists(CREW, CALLS) == 0

"""Dead letters: what is shown of them, and what becomes of those that are requeued or dropped."""

import json
import sqlite3
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.middleware import AgeLimit
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from actors.broker import TickBroker
from actors.failures import DeadLetterNotes
from services import cli
from services.errors import InvalidValueError
from services.operations.dead_letters import (
    KEPT_FOR,
    Address,
    DeadLetter,
    find_letters,
    letters_key,
    messages_key,
    newest_letters,
    queues_with_letters,
)
from services.operations.dead_letters_control import BATCH, Outcome, act_on, act_on_all, drop, requeue
from services.operations.dead_letters_report import print_drop, print_letter, print_letters, print_requeue
from services.operations.dead_letters_shown import table_lines
from services.redis_client import connect
from services.schedules import Every
from services.scheduling import keys
from services.scheduling.failures import LONGEST_ERROR, FailureNotes, error_line, note_key
from tests.schedulers import CountedActor, broker_on, messages, wait_until_drained, working
from tests.servers import redis_server_with
from tests.support import wait_for

QUEUE = "default"
HOURLY = Every(seconds=3_600)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def broker(redis_url: str) -> Iterator[TickBroker]:
    with ExitStack() as exits:
        client = exits.enter_context(connect(redis_url, timeout=5))
        yield exits.enter_context(broker_on(redis_url, AgeLimit(), DeadLetterNotes(client)))


def failing_actor(broker: TickBroker, error: Exception, *, name: str = "failing") -> Any:
    def fail() -> None:
        raise error

    return dramatiq.actor(broker=broker, actor_name=name, max_retries=0)(fail)


def newest(client: redis.Redis, *, queue: str = QUEUE, limit: int = 10) -> list[DeadLetter]:
    return list(newest_letters(client=client, queues=[queue], limit=limit).letters)


def wait_for_letter(client: redis.Redis) -> DeadLetter:
    (letter,) = wait_for(lambda: newest(client), what="a dead letter")
    return letter


def put_letters(
    client: redis.Redis, *ids: str, queue: str = QUEUE, since: int = 0, written: bytes | None = None, **fields: Any
) -> list[Address]:
    """Put letters where dramatiq does, each a millisecond after the one before."""
    with client.pipeline(transaction=False) as pipe:
        for number, one in enumerate(ids):
            message = {
                "queue_name": queue,
                "actor_name": "task",
                "args": [],
                "kwargs": {},
                "options": {"redis_message_id": one},
                "message_id": f"message of {one}",
                "message_timestamp": 0,
                **fields,
            }
            pipe.zadd(letters_key(queue), {one: since + number})
            pipe.hset(messages_key(queue), one, written if written is not None else json.dumps(message))
            pipe.set(keys.failure_key(one), json.dumps({"error": f"end of {one}"}))
        pipe.execute()
    return [Address(queue, one.encode()) for one in ids]


def outcomes(done: Iterator[tuple[Address, Outcome]]) -> Counter[Outcome]:
    return Counter(outcome for _, outcome in done)


def is_empty(client: redis.Redis, queue: str = QUEUE) -> bool:
    """Return whether nothing is left of the letters, not even a note."""
    return not client.exists(letters_key(queue), messages_key(queue)) and not client.keys(keys.failure_key("*"))


# What is shown


def test_a_message_that_failed_for_good_is_shown_with_the_reason(broker: TickBroker, client: redis.Redis) -> None:
    failing = failing_actor(broker, ValueError("key is taken\nDETAIL: Key (from_number)=(+33600000001) exists."))
    slot = datetime(2026, 1, 31, 12, tzinfo=UTC)
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    sent = failing.send_with_options(scheduled_at=slot.isoformat())
    with working(broker):
        letter = wait_for_letter(client)

    assert letter.address.id == sent.options["redis_message_id"]
    assert (letter.address.queue, letter.actor, letter.slot) == (QUEUE, "failing", slot)
    assert letter.why == "ValueError: key is taken"
    assert letter.message is not None
    assert letter.message["message_id"] == sent.message_id
    assert letter.died_at is not None
    assert before < letter.died_at <= datetime.now(UTC)
    assert letter.forgotten_from == letter.died_at + KEPT_FOR
    assert letter.failure is not None
    assert letter.failure.actor == "failing"
    assert letter.failure.at is not None
    assert before < letter.failure.at <= letter.died_at
    assert b"+336" not in (client.get(note_key(letter.address.key)) or b"")


def test_a_note_is_kept_as_long_as_its_letter(client: redis.Redis) -> None:
    FailureNotes(client).note("one", actor="task", error=ValueError(), ttl=KEPT_FOR)

    left = client.pttl(keys.failure_key("one"))
    kept_for = KEPT_FOR / timedelta(milliseconds=1)
    assert kept_for - 10_000 < left <= kept_for


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(), "ValueError"),
        (ValueError("\n first\nsecond"), "ValueError: first"),
        (KeyError("missing"), "KeyError: 'missing'"),
        (ValueError("x" * 1_000), ("ValueError: " + "x" * 1_000)[:LONGEST_ERROR]),
        (
            IntegrityError("INSERT", {"n": "+33600000001"}, sqlite3.DataError("taken\nDETAIL: +33600000001")),
            "DataError: taken",
        ),
    ],
)
def test_of_an_error_its_type_and_its_first_line_are_noted(error: Exception, line: str) -> None:
    assert error_line(error) == line


def test_an_actor_that_no_worker_knows_is_the_reason(broker: TickBroker, client: redis.Redis) -> None:
    CountedActor(broker, None)
    gone = failing_actor(broker, ValueError())
    gone.send()
    del broker.actors["failing"]
    with working(broker):
        letter = wait_for_letter(client)

    assert letter.actor == "failing"
    assert letter.why == "ActorNotFound: failing"


def test_the_newest_letters_of_all_queues_come_first_and_no_more_than_asked_for(client: redis.Redis) -> None:
    put_letters(client, "a1", "a3", queue="a", since=1)
    put_letters(client, "b2", "b3", queue="b", since=10)
    put_letters(client, "c", queue="c", since=5)

    found = newest_letters(client=client, queues=["a", "b", "c"], limit=3)

    assert [letter.address for letter in found.letters] == [
        Address("b", b"b3"),
        Address("b", b"b2"),
        Address("c", b"c"),
    ]
    assert [letter.why for letter in found.letters] == ["end of b3", "end of b2", "end of c"]
    assert found.total == 5


def test_a_letter_without_a_note_says_where_to_look(client: redis.Redis) -> None:
    put_letters(client, "one")
    client.delete(keys.failure_key("one"))

    assert newest(client)[0].why == "not noted: the log of the workers says why"


def test_the_queues_that_were_told_are_looked_into_else_those_with_letters(client: redis.Redis) -> None:
    assert queues_with_letters(client) == []

    put_letters(client, "one", queue="sweeps")
    put_letters(client, "two", queue="drains")
    assert queues_with_letters(client) == ["drains", "sweeps"]

    client.sadd(keys.QUEUES, "sweeps")
    assert queues_with_letters(client) == ["sweeps"]


# Requeue


def tick(task: CountedActor, *, hours_ago: int) -> None:
    slot = HOURLY.slot_at(datetime.now(UTC) - timedelta(hours=hours_ago))
    assert slot is not None
    task.actor.send_with_options(scheduled_at=slot.isoformat(), max_retries=0)


def requeue_all(client: redis.Redis) -> Counter[Outcome]:
    return outcomes(act_on_all(requeue, client=client, queues=[QUEUE]))


def test_a_tick_that_is_requeued_is_run_although_others_have_run_since(
    broker: TickBroker, client: redis.Redis, redis_url: str
) -> None:
    task = CountedActor(broker, HOURLY, failures=1)
    with working(broker):
        tick(task, hours_ago=3)
        died = wait_for_letter(client)
        task.actor.send()
        wait_for(lambda: task.runs == 2, what="the run of another message")

        assert requeue_all(client) == {Outcome.DONE: 1}

        wait_for(lambda: task.runs == 3, what="the run of the requeued tick")
        wait_until_drained(redis_url)
    assert is_empty(client)
    assert died.message is not None
    assert client.hget(keys.task_key("task"), "run_message_id") == died.message["message_id"].encode()


def test_a_requeued_message_has_all_its_tries_before_it(broker: TickBroker, client: redis.Redis) -> None:
    task = CountedActor(broker, None, failures=5)
    with working(broker):
        task.actor.send()
        assert wait_for_letter(client).why == "ConnectionError: try again"
        assert task.runs == 4

        requeue_all(client)

        wait_for(lambda: task.runs == 6, what="a retry")


def test_a_message_that_grew_too_old_is_young_again(broker: TickBroker, client: redis.Redis) -> None:
    task = CountedActor(broker, None, max_age=60_000)
    sent = int(datetime.now(UTC).timestamp() * 1000)
    broker.enqueue(task.actor.message().copy(message_timestamp=sent - 60_000))
    with working(broker):
        assert wait_for_letter(client).why == "SkipMessage: Message age limit exceeded"
        assert task.runs == 0

        requeue_all(client)

        wait_for(lambda: task.runs == 1, what="the run")


def test_a_message_is_requeued_as_it_was_but_for_what_made_it_a_tick_a_retry_or_a_delayed_one(
    client: redis.Redis, redis_url: str
) -> None:
    put_letters(
        client,
        "one",
        queue_name="default.DQ",
        args=[1, [], {}],
        kwargs={"name": "Zoë", "share": 0.1, "number": 12345678901234567890},
        options={
            "redis_message_id": "one",
            "max_retries": 5,
            "term": 7,
            "scheduled_at": "2026-01-31T12:00:00+00:00",
            "caught_up": True,
            "retries": 5,
            "requeue_timestamp": 1,
            "traceback": "…",
            "eta": 1,
        },
    )
    before = int(client.time()[0]) * 1000

    requeue_all(client)

    (message,) = messages(redis_url)
    new_id = message["options"].pop("redis_message_id")
    assert before <= message.pop("message_timestamp") <= before + 60_000
    assert message == {
        "queue_name": "default",
        "actor_name": "task",
        "args": [1, [], {}],
        "kwargs": {"name": "Zoë", "share": 0.1, "number": 12345678901234567890},
        "options": {"max_retries": 5, "term": 7},
        "message_id": "message of one",
    }
    assert client.lrange("dramatiq:default", 0, -1) == [new_id.encode()] != [b"one"]


def test_of_several_who_requeue_at_once_one_does_it(client: redis.Redis) -> None:
    addresses = put_letters(client, *(str(uuid.uuid4()) for _ in range(100)))
    ready = threading.Barrier(8)

    def ask(_: int) -> Counter[Outcome]:
        ready.wait()
        return outcomes(act_on(requeue, client=client, addresses=addresses))

    with ThreadPoolExecutor(8) as people:
        said = sum(people.map(ask, range(8)), Counter[Outcome]())

    assert said == {Outcome.DONE: 100, Outcome.GONE: 700}
    assert client.llen("dramatiq:default") == client.hlen("dramatiq:default.msgs") == 100
    assert is_empty(client)


def test_a_letter_that_died_again_is_another_one(broker: TickBroker, client: redis.Redis) -> None:
    failing_actor(broker, ValueError()).send()
    with working(broker):
        first = wait_for_letter(client)
        assert outcomes(act_on(requeue, client=client, addresses=[first.address])) == {Outcome.DONE: 1}
        again = wait_for_letter(client)

        assert again.address != first.address
        assert again.message is not None
        assert first.message is not None
        assert again.message["message_id"] == first.message["message_id"]
        assert outcomes(act_on(requeue, client=client, addresses=[first.address])) == {Outcome.GONE: 1}
        assert client.zcard(letters_key(QUEUE)) == 1


def test_thousands_are_requeued_each_once_in_the_order_of_their_deaths(client: redis.Redis, redis_url: str) -> None:
    ids = [str(uuid.uuid4()) for _ in range(2_000)]
    put_letters(client, *ids)

    assert requeue_all(client) == {Outcome.DONE: 2_000}

    assert [message["message_id"] for message in messages(redis_url)] == [f"message of {one}" for one in ids]
    assert is_empty(client)


def test_letters_that_cannot_be_requeued_stay_and_hold_none_of_the_others(client: redis.Redis) -> None:
    ids = [f"{number:04}" for number in range(2 * BATCH + 2)]
    put_letters(client, *ids)
    unreadable = ids[1::2]
    client.hset(messages_key(QUEUE), mapping=dict.fromkeys(unreadable, b"garbage"))

    assert requeue_all(client) == {Outcome.DONE: BATCH + 1, Outcome.UNREADABLE: BATCH + 1}

    assert client.zrange(letters_key(QUEUE), 0, -1) == [one.encode() for one in unreadable]
    assert client.llen("dramatiq:default") == BATCH + 1


def test_letters_that_die_again_at_once_are_not_requeued_for_ever(client: redis.Redis) -> None:
    put_letters(client, *(f"{number:04}" for number in range(BATCH + 1)))

    done = 0
    for done, _ in enumerate(act_on_all(requeue, client=client, queues=[QUEUE]), start=1):
        put_letters(client, f"again-{done:04}", since=10_000 + done)

    assert done == BATCH + 1
    assert client.zcard(letters_key(QUEUE)) == BATCH + 1


# Garbage

GARBAGE = [
    b"",
    b"\xff\xfe\x1b[31m",
    b"[1]",
    b"{}",
    b"[" * 100_000,
    b'{"queue_name": "q", "actor_name": "a", "args": [], "kwargs": [], "options": {}, "message_id": "m"}',
    b'{"queue_name": "q", "actor_name": "a", "args": [], "kwargs": {}, "options": {}, "message_id": ["m"]}',
]


@pytest.mark.parametrize("written", GARBAGE)
def test_what_no_worker_could_read_is_said_to_be_so_stays_and_can_be_dropped(
    client: redis.Redis, written: bytes
) -> None:
    addresses = put_letters(client, "one", written=written)

    (letter,) = newest(client)
    assert (letter.message, letter.actor, letter.slot) == (None, None, None)
    assert letter.why == "its message cannot be read: it is no JSON of dramatiq's"
    assert outcomes(act_on(requeue, client=client, addresses=addresses)) == {Outcome.UNREADABLE: 1}
    assert client.exists("dramatiq:default") == 0
    assert outcomes(act_on(drop, client=client, addresses=addresses)) == {Outcome.DONE: 1}
    assert is_empty(client)


def test_a_letter_without_a_message_can_only_be_dropped(client: redis.Redis) -> None:
    addresses = put_letters(client, "one")
    client.delete(messages_key(QUEUE))

    assert newest(client)[0].why == "its message is missing"
    assert outcomes(act_on(requeue, client=client, addresses=addresses)) == {Outcome.UNREADABLE: 1}
    assert outcomes(act_on(drop, client=client, addresses=addresses)) == {Outcome.DONE: 1}
    assert outcomes(act_on(requeue, client=client, addresses=addresses)) == {Outcome.GONE: 1}
    assert is_empty(client)


def test_ids_that_are_no_text_can_be_named(client: redis.Redis) -> None:
    client.zadd(letters_key(QUEUE), {b"\xff\x1b[31m": 1, "Zoë".encode(): 2})

    assert [letter.address.id for letter in newest(client)] == ["Zoë", "\\xff\\x1b[31m"]
    assert find_letters(client=client, queues=[QUEUE], wanted=["\\xff"]) == {
        "\\xff": [Address(QUEUE, b"\xff\x1b[31m")],
    }


# Drop


def test_a_letter_is_dropped_with_its_note_and_the_others_stay(client: redis.Redis) -> None:
    one, two = put_letters(client, "one", "two")

    assert outcomes(act_on(drop, client=client, addresses=[one])) == {Outcome.DONE: 1}
    assert outcomes(act_on(drop, client=client, addresses=[one])) == {Outcome.GONE: 1}

    assert [letter.address for letter in newest(client)] == [two]
    assert client.hkeys(messages_key(QUEUE)) == [b"two"]
    assert client.keys(keys.failure_key("*")) == [note_key(b"two")]


def test_all_letters_of_a_queue_are_dropped_and_those_of_others_stay(client: redis.Redis) -> None:
    put_letters(client, *(f"{number:04}" for number in range(2 * BATCH + 1)))
    put_letters(client, "other", queue="other")

    assert outcomes(act_on_all(drop, client=client, queues=[QUEUE])) == {Outcome.DONE: 2 * BATCH + 1}

    assert client.exists(letters_key(QUEUE), messages_key(QUEUE)) == 0
    assert client.keys(keys.failure_key("*")) == [note_key(b"other")]


def test_a_redis_that_is_full_lets_letters_go(tmp_path: Path) -> None:
    with (
        redis_server_with(tmp_path, "--maxmemory-policy", "noeviction") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        dropped, requeued = put_letters(client, "one", "two")
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            client.set("anything", "")

        assert outcomes(act_on(drop, client=client, addresses=[dropped])) == {Outcome.DONE: 1}
        assert outcomes(act_on(requeue, client=client, addresses=[requeued])) == {Outcome.DONE: 1}

        assert client.llen("dramatiq:default") == 1
        assert is_empty(client)


# What is said


@pytest.fixture
def said(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], tuple[list[str], list[str]]]:
    """The lines on standard output and standard error since the last call."""
    monkeypatch.setenv("REDIS_URL", redis_url)

    def lines() -> tuple[list[str], list[str]]:
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err.splitlines()

    return lines


Said = Callable[[], tuple[list[str], list[str]]]


def test_where_there_is_nothing_that_is_said(said: Said) -> None:
    print_letters(queue=None, limit=20, as_json=False)
    assert said() == (["there are no dead letters"], [])

    assert print_drop([], queue="sweeps")
    assert said() == (["there are no dead letters of the queue sweeps"], [])

    print_letters(queue=None, limit=20, as_json=True)
    listed = json.loads("\n".join(said()[0]))
    assert (listed["total"], listed["letters"]) == (0, [])

    assert not print_requeue(["one"], queue=None)
    assert said() == (["0 requeued"], ["adjourn: no dead letter has the id one, or one that begins so"])


def test_a_list_is_as_long_as_asked_for_says_how_many_there_are_and_shows_no_arguments(
    client: redis.Redis, said: Said
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(2_000)]
    put_letters(client, *ids, args=["+33600000001"], options={"scheduled_at": "2026-01-31T12:00:00+00:00"})

    print_letters(queue=None, limit=20, as_json=False)

    lines, _ = said()
    assert len(lines) == 1 + 2 * 20 + 1
    assert lines[0].split() == ["id", "queue", "actor", "died", "(UTC)"]
    assert lines[1].split()[:3] == [ids[-1][:13], QUEUE, "task"]
    assert lines[2] == f"    slot 2026-01-31 12:00:00: end of {ids[-1]}"
    assert lines[-1] == "the newest 20 of 2,000; --limit shows more"
    assert "+336" not in "".join(lines)

    print_letters(queue=QUEUE, limit=2, as_json=True)
    listed = json.loads("\n".join(said()[0]))
    assert listed["total"] == 2_000
    assert [letter["id"] for letter in listed["letters"]] == ids[:-3:-1]
    assert listed["letters"][0] == {
        "id": ids[-1],
        "queue": QUEUE,
        "actor": "task",
        "slot": "2026-01-31T12:00:00.000Z",
        "died_at": "1970-01-01T00:00:01.999Z",
        "why": f"end of {ids[-1]}",
    }


def test_lines_are_as_long_as_a_terminal_is_wide_and_no_longer(client: redis.Redis) -> None:
    put_letters(client, str(uuid.uuid4()))
    found = newest_letters(client=client, queues=[QUEUE], limit=1)
    *_, why = table_lines(found)

    assert list(table_lines(found, width=len(why)))[-1] == why
    assert list(table_lines(found, width=len(why) - 1))[-1] == f"{why[:-2]}…"
    assert max(len(line) for line in table_lines(found, width=20)) == 20


def test_ids_that_begin_alike_are_listed_whole(client: redis.Redis, said: Said) -> None:
    alike = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(2)]
    put_letters(client, *alike, str(uuid.UUID(int=2**127)))

    print_letters(queue=None, limit=20, as_json=False)

    assert [line.split()[0] for line in said()[0][1::2]] == ["80000000-0000", alike[1], alike[0]]


def test_all_is_shown_of_one_letter_and_nothing_of_it_reaches_the_terminal_as_an_order(
    client: redis.Redis, said: Said
) -> None:
    put_letters(client, "one", actor_name="a\x1b[31m", args=["Zoë\x1b[31m\x9b\u202e\n"])

    print_letter("on", queue=None, as_json=False)

    lines, _ = said()
    assert "\x1b" not in "".join(lines)
    assert "actor      a?[31m" in lines
    assert "why        end of one" in lines
    shown = json.loads("\n".join(lines[lines.index("message") + 1 :]))
    assert shown["args"] == ["Zoë\x1b[31m\x9b\u202e\n"]
    assert '    "Zoë\\u001b[31m\\u009b\\u202e\\n"' in lines

    print_letter("one", queue=QUEUE, as_json=True)
    whole: Mapping[str, Any] = json.loads("\n".join(said()[0]))
    assert whole["message"] == shown
    assert whole["died_at"] == "1970-01-01T00:00:00.000Z"
    assert whole["forgotten_from"] == "1970-01-08T00:00:00.000Z"
    assert whole["failure"] == {"at": None, "actor": None, "error": "end of one", "host": None, "pid": None}
    assert whole["unreadable"] is None


def test_of_a_message_that_cannot_be_read_its_beginning_is_shown(client: redis.Redis, said: Said) -> None:
    put_letters(client, "one", written=b"\xff\x1b[31m" + b"x" * 1_000)

    print_letter("one", queue=None, as_json=False)

    *_, about, shown = said()[0]
    assert about == "message, 1,006 bytes that begin with"
    assert shown == "\ufffd?[31m" + "x" * 249


def test_a_whole_id_is_that_letter_though_others_begin_so(client: redis.Redis, said: Said) -> None:
    put_letters(client, "one", "one-2")

    assert print_drop(["one"], queue=None)

    assert said() == (["dropped one of default", "1 dropped"], [])
    assert [letter.address.id for letter in newest(client)] == ["one-2"]


def test_an_id_that_is_unknown_or_ambiguous_is_said_to_be_and_the_others_are_done(
    client: redis.Redis, said: Said
) -> None:
    put_letters(client, *(f"ab{number}" for number in range(7)), "xyz-1")

    assert not print_requeue(["ab", "xyz", "xyz-1", "nothing"], queue=None)

    out, err = said()
    assert out == ["requeued xyz-1 of default", "1 requeued"]
    assert err == [
        (
            "adjourn: ab may be any of 7 dead letters: ab0 of default, ab1 of default, ab2 of default, "
            "ab3 of default, ab4 of default and 2 more"
        ),
        "adjourn: no dead letter has the id nothing, or one that begins so",
    ]
    assert client.zcard(letters_key(QUEUE)) == 7


def test_the_same_id_in_two_queues_is_one_letter_with_its_queue(client: redis.Redis, said: Said) -> None:
    for queue in ("a", "b"):
        put_letters(client, "one", queue=queue)

    assert not print_drop(["one"], queue=None)
    assert said()[1] == ["adjourn: one may be any of 2 dead letters: one of a, one of b"]

    assert print_drop(["one"], queue="a")
    assert [letter.address for letter in newest(client, queue="b")] == [Address("b", b"one")]


def test_an_empty_id_names_nothing_even_where_there_is_one_letter(client: redis.Redis, said: Said) -> None:
    del said
    put_letters(client, "one")

    with pytest.raises(InvalidValueError, match="an empty id names no dead letter"):
        print_drop([""], queue=None)
    with pytest.raises(InvalidValueError, match="an empty id names no dead letter"):
        print_letter("", queue=None, as_json=False)

    assert client.zcard(letters_key(QUEUE)) == 1


def test_what_cannot_be_requeued_is_said_with_what_to_do(client: redis.Redis, said: Said) -> None:
    put_letters(client, "one", written=b"garbage")

    assert not print_requeue([], queue=None)

    assert said() == (
        ["0 requeued"],
        ["adjourn: one is not requeued: no worker could read it; to drop it: adjourn dead-letters drop one"],
    )


def test_of_several_who_drop_all_at_once_nobody_complains(client: redis.Redis, said: Said) -> None:
    ids = [f"{number:04}" for number in range(5 * BATCH)]
    put_letters(client, *ids)
    ready = threading.Barrier(4)

    def ask(_: int) -> bool:
        ready.wait()
        return print_drop([], queue=QUEUE)

    with ThreadPoolExecutor(4) as people:
        assert all(people.map(ask, range(4)))

    out, err = said()
    assert err == []
    # Their lines may be mixed up.
    assert "".join(out).count(f" of {QUEUE}") == len(ids)


def test_the_exit_code_says_whether_all_was_done(client: redis.Redis, said: Said) -> None:
    del said

    def exit_code(*arguments: str) -> int:
        return CliRunner().invoke(cli.app, ["dead-letters", *arguments]).exit_code

    put_letters(client, "one", "two", "three")
    assert exit_code("requeue", "one") == 0
    assert exit_code("requeue", "one", "two") == 1
    assert exit_code("drop", "one", "three") == 1
    assert is_empty(client)

    put_letters(client, "one")
    for unclear in ("drop", "requeue"):
        assert exit_code(unclear) == exit_code(unclear, "--all", "one") == 2
    assert exit_code("drop", "--all") == 2  # nobody can be asked
    assert client.zcard(letters_key(QUEUE)) == 1
    assert exit_code("drop", "--all", "--yes") == 0
    assert is_empty(client)
    assert exit_code("drop", "--all", "--yes") == exit_code("requeue", "--all") == 0


def test_a_reader_that_has_gone_is_not_taken_for_a_redis_that_has(
    client: redis.Redis, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    del said
    put_letters(client, "one")

    class Gone:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        print_drop(["one"], queue=None)

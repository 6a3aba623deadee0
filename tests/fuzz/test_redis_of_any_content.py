"""Whatever lies in Redis under our names, what people look at is drawn of it, in text that a terminal just shows."""

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from services.cluster.status import read_status
from services.errors import AdjournError
from services.health import HealthStatus, Role
from services.monitoring.cluster_metrics import ClusterCollector
from services.operations import asking_health, health_report
from services.operations.dead_letters import (
    Address,
    DeadLetter,
    find_letters,
    letters_key,
    messages_key,
    newest_letters,
    queues_with_letters,
    read_letter,
)
from services.operations.dead_letters_control import Outcome, act_on_all, drop, requeue
from services.operations.dead_letters_report import print_letter, print_letters
from services.operations.dead_letters_shown import letter_lines, letter_object, letters_object, table_lines
from services.operations.status_json import json_text
from services.operations.status_report import print_screen
from services.scheduling import keys
from services.scheduling.failures import note_key
from services.tasks import Task, actor_of
from tests.fuzz.effort import tried
from tests.statuses import overview_of
from tests.support import NOON

_LATEST = 253_402_300_799_999  # milliseconds: the last that Python knows
_EARLIEST = -62_135_596_800_000
_scalars = st.one_of(
    st.sampled_from(
        (
            b"",
            b"0",
            b"-0",
            b"1",
            b"-1",
            b"1_0",
            b" 1 ",
            b"1e3",
            b"inf",
            b"nan",
            b"\xd9\xa3",
            b"9" * 19,
            b"9" * 4_000,
            b"9" * 5_000,
            str(_LATEST).encode(),
            str(_LATEST + 1).encode(),
            str(_LATEST // 1_000).encode(),
            str(_EARLIEST).encode(),
            str(_EARLIEST - 1).encode(),
            str(_EARLIEST // 1_000).encode(),
            b"86399999999999999",
            b"running",
            b"done",
            b"failed",
            b"enqueued",
            b"paused",
            b"every 60 s",
            b"\xff\xfe",
            b"\x1b[2J\x1b]0;mine\x07",
            b"a\nb\r\x00c",
            b"\xe2\x80\xae",
            b"[bold red]x[/]",
            b"x" * 10_000,
        )
    ),
    st.integers(-(2**70), 2**70).map(lambda number: str(number).encode()),
    st.binary(max_size=12),
)
_json = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(
            (
                _LATEST,
                _EARLIEST,
                "9999-12-31T23:59:59-14:00",
                "0001-01-01T00:00:00+14:00",
                "2026-01-31T12:00:00",
                "\ud800",
                "\x1b[2J",
            )
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def _object_with(*names: str) -> st.SearchStrategy[bytes]:
    """Return JSON that has some of the fields that somebody reads."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, _json)).map(lambda one: json.dumps(one).encode())


_scores = st.one_of(
    st.floats(allow_nan=False),
    st.sampled_from(
        (float(_LATEST), float(_LATEST + 1), float(_EARLIEST), 2.0**63, float("inf"), -0.0, 1_769_860_800_000.0)
    ),
)
_members = _object_with("host", "pid", "started_at", "loop", "threads", "busy")
_TASK_FIELDS = [
    *("schedule", "interval", "next_slot", "slot", "outcome", "enqueued_at", "term", "message_id", "awaited_since"),
    *("run_started_at", "run_slot", "run_ended_at", "run_outcome", "run_limit", "run_error", "last_success_at"),
    *("paused_at", "paused_by", "trigger_id", "trigger_at", "trigger_by", "trigger_message_id", "dropped"),
    *("triggered_id", "triggered_at", "triggered_by", "triggered_message_id", "runs", "failures", "ended"),
]
_BACKLOG_FIELDS = ["measured_at", "active", "active_is_estimate"] + [
    f"{task}:{name}" for task in Task for name in ("due", "due_is_capped", "oldest_due_ms")
]


def _hash_of(names: list[str]) -> st.SearchStrategy[dict[Any, bytes]]:
    return st.dictionaries(
        st.one_of(st.sampled_from(names).map(str.encode), st.binary(max_size=3)), _scalars, max_size=12
    )


_ids = st.one_of(
    st.binary(max_size=5),
    st.sampled_from((b"s", b"w", b"\x1b[2J", b"\xff")),
    st.uuids().map(lambda one: str(one).encode()),
)
_sorted_sets = st.dictionaries(_ids, _scores, min_size=1, max_size=3)
_KEYS: dict[str, st.SearchStrategy[Any]] = {
    keys.LEASE: _hash_of(["holder", "term", "since", "timeout"]),
    keys.TERM: _scalars,
    keys.MEMBERS: st.dictionaries(_ids, _members | _scalars, max_size=3),
    keys.SEEN: _sorted_sets,
    keys.WORKERS: st.dictionaries(_ids, _members | _scalars, max_size=3),
    keys.WORKERS_SEEN: _sorted_sets,
    keys.QUEUES: st.sets(_ids, max_size=3),
    keys.BACKLOG: _hash_of(_BACKLOG_FIELDS),
    **{keys.task_key(actor_of(task)): _hash_of(list(_TASK_FIELDS)) for task in Task},
}
_contents = st.fixed_dictionaries(
    {}, optional={key: st.one_of(of_it, of_it, _scalars, _sorted_sets) for key, of_it in _KEYS.items()}
)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def put(client: redis.Redis, content: dict[Any, Any]) -> None:
    """Have Redis hold that, and nothing else."""
    with client.pipeline() as pipe:
        pipe.flushdb()
        for key, value in content.items():
            match value:
                case bytes():
                    pipe.set(key, value)
                case set() if value:
                    pipe.sadd(key, *value)
                case dict() if value and all(isinstance(score, float) for score in value.values()):
                    pipe.zadd(key, value)
                case dict() if value:
                    pipe.hset(key, mapping=value)
        pipe.execute()


def strictly(text: str) -> Any:
    """Return what JSON says: that of the standard, without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def is_fit_for_a_terminal(text: str) -> bool:
    return all(one.isprintable() or one == "\n" for one in text)


@tried(40)
@given(content=_contents)
def test_the_state_is_drawn_whatever_redis_holds(client: redis.Redis, content: dict[str, Any]) -> None:
    put(client, content)

    overview = overview_of(read_status(client=client))

    assert isinstance(strictly(json_text(overview)), dict)
    drawn = io.StringIO()
    print_screen(overview, stream=drawn)
    assert is_fit_for_a_terminal(drawn.getvalue())
    registry = CollectorRegistry()
    registry.register(ClusterCollector(client))
    assert generate_latest(registry)


_messages = st.one_of(
    _scalars,
    _json.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"queue_name": st.text(max_size=3), "actor_name": st.text(max_size=3), "args": st.lists(_json, max_size=2)}
        | {"kwargs": st.dictionaries(st.text(max_size=3), _json, max_size=2), "message_id": st.text(max_size=3)}
        | {
            "options": st.fixed_dictionaries(
                {}, optional={"scheduled_at": _json, "redis_message_id": _json, "eta": _json}
            )
        },
        optional={"message_timestamp": _json, "more": _json},
    ).map(lambda message: json.dumps(message).encode()),
)
_notes = st.one_of(_scalars, _object_with("at", "actor", "error", "host", "pid"))
_letters = st.lists(st.tuples(_ids, _scores, st.none() | _messages, st.none() | _notes), min_size=1, max_size=3)


def _nested_message(depth: int) -> bytes:
    return (
        b'{"queue_name":"default","actor_name":"a","kwargs":{},"options":{},"message_id":"1","args":['
        + b"[" * depth
        + b"]" * depth
        + b"]}"
    )


@tried(40)
@given(letters=_letters)
@example(letters=[(b"a", float(_LATEST), None, None)])
@example(letters=[(b"a", float("inf"), _nested_message(300), None)])
@example(letters=[(b"a", 0.0, _nested_message(900), None)])
@example(letters=[(b"a", 0.0, _nested_message(100_000), None)])
@example(letters=[(b"a", 0.0, _nested_message(0).replace(b"[]", b"[NaN, 1e999]"), None)])
@example(letters=[(b"a", 0.0, _nested_message(0).replace(b"[]", b'["\\ud800"]'), None)])
def test_dead_letters_are_shown_whatever_they_are(client: redis.Redis, letters: list[Any]) -> None:
    queue = "default"
    content: dict[Any, Any] = {keys.QUEUES: {queue.encode()}, letters_key(queue): {}, messages_key(queue): {}}
    for key, score, message, note in letters:
        content[letters_key(queue)][key] = score
        content[messages_key(queue)] |= {} if message is None else {key: message}
        content |= {} if note is None else {note_key(key): note}
    put(client, content)

    found = newest_letters(client=client, queues=queues_with_letters(client), limit=10)

    assert found.total == len(found.letters) == len({key for key, *_ in letters})
    assert is_fit_for_a_terminal("\n".join(table_lines(found, width=80)))
    strictly(json.dumps(letters_object(found)))
    for letter in found.letters:
        again = read_letter(client=client, address=letter.address)
        assert again is not None
        assert is_fit_for_a_terminal("\n".join(letter_lines(again, now=found.now)))
        strictly(json.dumps(letter_object(again), indent=2))
        assert (
            letter.address in find_letters(client=client, queues=[queue], wanted=[letter.address.id])[letter.address.id]
        )
    assert len(list(act_on_all(requeue, client=client, queues=[queue]))) == found.total
    list(act_on_all(drop, client=client, queues=[queue]))
    assert not client.exists(letters_key(queue))


def test_a_message_as_deeply_nested_as_python_reads_is_shown_and_requeued(client: redis.Redis) -> None:
    for depth in range(930, 1_000):
        letter = DeadLetter(Address("q", b"a"), None, _nested_message(depth), None)
        assert is_fit_for_a_terminal("\n".join(letter_lines(letter, now=NOON)))
        strictly(json.dumps(letter_object(letter), indent=2))

    ids = [str(depth).encode() for depth in range(930, 1_000)]
    put(
        client,
        {letters_key("q"): dict.fromkeys(ids, 1.0), messages_key("q"): {key: _nested_message(int(key)) for key in ids}},
    )
    outcomes = requeue(client, "q", ids)
    assert set(outcomes) == {Outcome.DONE, Outcome.UNREADABLE}


@tried(30)
@given(queue=st.text(max_size=5), key=_ids)
def test_the_id_of_a_dead_letter_is_text_that_names_it(queue: str, key: bytes) -> None:
    assert Address(queue, key).id.isprintable()


@pytest.mark.parametrize(
    "content",
    [{keys.QUEUES: b"text"}, {letters_key("q"): b"text"}, {messages_key("q"): b"text", letters_key("q"): {b"a": 1.0}}],
)
def test_letters_that_are_none_of_dramatiqs_are_an_error_of_ours(
    client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    put(client, content)

    with pytest.raises(AdjournError) as refused:
        print_letters(queue=None, limit=20, as_json=False)
    assert str(refused.value).isprintable()
    with pytest.raises(AdjournError) as refused:
        print_letter("a", queue=None, as_json=True)
    assert str(refused.value).isprintable()


_reports = st.one_of(
    _json,
    st.fixed_dictionaries(
        {
            "role": st.sampled_from((*Role, "other")),
            "status": st.sampled_from((*HealthStatus, "x")),
            "reasons": st.lists(_json, max_size=2),
        },
        optional={
            "processes": _json,
            "uptime_seconds": _json,
            "tasks": st.dictionaries(st.sampled_from(list(Task)), _json),
        },
    ),
)


@tried(40)
@given(report=_reports)
@example(report={"role": "worker", "status": "healthy", "reasons": [], "processes": [{}], "uptime_seconds": 1e300})
def test_a_report_of_health_is_shown_whatever_answers(report: Any) -> None:
    if asking_health._is_report(report, Role.WORKER):  # noqa: SLF001 - what comes from the network, without one
        assert is_fit_for_a_terminal("\n".join(health_report._lines(report)))  # noqa: SLF001 - the same


def test_an_id_of_a_letter_that_is_any_bytes_can_be_typed(client: redis.Redis) -> None:
    key = uuid.uuid4().bytes + b"\x1b\n\xff"
    put(client, {letters_key("q"): {key: 1.0}})

    [letter] = newest_letters(client=client, queues=["q"], limit=1).letters

    assert find_letters(client=client, queues=["q"], wanted=[letter.address.id])[letter.address.id] == [letter.address]

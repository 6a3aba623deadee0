"""Messages that nobody should have sent, as they lie in Redis when somebody has: written into dramatiq's layout."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

#: The queue of the sweeps.
SWEEPS = "sweeps"
#: That of those who are called in to a backlog.
DRAINS = "drains"

NO_MESSAGE = "an id without a message"

_IDLE = "process_idle_conversations"
_DRAIN = "drain_backlog"
_HUGE = 17_000_000
_LONG = 900_000
_DEEP = 100_000
_FAR_FUTURE = 253_402_300_799_000
_SWEEP_ID = "00000000-0000-4000-8000-000000000000"

#: The bytes of a message that lies in a queue under an id; None: the id alone lies there.
Writes = Callable[[str, str], bytes | None]


@dataclass(frozen=True, slots=True)
class Pushed:
    """One of them, as it was put into its queue."""

    name: str
    queue: str
    redis_id: str


def message(queue: str, redis_id: str, **changes: Any) -> dict[str, Any]:
    """Return the fields of a message as dramatiq writes it, with ``changes``; those of ``options`` are added."""
    options = {"redis_message_id": redis_id, **changes.pop("options", {})}
    actor, arguments = (_IDLE, []) if queue == SWEEPS else (_DRAIN, ["idle_conversations", _SWEEP_ID])
    return {
        "queue_name": queue,
        "actor_name": actor,
        "args": arguments,
        "kwargs": {},
        "options": options,
        "message_id": str(uuid.uuid4()),
        "message_timestamp": time.time_ns() // 1_000_000,
        **changes,
    }


def _fields(**changes: Any) -> Writes:
    return lambda queue, redis_id: json.dumps(message(queue, redis_id, **changes)).encode()


def _options(**options: Any) -> Writes:
    return _fields(options=options)


def _without(name: str) -> Writes:
    def write(queue: str, redis_id: str) -> bytes:
        fields = message(queue, redis_id)
        del fields[name]
        return json.dumps(fields).encode()

    return write


def _bytes(payload: bytes) -> Writes:
    return lambda _queue, _redis_id: payload


def _without_redis_id(queue: str, redis_id: str) -> bytes:
    fields = message(queue, redis_id)
    del fields["options"]["redis_message_id"]
    return json.dumps(fields).encode()


#: What no worker can run: each has to end as a dead letter, or be gone, with a line about it.
UNREADABLE: Mapping[str, Writes] = {
    NO_MESSAGE: lambda _queue, _redis_id: None,
    "nothing": _bytes(b""),
    "no JSON": _bytes(b"hello, worker"),
    "binary": _bytes(b"\x85\xa5queue\xa6sweeps\xa5actor\xc0\xff\x00\x80"),
    "a list": _bytes(b"[1, 2, 3]"),
    "a number": _bytes(b"7"),
    "a number of 10,000 digits": _bytes(b"7" * 10_000),
    "an empty object": _bytes(b"{}"),
    "JSON of 100,000 levels": _bytes(b"[" * _DEEP + b"]" * _DEEP),
    "no name of an actor": _without("actor_name"),
    "no arguments": _without("args"),
    "no options": _without("options"),
    "no id of its message": _without("message_id"),
    "a field too many": _fields(colour="blue"),
    "options that are a list": lambda queue, redis_id: json.dumps(message(queue, redis_id) | {"options": []}).encode(),
    "arguments that are a text": _fields(args="idle"),
    "an id that is a list": _fields(message_id=[1]),
    "an id of half a character": _fields(message_id="\ud800"),
    "an id of 100,000 characters": _fields(message_id="7" * 100_000),
    "a timestamp that is a text": _fields(message_timestamp="yesterday"),
    "an unknown actor": _fields(actor_name="send_money"),
    "an actor that is a number": _fields(actor_name=7),
    "another queue inside": _fields(queue_name="payments"),
    "a queue that is a list": _fields(queue_name=["sweeps"]),
    "no address inside": _without_redis_id,
    "another's address inside": lambda queue, _redis_id: json.dumps(message(queue, str(uuid.uuid4()))).encode(),
    "an argument too many": _fields(args=[1, 2, 3]),
    "an argument of another name": _fields(kwargs={"since": "yesterday"}),
    "a huge argument of another name": _fields(kwargs={"x" * 100: "x" * _HUGE}),
    "retries without end": _options(retries=-1_000_000_000),
    "retries that are a text": _options(retries="many"),
    "a time limit that is a text": _options(time_limit="long"),
    "a time limit that is no number": _options(time_limit=float("nan")),
    "an age limit that is a list": _options(max_age=[1]),
    "exceptions by their names": _options(throws="Exception"),
    "a slot of another kind": _options(scheduled_at={"year": 2026}),
    "a term of another kind": _options(term=["x" * 100]),
    "a huge option": _options(colour="x" * _HUGE),
    "an hour in the future": _options(eta=_FAR_FUTURE),
    "a timestamp that no float holds": _fields(message_timestamp=10**400),
    "retries that no float holds": _options(retries=10**400),
    "an hour that no float holds": _options(eta=10**400),
    "an hour without end": _options(eta=float("inf")),
    "an hour that is a text": _options(eta="tomorrow"),
}

#: What looks odd and can be run: none of it may do harm, and all of it is gone after a moment.
ODD: Mapping[str, Writes] = {
    "a slot that is a text": _options(scheduled_at="yesterday"),
    "a slot without an offset": _options(scheduled_at="2026-01-31T12:00:00"),
    "a slot at the end of time": _options(scheduled_at="9999-12-31T23:59:59+00:00"),
    "a slot at the beginning of time": _options(scheduled_at="0001-01-01T00:00:00+00:00"),
    "retries beyond any number": _options(retries=10**30),
    "a time limit of less than nothing": _options(time_limit=-5),
    "a time limit of 300 years": _options(time_limit=10**13),
    "a timestamp of the year 5000": _fields(message_timestamp=95_617_584_000_000),
}

#: What the actor that is called in has to say no to by itself.
REFUSED: Mapping[str, Writes] = {
    "an unknown task": _fields(args=["lunch", _SWEEP_ID]),
    "a sweep that is a number": _fields(args=["idle_conversations", 7]),
    "a task that is a list": _fields(args=[["idle_conversations"], _SWEEP_ID]),
    "a long argument": _fields(args=["x" * _LONG, _SWEEP_ID]),
    "a long id of a sweep": _fields(args=["idle_conversations", "x" * _LONG]),
}


#: A worker that has shown no sign of life for so long is dead, in seconds: a busy one shows one every six.
_SILENCE = 15


def push(client: redis.Redis, queue: str, name: str, writes: Writes) -> Pushed:
    """Put one into a queue as dramatiq's own script does, and return where it lies."""
    redis_id = str(uuid.uuid4())
    payload = writes(queue, redis_id)
    with client.pipeline() as pipe:
        if payload is not None:
            pipe.hset(f"dramatiq:{queue}.msgs", redis_id, payload)
        pipe.rpush(f"dramatiq:{queue}", redis_id)
        pipe.execute()
    return Pushed(name, queue, redis_id)


def push_again(client: redis.Redis, queue: str, *, times: int, under_its_own_id: bool) -> list[Pushed]:
    """Put each message of a queue that is there, taken or not, into it so many times more.

    Each copy says that it lies where it does, unless it has the id of the first.
    """
    known: Any = client.hgetall(f"dramatiq:{queue}.msgs")
    copies = []
    for redis_id, payload in known.items():
        for _ in range(times):
            copy = redis_id if under_its_own_id else str(uuid.uuid4()).encode()
            with client.pipeline() as pipe:
                pipe.hset(f"dramatiq:{queue}.msgs", copy, payload.replace(redis_id, copy))
                pipe.rpush(f"dramatiq:{queue}", copy)
                pipe.execute()
            copies.append(Pushed("a copy", queue, copy.decode()))
    return copies


def left(client: redis.Redis, pushed: Iterable[Pushed]) -> list[Pushed]:
    """Return those of ``pushed`` that still lie in their queue, or that a worker holds.

    What a killed one held is for others after dramatiq's minute.
    """
    held: set[bytes] = set()
    seconds, _ = client.time()
    alive: Any = client.zrangebyscore("dramatiq:__heartbeats__", 1000 * (seconds - _SILENCE), "+inf")
    for worker in alive:
        for queue in {one.queue for one in pushed}:
            members: Any = client.smembers(b"dramatiq:__acks__.%b.%b" % (worker, queue.encode()))
            held |= members
    waiting: dict[str, set[bytes]] = {}
    for queue in {one.queue for one in pushed}:
        ids: Any = client.lrange(f"dramatiq:{queue}", 0, -1)
        messages: Any = client.hkeys(f"dramatiq:{queue}.msgs")
        waiting[queue] = {*ids, *messages}
    return [one for one in pushed if one.redis_id.encode() in waiting[one.queue] | held]


def is_dead_letter(client: redis.Redis, pushed: Pushed) -> bool:
    """Return whether it was set aside as a dead letter."""
    return client.zscore(f"dramatiq:{pushed.queue}.XQ", pushed.redis_id) is not None

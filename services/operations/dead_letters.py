"""Dead letters: the messages that failed for good, as dramatiq keeps them in Redis. Anybody may have sent them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis

from services.scheduling import keys
from services.scheduling.failures import FailureNotes
from services.values import LONGEST_TEXT, instant_of, integer_of, object_of, redis_time, text_of, written_instant_of

#: How long dramatiq keeps a dead letter, unless its broker is told otherwise; it is gone some time after that.
KEPT_FOR = timedelta(days=7)
#: How many ids one answer of Redis brings, when all are looked through.
_PAGE = 1_000
#: What dramatiq needs of a message, and of which type. Of one without it, a worker's consumer fails.
_FIELDS = {"queue_name": str, "actor_name": str, "args": list, "kwargs": dict, "options": dict, "message_id": str}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a dead letter lies."""

    queue: str
    #: The id of its message in Redis, which is not ``message_id``.
    key: bytes

    @property
    def id(self) -> str:
        """The id, as a person reads and types it."""
        text = self.key.decode(errors="backslashreplace")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:LONGEST_TEXT]


@dataclass(frozen=True, slots=True)
class Failure:
    """What the worker noted when the message failed."""

    #: By the worker's clock.
    at: datetime | None
    actor: str | None
    #: Its type and its first line.
    error: str | None
    host: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed for good."""

    address: Address
    #: By the worker's clock.
    died_at: datetime | None
    #: What lies in Redis; None when nothing does.
    written: bytes | None
    failure: Failure | None

    @property
    def message(self) -> Mapping[str, Any] | None:
        """The fields of the message; None when it is none that a worker could read."""
        return message_of(self.written)

    @property
    def actor(self) -> str | None:
        """Whom it was sent to."""
        message = self.message
        return None if message is None else text_of(message["actor_name"])

    @property
    def slot(self) -> datetime | None:
        """The slot of a schedule that it was sent for, if it was."""
        message = self.message
        return None if message is None else written_instant_of(message["options"].get("scheduled_at"))

    @property
    def forgotten_from(self) -> datetime | None:
        """When dramatiq may remove it."""
        try:
            return None if self.died_at is None else self.died_at + KEPT_FOR
        except OverflowError:
            return None

    @property
    def why(self) -> str:
        """Why it failed, in one line."""
        if self.written is None:
            return "its message is missing"
        if self.message is None:
            return "its message cannot be read: it is no JSON of dramatiq's"
        return (self.failure and self.failure.error) or "not noted: the log of the workers says why"


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The newest dead letters."""

    #: By Redis's clock.
    now: datetime
    #: How many there are.
    total: int
    #: Newest first.
    letters: Sequence[DeadLetter]


def message_of(written: bytes | None) -> Mapping[str, Any] | None:
    """Return the fields of a message of dramatiq's; None when it is none that a worker could read."""
    fields = object_of(written)
    return fields if all(isinstance(fields.get(name), kind) for name, kind in _FIELDS.items()) else None


def letters_key(queue: str) -> str:
    """Return the sorted set of a queue's dead letters: ids by when they died, in milliseconds."""
    return f"dramatiq:{queue}.XQ"


def messages_key(queue: str) -> str:
    """Return the hash of their messages."""
    return f"{letters_key(queue)}.msgs"


def queues_with_letters(client: redis.Redis) -> list[str]:
    """Return the queues that may have dead letters: those that schedulers and workers told of; else all with some.

    Raises redis.RedisError, as all that follows.
    """
    told: Any = client.smembers(keys.QUEUES)
    if told:
        return sorted(filter(None, map(text_of, told)))
    before, after = letters_key("*").split("*")
    found = (text_of(key) for key in client.scan_iter(f"{before}*{after}", count=_PAGE))
    return sorted({key.removeprefix(before).removesuffix(after) for key in found if key})


def newest_letters(*, client: redis.Redis, queues: Iterable[str], limit: int) -> DeadLetters:
    """Return the newest dead letters of ``queues``, at most ``limit``, and how many there are."""
    names = list(queues)
    # No transaction: a Redis that is full refuses those, even when they only read.
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        for queue in names:
            pipe.zcard(letters_key(queue))
            pipe.zrevrange(letters_key(queue), 0, limit - 1, withscores=True)
        time, *answers = pipe.execute()
    found = [
        (score, Address(queue, key))
        for queue, newest in zip(names, answers[1::2], strict=True)
        for key, score in newest
    ]
    found.sort(key=lambda one: one[0], reverse=True)
    return DeadLetters(
        now=redis_time(*time),
        total=sum(answers[::2]),
        letters=_read(client, found[:limit]),
    )


def read_letter(*, client: redis.Redis, address: Address) -> DeadLetter | None:
    """Return one dead letter; None when it is gone."""
    score = client.zscore(letters_key(address.queue), address.key)
    return None if score is None else _read(client, [(score, address)])[0]


def find_letters(*, client: redis.Redis, queues: Iterable[str], wanted: Iterable[str]) -> dict[str, list[Address]]:
    """Return, for each id or beginning of one, the dead letters that it names: one alone, if it is a whole id."""
    found: dict[str, set[Address]] = {one: set() for one in wanted}
    lengths = {len(one) for one in found}
    for queue in queues:
        for key, _ in client.zscan_iter(letters_key(queue), count=_PAGE):
            address = Address(queue, key)
            for beginning in {address.id[:length] for length in lengths} & found.keys():
                found[beginning].add(address)
    whole = {one: {address for address in those if address.id == one} for one, those in found.items()}
    return {
        one: sorted(whole[one] or those, key=lambda address: (address.id, address.queue))
        for one, those in found.items()
    }


def _read(client: redis.Redis, found: Sequence[tuple[float, Address]]) -> list[DeadLetter]:
    with client.pipeline(transaction=False) as pipe:
        for _, address in found:
            pipe.hget(messages_key(address.queue), address.key)
        messages = pipe.execute()
    notes = FailureNotes(client).read([address.key for _, address in found])
    return [
        DeadLetter(address, instant_of(score), written, _failure(object_of(note)))
        for (score, address), written, note in zip(found, messages, notes, strict=True)
    ]


def _failure(said: Mapping[str, Any]) -> Failure | None:
    if not said:
        return None
    return Failure(
        at=instant_of(said.get("at")),
        actor=text_of(said.get("actor")),
        error=text_of(said.get("error")),
        host=text_of(said.get("host")),
        pid=integer_of(said.get("pid")),
    )

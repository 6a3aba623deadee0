"""What a person does with dead letters: put them back into their queue, or drop them."""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any

import redis

from services.operations.dead_letters import Address, letters_key, message_of, messages_key
from services.scheduling.failures import note_key
from services.scheduling.scripts import load_script

#: How many letters one script moves: Redis does nothing else meanwhile.
BATCH = 200
#: The options that make a message a tick, a retry or a delayed one. Without them a worker runs it, at once, whatever
#: has run since, and with all its tries before it.
_OF_THE_FIRST_LIFE = frozenset({"scheduled_at", "caught_up", "retries", "requeue_timestamp", "traceback", "eta"})


class Outcome(StrEnum):
    """What became of a letter."""

    DONE = "done"
    #: Somebody else has requeued or dropped it, or its time was up.
    GONE = "gone"
    #: No worker could read it, so it is not put before one.
    UNREADABLE = "unreadable"


Act = Callable[[redis.Redis, str, Sequence[bytes]], list[Outcome]]


def act_on(act: Act, *, client: redis.Redis, addresses: Iterable[Address]) -> Iterator[tuple[Address, Outcome]]:
    """Do ``requeue`` or ``drop`` to these letters, and yield what became of each once that is done.

    Raises redis.RedisError, as all that follows; of the letters not yet yielded, some may then be done.
    """
    for queue, group in groupby(sorted(addresses, key=lambda one: (one.queue, one.id)), key=lambda one: one.queue):
        letters = list(group)
        for start in range(0, len(letters), BATCH):
            batch = letters[start : start + BATCH]
            yield from zip(batch, act(client, queue, [one.key for one in batch]), strict=True)


def act_on_all(act: Act, *, client: redis.Redis, queues: Iterable[str]) -> Iterator[tuple[Address, Outcome]]:
    """Do ``requeue`` or ``drop`` to as many letters as there are now, oldest first, and yield what became of each.

    What dies meanwhile is behind them: requeued letters that die at once again are not requeued for ever.
    """
    for queue in queues:
        remaining, left = int(client.zcard(letters_key(queue))), 0
        while remaining > 0:
            batch: Any = client.zrange(letters_key(queue), left, left + min(BATCH, remaining) - 1)
            if not batch:
                break
            remaining -= len(batch)
            for key, outcome in zip(batch, act(client, queue, batch), strict=True):
                left += outcome is Outcome.UNREADABLE
                yield Address(queue, key), outcome


def requeue(client: redis.Redis, queue: str, ids: Sequence[bytes]) -> list[Outcome]:
    """Put these letters back into their queue, to be run as if they were sent now. See docs/dead_letters.md."""
    written: Any = client.hmget(messages_key(queue), list(ids))
    seconds, _ = client.time()
    moved: list[bytes] = []
    arguments: list[bytes | str] = []
    outcomes = dict.fromkeys(ids, Outcome.GONE)
    for key, found in zip(ids, written, strict=True):
        message = message_of(found)
        if message is None:
            # One that was removed since it was looked for has left the set as well.
            is_there = found is not None or client.zscore(letters_key(queue), key) is not None
            outcomes[key] = Outcome.UNREADABLE if is_there else Outcome.GONE
            continue
        new_id = str(uuid.uuid4())
        try:
            anew = _sent_anew(message, queue=queue, redis_message_id=new_id, at=seconds * 1000)
        except RecursionError:
            # So deeply nested that it could just be read.
            outcomes[key] = Outcome.UNREADABLE
            continue
        moved.append(key)
        arguments += [key, new_id, anew]
    if moved:
        target = f"dramatiq:{queue}"
        done = load_script(client, "requeue_dead_letters")(
            keys=[letters_key(queue), messages_key(queue), target, f"{target}.msgs", *map(note_key, moved)],
            args=arguments,
        )
        outcomes |= {key: Outcome.DONE if is_done else Outcome.GONE for key, is_done in zip(moved, done, strict=True)}
    return [outcomes[key] for key in ids]


def drop(client: redis.Redis, queue: str, ids: Sequence[bytes]) -> list[Outcome]:
    """Remove these letters for good."""
    done = load_script(client, "drop_dead_letters")(
        keys=[letters_key(queue), messages_key(queue), *map(note_key, ids)], args=ids
    )
    return [Outcome.DONE if is_done else Outcome.GONE for is_done in done]


def _sent_anew(message: Mapping[str, Any], *, queue: str, redis_message_id: str, at: int) -> str:
    """Return the message as if it were sent at ``at``, in milliseconds, and not for a slot."""
    options = {name: value for name, value in message["options"].items() if name not in _OF_THE_FIRST_LIFE}
    anew = {
        **message,
        # Where it lies: a worker answers for a message to the queue that it names.
        "queue_name": queue,
        "options": {**options, "redis_message_id": redis_message_id},
        # An age limit counts from here.
        "message_timestamp": at,
    }
    return json.dumps(anew, separators=(",", ":"))

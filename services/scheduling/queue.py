"""The fenced enqueue: check the term, claim the slot and push the message in one step of Redis."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import redis
from redis.commands.core import Script

from services.errors import AdjournError
from services.scheduling import keys
from services.scheduling.lease import Hold, Lease
from services.scheduling.scripts import load_script

#: How often an enqueue is tried: a connection that was cut is no reason to lose a tick.
TRIES = 3
#: How long to wait before the second try, in seconds; twice as long before each further one.
PAUSE = 0.05


class Outcome(StrEnum):
    """What became of a tick."""

    ENQUEUED = "enqueued"
    #: Enqueued late: its slot fell while nobody could, or Periodiq's loop was late.
    CAUGHT_UP = "caught_up"
    #: Its slot, or a later one, was claimed before.
    DUPLICATE = "duplicate"
    #: Its task is paused: the slot is claimed without a message.
    PAUSED = "paused"
    #: This scheduler stands by, or its term was replaced.
    NOT_LEADER = "not_leader"
    #: Redis did not answer, or refused, and it may be unknown whether it took it.
    FAILED = "failed"

    @property
    def is_pushed(self) -> bool:
        """Whether there is a message for it."""
        return self in {Outcome.ENQUEUED, Outcome.CAUGHT_UP}


class TooEarlyError(AdjournError):
    """A slot is still to come: what this process knows of Redis's clock is off by more than a second."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A message that is due for a slot of an actor's schedule."""

    actor: str
    slot: datetime
    next_slot: datetime
    caught_up: bool = False


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of a tick, and when."""

    outcome: Outcome
    #: By Redis's clock.
    at: datetime


@dataclass(frozen=True, slots=True)
class Push:
    """What another library's script needs to push a message."""

    message_id: str
    key: str
    arguments: Sequence[str | int | bytes]


class FencedQueue:
    """Pushes messages that only the holder of the lease can push, each of them once.

    ``push`` is the script that does it for everybody else, whose text becomes part of ours: a message lies in Redis
    exactly as it would otherwise.
    """

    def __init__(self, client: redis.Redis, lease: Lease, *, push: Script) -> None:
        self._lease = lease
        self._enqueue = load_script(client, "enqueue", push=push)
        self._trigger = load_script(client, "trigger", push=push)

    def enqueue(self, tick: Tick, push: Push, *, hold: Hold) -> Enqueued:
        """Enqueue ``tick`` in the name of ``hold``. A call that got no answer is repeated, which changes nothing.

        Raises redis.RedisError when the last try fails too, and whether the tick was enqueued is then unknown; and
        TooEarlyError.
        """
        arguments = [
            *(self._lease.holder, hold.term, int(tick.slot.timestamp()), int(tick.next_slot.timestamp())),
            *(push.message_id, Outcome.CAUGHT_UP if tick.caught_up else Outcome.ENQUEUED),
            *(self._lease.timeout_ms // 1000, *push.arguments),
        ]
        answer, at = _repeat(self._enqueue, [keys.LEASE, keys.task_key(tick.actor), push.key], arguments)
        if answer == b"early":
            raise TooEarlyError("by Redis's clock the slot is still to come")
        return Enqueued(Outcome(answer.decode()), datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(at)))

    def trigger(self, actor: str, request_id: str, push: Push, *, hold: Hold) -> bool:
        """Push the message that was asked for in a request and strike it; return whether that is done.

        A call that got no answer is repeated. Raises redis.RedisError when the last try fails too.
        """
        answer: bytes = _repeat(
            self._trigger,
            [keys.LEASE, keys.task_key(actor), push.key],
            [self._lease.holder, hold.term, request_id, push.message_id, *push.arguments],
        )
        return answer == b"triggered"


def _repeat(script: Script, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:
    """Return the answer of a script that changes nothing when it is called again."""
    for attempt in range(TRIES - 1):
        try:
            return script(keys=keys, args=arguments)
        except (redis.ConnectionError, redis.TimeoutError):
            time.sleep(PAUSE * 2**attempt)
    return script(keys=keys, args=arguments)

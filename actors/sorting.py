"""What a worker has taken and cannot run becomes a dead letter, with a line that says why; the rest goes on.

Redis keeps a set of what a process has taken of a queue and not answered for, by the ids under which it lies. A message
says its id itself, so one that cannot be read, or says another's, would stay in that set until the process ends; and
come back then, to the next one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import redis
from dramatiq.brokers.redis import RedisBroker

from actors.reading import UnreadableMessageError, read_message
from services.errors import first_line
from services.logs import get_logger
from services.operations.dead_letters import Address
from services.scheduling.failures import FailureNotes
from services.values import object_of, text_of

#: What lies under the ids that a process holds of a queue.
_HELD = """
local held = {}
for _, id in ipairs(redis.call("smembers", KEYS[1])) do
    held[#held + 1] = {id, redis.call("hget", KEYS[2], id)}
end
return held
"""

#: Sends a command of dramatiq's own script about one message: the command, the queue, the id.
Settle = Callable[[str, str, bytes], None]

log = get_logger(__name__)


class Sorter:
    """Sorts what ``broker`` takes. ``settle`` sends dramatiq's commands about a message."""

    def __init__(self, broker: RedisBroker, settle: Settle) -> None:
        self._broker = broker
        self._settle = settle
        self._held_script = broker.client.register_script(_HELD)
        self._notes = FailureNotes(broker.client)
        #: The queues of which this process may hold more than it knows.
        self._doubtful: set[str] = set()

    def doubt(self, queue_name: str) -> None:
        """Look at all that is held of a queue the next time: an answer that brought messages may have been lost."""
        self._doubtful.add(queue_name)

    def sort(self, queue_name: str, fetched: Sequence[bytes | None], *, in_hand: Collection[str] | None) -> list[bytes]:
        """Return those of the messages just fetched that can be run, each once.

        ``in_hand`` are the ids in Redis of the messages that a consumer of the queue already answers for, None when
        nobody knows. What is held and neither in hand nor fetched was lost on its way here, and goes back to its queue.
        While Redis does not answer, what can be run is, and the rest is for the next time.
        """
        if not fetched and queue_name not in self._doubtful:
            return []
        runnable = self._runnable(queue_name, fetched)
        # As it is before Redis is asked what is held: what is done meanwhile was not lost.
        in_hand = None if in_hand is None else frozenset(in_hand)
        try:
            if self._is_doubtful(queue_name, fetched, runnable, in_hand):
                return self._look_through(queue_name, runnable, in_hand)
        except redis.RedisError as error:
            self.doubt(queue_name)
            log.warning("what was taken could not be looked through yet", queue=queue_name, reason=first_line(error))
        return [one.data for one in runnable.values() if one.redis_id not in (in_hand or ())]

    def _runnable(self, queue_name: str, fetched: Sequence[bytes | None]) -> "dict[str, _Taken]":
        """Return what can be run, by the id under which it says that it lies."""
        found = (self._read(queue_name, data) for data in fetched if data is not None)
        return {one.redis_id: one for one in found if isinstance(one, _Taken)}

    def _read(self, queue_name: str, data: bytes) -> "_Taken | UnreadableMessageError":
        try:
            message = read_message(data, queue_name=queue_name, broker=self._broker)
        except UnreadableMessageError as error:
            return error
        except Exception as error:
            # Whatever it is, it is about this message: what lies beside it is run.
            log.exception("a message could not be looked at", queue=queue_name)
            return UnreadableMessageError(f"it cannot be read: {first_line(error)}")
        return _Taken(message.options["redis_message_id"], data)

    def _is_doubtful(
        self,
        queue_name: str,
        fetched: Sequence[bytes | None],
        runnable: "dict[str, _Taken]",
        in_hand: Collection[str] | None,
    ) -> bool:
        """Return whether anything is not as it should be; one round trip when it is."""
        if queue_name in self._doubtful or len(runnable) < len(fetched):
            return True
        if not runnable.keys().isdisjoint(in_hand or ()):
            return True
        with self._broker.client.pipeline(transaction=False) as pipe:
            for redis_id in runnable:
                pipe.sismember(self._acks(queue_name), redis_id)
            return not all(pipe.execute())

    def _look_through(
        self, queue_name: str, runnable: "dict[str, _Taken]", in_hand: Collection[str] | None
    ) -> list[bytes]:
        """Settle whatever is held and cannot be run, hand back what was lost, and return the rest of ``runnable``."""
        held: Any = self._held_script(keys=[self._acks(queue_name), f"{self._broker.namespace}:{queue_name}.msgs"])
        kept: list[bytes] = []
        for key, data in held:
            taken = None if data is None else self._read(queue_name, data)
            if not isinstance(taken, _Taken) or taken.redis_id.encode() != key:
                self._set_aside(queue_name, key, data, _error_of(taken))
            elif taken.redis_id in (in_hand or ()):
                continue
            elif taken.redis_id in runnable:
                kept.append(taken.data)
            elif in_hand is not None:
                self._settle("requeue", queue_name, key)
        self._doubtful.discard(queue_name)
        return kept

    def _set_aside(self, queue_name: str, key: bytes, data: bytes | None, error: UnreadableMessageError) -> None:
        shown = Address(queue_name, key).id
        if data is None:
            self._settle("ack", queue_name, key)
            log.warning("an id was dropped from its queue: it has no message", queue=queue_name, redis_message_id=shown)
            return
        fields = object_of(data)
        actor = text_of(fields.get("actor_name")) or "?"
        ttl = timedelta(milliseconds=self._broker.dead_message_ttl)
        self._notes.note(key.decode(errors="replace"), actor=actor, error=error.__cause__ or error, ttl=ttl)
        self._settle("nack", queue_name, key)
        log.error(
            "a message that cannot be run is a dead letter now",
            queue=queue_name,
            redis_message_id=shown,
            message_id=text_of(fields.get("message_id")),
            actor=actor,
            reason=str(error),
        )

    def _acks(self, queue_name: str) -> str:
        return f"{self._broker.namespace}:__acks__.{self._broker.broker_id}.{queue_name}"


@dataclass(frozen=True, slots=True)
class _Taken:
    """A message that can be run."""

    #: Under which it says that it lies.
    redis_id: str
    data: bytes


def _error_of(taken: _Taken | UnreadableMessageError | None) -> UnreadableMessageError:
    if isinstance(taken, UnreadableMessageError):
        return taken
    return UnreadableMessageError(f"it says that it lies under {taken.redis_id}" if taken else "there is none")

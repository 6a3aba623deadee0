"""Ticks: the messages that a scheduler sends for a slot of a schedule, as workers take them."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, SkipMessage

from services.errors import first_line
from services.logs import get_logger
from services.schedules import Schedule
from services.scheduling.runs import RunRecord

#: dramatiq's, of an actor that names none, in milliseconds.
DEFAULT_TIME_LIMIT = 600_000

log = get_logger(__name__)


def is_tick(message: "dramatiq.Message[None] | MessageProxy") -> bool:
    """Return whether the scheduler sent ``message`` for a slot, and it is not a retry of one."""
    return "scheduled_at" in message.options and "retries" not in message.options


def is_called_in(actor: "dramatiq.Actor[Any, Any]") -> bool:
    """Return whether runs of ``actor`` are called in by those of a task, and are none of its own."""
    return bool(actor.options.get("called_in"))


class TickMiddleware(Middleware):
    """Notes each run of a periodic actor, and drops the ticks that are of no more use.

    In place of Periodiq's own middleware, which drops retries and whatever is half a minute late. A tick is dropped
    when its next slot is due and another run has begun since its own: a backlog of ticks is one run, and a queue that
    is always late starves nobody. The clock is Redis's. While Redis does not answer, nothing is dropped. ``on_dropped``
    is told of the actor of each one that is.
    """

    def __init__(self, record: RunRecord, *, on_dropped: Callable[[str], None] = lambda _actor: None) -> None:
        self._record = record
        self._on_dropped = on_dropped

    @property
    def actor_options(self) -> set[str]:
        """What an actor says of itself: its schedule, for Periodiq as well; and that its runs are not a task's own.

        Those are called in by a run of the task, which is the one to be noted.
        """
        return {"periodic", "called_in"}

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Note that a run begins, or raise SkipMessage."""
        actor = broker.get_actor(message.actor_name)
        if is_called_in(actor):
            return
        options = actor.options
        schedule: Schedule | None = options.get("periodic")
        slot = _slot(message)
        useless_from = _slot_after(slot, schedule) if schedule and slot and is_tick(message) else None
        try:
            of_use = self._record.begin(
                message.actor_name,
                message.message_id,
                slot=slot,
                useless_from=useless_from,
                limit=timedelta(milliseconds=options.get("time_limit", DEFAULT_TIME_LIMIT)),
            )
        except redis.RedisError as error:
            log.debug("run not noted", actor=message.actor_name, reason=str(error))
            return
        if not of_use:
            log.info("tick dropped: a later run does its work", actor=message.actor_name)
            self._on_dropped(message.actor_name)
            raise SkipMessage

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """Note how the run ended."""
        del result
        if is_called_in(broker.get_actor(message.actor_name)):
            return
        reason = None if exception is None else first_line(exception)
        try:
            self._record.end(message.actor_name, message.message_id, error=reason)
        except redis.RedisError as error:
            log.debug("run not noted", actor=message.actor_name, reason=str(error))


def _slot_after(slot: datetime, schedule: Schedule) -> datetime | None:
    with suppress(OverflowError, ValueError):  # at the end of time
        return schedule.slot_after(slot)
    return None


def _slot(message: MessageProxy) -> datetime | None:
    """Return the slot of a tick or of its retry; None for what others sent, which may say anything."""
    with suppress(KeyError, TypeError, ValueError):
        slot = datetime.fromisoformat(message.options["scheduled_at"])
        return slot if slot.tzinfo else None
    return None

"""Ticks: the messages that Periodiq sends for a slot of a schedule."""

from datetime import UTC, datetime

import dramatiq
from dramatiq.broker import MessageProxy
from periodiq import PeriodiqMiddleware

from services.schedules import Schedule


def is_tick(message: "dramatiq.Message[None] | MessageProxy") -> bool:
    """Return whether the scheduler sent ``message`` for a slot, and it is not a retry of one."""
    return "scheduled_at" in message.options and "retries" not in message.options


class TickMiddleware(PeriodiqMiddleware):  # type: ignore[misc]
    """Periodiq's middleware, with slots instead of wake-up times.

    A tick carries its slot, not the second in which the scheduler woke up. Periodiq skips what is older than half a
    minute, retries included; here nothing is skipped: a sweep that finds nothing due costs one look into an index.
    """

    def before_enqueue(self, broker: dramatiq.Broker, message: "dramatiq.Message[None]", delay: int | None) -> None:
        """Write the slot into a tick: ``scheduled_at``, ISO 8601 in UTC."""
        del delay
        if is_tick(message):
            woken = datetime.fromisoformat(message.options["scheduled_at"])
            slot = _schedule(broker, message).slot_at(woken) or woken
            message.options["scheduled_at"] = slot.astimezone(UTC).isoformat()

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Skip nothing."""


def _schedule(broker: dramatiq.Broker, message: "dramatiq.Message[None] | MessageProxy") -> Schedule:
    schedule: Schedule = broker.get_actor(message.actor_name).options["periodic"]
    return schedule

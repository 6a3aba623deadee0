"""Ticks: the messages that Periodiq sends for a slot of a schedule."""

from datetime import UTC, datetime

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.middleware import SkipMessage
from periodiq import PeriodiqMiddleware

from services.logs import get_logger
from services.schedules import Schedule

log = get_logger(__name__)


def is_tick(message: "dramatiq.Message[None] | MessageProxy") -> bool:
    """Return whether the scheduler sent ``message`` for a slot, and it is not a retry of one."""
    return "scheduled_at" in message.options and "retries" not in message.options


class TickMiddleware(PeriodiqMiddleware):  # type: ignore[misc]
    """Periodiq's middleware, with slots instead of wake-up times.

    A tick carries its slot, not the second in which the scheduler woke up. Periodiq skips what is older than half a
    minute, retries included; here a tick is skipped only when the same task has started in this process since the
    tick's next slot, so a pile of old ticks costs one run, and a queue that is always late starves nobody.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[str, datetime] = {}

    def before_enqueue(self, broker: dramatiq.Broker, message: "dramatiq.Message[None]", delay: int | None) -> None:
        """Write the slot into a tick: ``scheduled_at``, ISO 8601 in UTC."""
        del delay
        if is_tick(message):
            woken = datetime.fromisoformat(message.options["scheduled_at"])
            slot = _schedule(broker, message).slot_at(woken) or woken
            message.options["scheduled_at"] = slot.astimezone(UTC).isoformat()

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Skip a tick that a later run has made useless."""
        now = datetime.now(UTC)
        name = message.actor_name
        if is_tick(message) and "periodic" in broker.get_actor(name).options:
            slot = datetime.fromisoformat(message.options["scheduled_at"])
            started = self._started.get(name)
            if started is not None and started >= _schedule(broker, message).slot_after(slot):
                log.info("tick skipped", actor=name, slot=slot.isoformat(), reason="a later run has done its work")
                raise SkipMessage
        self._started[name] = now


def _schedule(broker: dramatiq.Broker, message: "dramatiq.Message[None] | MessageProxy") -> Schedule:
    schedule: Schedule = broker.get_actor(message.actor_name).options["periodic"]
    return schedule

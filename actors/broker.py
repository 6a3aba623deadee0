"""The broker that workers and scheduler share. Nothing is connected until the first message."""

import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import dramatiq
from dramatiq.common import current_millis
from dramatiq.middleware import default_middleware

from actors.endpoint import WorkerEndpoint
from actors.engine import ask_database, get_probe_engine, run_connections
from actors.failures import DeadLetterNotes
from actors.health import WorkerHealth
from actors.log_ids import LogIds
from actors.orphans import EndWithCommand
from actors.parting import REDIS_PATIENCE, Parting
from actors.pickup import FrugalBroker, PromptPickup
from actors.settings import settings
from actors.startup import WorkerStart, dependencies
from actors.stopping import Stopping
from actors.ticks import TickMiddleware, is_tick
from services.errors import DataDirectoryError
from services.logs import configure_logging, get_logger
from services.monitoring.run_directory import is_worker_process, run_directory
from services.monitoring.worker_room import make_room
from services.redis_client import connect
from services.scheduling.queue import Push
from services.scheduling.runs import RunRecord
from services.scheduling.scheduler import Scheduler
from services.settings import unknown_variables
from services.tally import RunTally

if TYPE_CHECKING:
    from actors.metrics import Metrics

#: How long Redis may take to answer a command, in seconds.
REDIS_TIMEOUT = 5.0

log = get_logger(__name__)
stopping = Stopping()
#: What the runs of this process did.
tally = RunTally()


class TickBroker(FrugalBroker):
    """A broker that, in a scheduler's process, lets ticks through only from the leader and once a slot."""

    #: The scheduler of this process, where it is one.
    scheduler: Scheduler | None = None

    def enqueue(self, message: dramatiq.Message[None], *, delay: int | None = None) -> dramatiq.Message[None]:
        """Enqueue a message as RedisBroker does; in a scheduler's process, a tick through its fence.

        A tick that is not enqueued is logged, not raised: Periodiq would end.
        """
        if self.scheduler is None:
            return self._enqueue_plainly(message, delay=delay)
        if "trigger_id" in message.options:
            return self._enqueue_trigger(self.scheduler, message)
        if is_tick(message):
            return self._enqueue_tick(self.scheduler, message)
        return self._enqueue_plainly(message, delay=delay)

    def _enqueue_plainly(self, message: dramatiq.Message[None], *, delay: int | None) -> dramatiq.Message[None]:
        enqueued: dramatiq.Message[None] = super().enqueue(message, delay=delay)
        return enqueued

    def _enqueue_tick(self, scheduler: Scheduler, message: dramatiq.Message[None]) -> dramatiq.Message[None]:
        missed = datetime.fromisoformat(message.options["scheduled_at"]) if "caught_up" in message.options else None
        tick = scheduler.tick(message.actor_name, missed=missed)
        if tick is None:
            return message
        # The slot, not the second in which somebody woke up.
        marked = {"caught_up": True} if tick.caught_up else {}
        message = _to_be_pushed(message, scheduled_at=tick.slot.isoformat(), **marked)
        if scheduler.enqueue(tick, self._pushing(message)).is_pushed:
            self.emit_after("enqueue", message, None)
        return message

    def _enqueue_trigger(self, scheduler: Scheduler, message: dramatiq.Message[None]) -> dramatiq.Message[None]:
        message = _to_be_pushed(message)
        if scheduler.trigger(message.actor_name, message.options["trigger_id"], self._pushing(message)):
            self.emit_after("enqueue", message, None)
        return message

    def _pushing(self, message: dramatiq.Message[None]) -> Callable[[int], Push]:
        """Return what tells how to push ``message``, with the leader's term in it, as RedisBroker would.

        Workers look after the messages of dead workers often enough: here nothing is maintained.
        """

        def push(term: int) -> Push:
            self.emit_before("enqueue", message, None)
            no_maintenance = (0, 1)
            return Push(
                message_id=message.message_id,
                key=self.namespace,
                arguments=(
                    *("enqueue", current_millis(), message.queue_name, self.broker_id),
                    *(self.heartbeat_timeout, self.dead_message_ttl, *no_maintenance),
                    *(message.options["redis_message_id"], message.copy(options={"term": term}).encode()),
                ),
            )

        return push


def _to_be_pushed(message: dramatiq.Message[None], **options: object) -> dramatiq.Message[None]:
    """Return ``message`` with ``options`` and the id under which it will lie in Redis, as RedisBroker gives it one."""
    copy: dramatiq.Message[None] = message.copy(options={**options, "redis_message_id": str(uuid4())})
    return copy


def load_metrics() -> "Metrics | None":
    """Return dramatiq's Prometheus middleware with our metrics; None where they are off or this is no worker process.

    Others must not load it: it makes their metrics those of several processes.
    """
    if not settings.enable_metrics or not is_worker_process():
        return None
    try:
        make_room(run_directory())
    except DataDirectoryError as error:
        raise SystemExit(f"adjourn: {error}") from None
    except OSError as error:
        log.warning("no metrics of this process: there is no room for them", reason=str(error))
        return None
    from actors.metrics import Metrics  # noqa: PLC0415 - see above

    return Metrics()


def create_broker(metrics: "Metrics | None") -> TickBroker:
    """Return the broker of ``REDIS_URL`` with dramatiq's default middleware, its metrics and ours."""
    client = connect(settings.broker_url, timeout=REDIS_TIMEOUT)
    probe = connect(settings.broker_url, timeout=REDIS_PATIENCE)
    start = WorkerStart(stopping, missing=dependencies().missing)
    middleware = [
        LogIds(),
        *([] if metrics is None else [metrics]),
        PromptPickup(),
        *(make() for make in default_middleware),
        TickMiddleware(RunRecord(client), on_dropped=_count_dropped),
        DeadLetterNotes(client),
        start,
        stopping,
        Parting(stopping, client=client, probe=probe, ask_database=ask_database, cut_database=run_connections.cut),
        EndWithCommand(stopping),
        WorkerHealth(
            settings,
            client=client,
            engine=get_probe_engine,
            tally=tally,
            directory=run_directory,
            is_stopping=stopping.is_stopping,
            awaited=start.awaited,
        ),
        WorkerEndpoint(),
    ]
    return TickBroker(client=client, middleware=middleware, stopping=stopping)


def _count_dropped(actor: str) -> None:
    if metrics is not None:
        metrics.worker.count_dropped(actor)


configure_logging(level=settings.log_level, style=settings.log_format)
for variable in unknown_variables(os.environ):
    log.warning("unknown setting, ignored", variable=variable)
metrics = load_metrics()
broker = create_broker(metrics)
dramatiq.set_broker(broker)

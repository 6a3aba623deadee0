"""The actor that measures how much is due and active: once for all, so that no scrape asks the database."""

from datetime import timedelta
from typing import Any

import dramatiq
import redis
from sqlalchemy.exc import DBAPIError

from actors.broker import broker
from actors.conversations import SWEEPS_QUEUE
from actors.engine import get_engine
from actors.scheduler import Scheduled
from actors.settings import settings
from services.cluster.backlog_record import BacklogRecord
from services.errors import first_line
from services.logs import get_logger
from services.monitoring import backlog_measurement
from services.monitoring.backlog_measurement import DEFAULT_BUDGET
from services.schedules import Every

#: How old the figures are, at most, in seconds: as often as Prometheus usually asks.
INTERVAL = 15

log = get_logger(__name__)


_OPTIONS: dict[str, Any] = {
    "broker": broker,
    "queue_name": SWEEPS_QUEUE,  # another one would be asked ten times a second, for a tick in a while
    "max_retries": 0,
    "time_limit": (DEFAULT_BUDGET + timedelta(seconds=INTERVAL)) // timedelta(milliseconds=1),
}
if settings.enable_metrics:
    _OPTIONS["periodic"] = Scheduled(Every(seconds=INTERVAL))


@dramatiq.actor(**_OPTIONS)
def measure_backlog() -> None:
    """Measure what is due and active, for whoever asks Redis: metrics, and ``adjourn status``.

    What cannot be measured now is measured in a moment: a failure is a line, not a dead letter.
    """
    try:
        BacklogRecord(broker.client).write(backlog_measurement.measure_backlog(get_engine()))
    except (DBAPIError, redis.RedisError) as error:
        log.warning("backlog not measured", reason=first_line(error))

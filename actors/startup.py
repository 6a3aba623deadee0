"""What a worker checks before it takes work, so that a wrong address is one line and not a stream of errors."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware

from actors.engine import get_engine
from services.database import check_database
from services.errors import AdjournError
from services.redis_server import check_redis
from services.settings import Settings


class StartupCheck(Middleware):
    """End a worker that cannot reach Redis or the database, or finds the database not migrated."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Check both; dramatiq stops the whole command when one of its processes ends."""
        del worker
        try:
            if isinstance(broker, RedisBroker):
                check_redis(self._settings.broker_url)
            check_database(get_engine())
        except AdjournError as error:
            raise SystemExit(f"adjourn: {error}") from None

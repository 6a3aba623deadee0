"""What a worker checks before it works, so that a wrong address is one line and not a stream of errors."""

from collections.abc import Callable

import dramatiq
from dramatiq.middleware import Middleware

from actors.engine import get_engine
from actors.settings import settings
from services.database import check_database
from services.errors import AdjournError
from services.monitoring.run_directory import run_directory
from services.redis_client import check_redis


class WorkerStart(Middleware):
    """End a worker that cannot reach Redis or the database, finds the database not migrated, or cannot tell how it is.

    dramatiq stops the whole command when one of its processes ends.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Check them."""
        del broker, worker
        _end_unless(run_directory)
        _end_unless(lambda: check_redis(settings.broker_url))
        _end_unless(lambda: check_database(get_engine()))


def _end_unless(check: Callable[[], object]) -> None:
    try:
        check()
    except AdjournError as error:
        raise SystemExit(f"adjourn: {error}") from None

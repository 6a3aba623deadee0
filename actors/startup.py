"""What a worker waits for before it takes a message: Redis, the database, and its tables."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Thread
from time import monotonic

import dramatiq
from dramatiq.middleware import Middleware

from actors.engine import get_engine
from actors.pickup import FrugalBroker
from actors.settings import settings
from actors.stopping import Stopping
from services.database import check_database
from services.errors import AdjournError, first_line
from services.logs import get_logger
from services.monitoring.run_directory import run_directory
from services.monitoring.worker_probes import PATIENCE
from services.operations.inquiry import ask_in_background
from services.redis_client import check_redis
from services.wording import clock

#: From one look to the next, in seconds.
INTERVAL = 0.5
#: From one line about the waiting to the next, in seconds.
LINE_INTERVAL = 60.0

log = get_logger(__name__)


class WorkerStart(Middleware):
    """Lets a worker take messages when Redis and the database answer and the tables are those of this version.

    Containers and units start in any order, and what is not there yet may come. Only a worker that cannot tell how it
    is ends: dramatiq stops the whole command when one of its processes does. ``missing`` yields what is not there, in
    words. It is asked every ``interval`` seconds, and what it says is a line every ``line_interval`` seconds.
    """

    def __init__(
        self,
        stopping: Stopping,
        *,
        missing: Callable[[], Iterator[str]],
        interval: float = INTERVAL,
        line_interval: float = LINE_INTERVAL,
    ) -> None:
        self._stopping = stopping
        self._missing = missing
        self._interval = interval
        self._line_interval = line_interval
        self._awaited: str | None = "it has just been started"

    def awaited(self) -> str | None:
        """Return what this process waits for, in words; None once it takes messages."""
        return self._awaited

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Take no message yet."""
        del worker
        try:
            run_directory()
        except AdjournError as error:
            raise SystemExit(f"adjourn: {error}") from None
        if isinstance(broker, FrugalBroker):
            broker.is_open = False

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Begin to wait, beside dramatiq: who waits answers for itself, and ends when it is told to."""
        del worker
        if isinstance(broker, FrugalBroker):
            Thread(target=self._wait, args=(broker,), name="start", daemon=True).start()

    def _wait(self, broker: FrugalBroker) -> None:
        say_at = monotonic()
        has_waited = False
        while missing := "; ".join(self._missing()):
            self._awaited = missing
            if monotonic() >= say_at:
                log.warning("still waiting" if has_waited else "waiting before any message is taken", reason=missing)
                say_at = monotonic() + self._line_interval
                has_waited = True
            if self._stopping.wait(self._interval):
                return
        if has_waited:
            log.info("nothing is missing any more: messages are taken from now on")
        self._awaited = None
        broker.is_open = True


class Dependencies:
    """What a worker of these settings cannot do without: ``checks``, by names, raise while one of them is not there.

    Each is asked in a thread of its own, which may wait for an answer for as long as it likes: nobody asks again
    before it has come, or a server that hangs, or has a table locked, would have more and more connections. After
    ``patience``, in seconds, it is said that there is none.
    """

    def __init__(self, checks: Mapping[str, Callable[[], object]], *, patience: float = PATIENCE) -> None:
        self._checks = checks
        self._patience = patience
        self._asked: dict[str, _Question] = {}

    def missing(self) -> Iterator[str]:
        """Yield what is not there, in words."""
        for name, check in self._checks.items():
            if name not in self._asked:
                self._asked[name] = _Question(datetime.now(UTC), monotonic() + self._patience, ask_in_background(check))
        for name, question in list(self._asked.items()):
            try:
                error = question.answer.exception(timeout=max(question.until - monotonic(), 0))
            except TimeoutError:
                yield f"no answer of {name} since {clock(question.at, now=None)} UTC"
                continue
            del self._asked[name]
            if error is not None:
                yield first_line(error)


@dataclass(frozen=True, slots=True)
class _Question:
    at: datetime
    #: Until when to wait for the answer, on the monotonic clock, in seconds.
    until: float
    answer: Future[object]


def dependencies() -> Dependencies:
    """Return Redis and the database, with its tables, as the settings have them."""
    return Dependencies(
        {
            "Redis": lambda: check_redis(settings.broker_url),
            "the database": lambda: check_database(get_engine()),
        }
    )

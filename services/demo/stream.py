"""``adjourn traffic``: made-up conversations into the database of the environment, until it is stopped."""

import signal
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from queue import Empty, SimpleQueue
from random import Random
from threading import Event, Thread

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from services.database import check_database, create_database_engine
from services.database_url import shown_url
from services.demo.feed import Fed, feed_conversations
from services.errors import DatabaseNotMigratedError, DatabaseUnavailableError, first_line
from services.logs import configure_logging, get_logger
from services.settings import load_settings
from services.timeouts import Timeouts

#: Seconds of the customers' time that pass in one second.
SCALE = 60.0
#: Twenty and forty minutes of the customers' time: with sweeps once a minute, who falls silent is ended within 80 s.
TIMEOUTS = Timeouts(idle=timedelta(seconds=20), expiry=timedelta(seconds=40))
#: Of the messages, those upon which the company closes the conversation. Of 20,000 customers' conversations 74 % idled
#: out, 20 % were closed and 6 % expired.
CLOSING_SHARE = 0.05
#: From one line of how much was written to the next, in seconds.
REPORT_INTERVAL = 60.0
#: From one try to reach the database to the next, in seconds.
RETRY_INTERVAL = 1.0
#: How long a transaction that is under way may take to end once it is told to, in seconds.
_LAST_TRANSACTION = 0.5

log = get_logger(__name__)


def write_traffic(*, rate: float, seconds: float | None) -> None:
    """Write made-up conversations for ``seconds`` (None: for ever), ``rate`` new customers a second, until SIGTERM.

    A database that is away, or has no tables yet, is waited for. Raises SettingsError.
    """
    settings = load_settings()
    configure_logging(level=settings.log_level, style=settings.log_format)
    engine = create_database_engine(settings.database)
    stop = Event()
    # Its put is reentrant, so a signal handler may call it; that of Event is not.
    told: SimpleQueue[None] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.put(None))
    fed = Fed()
    log.info("writing made-up conversations", database=shown_url(engine.url), rate=rate)
    # In a thread that nobody has to wait for: it may hang in a database that does not answer.
    writing = Thread(target=_write, args=(engine, rate, fed, stop), name="traffic", daemon=True)
    writing.start()
    _report(fed, told, until=None if seconds is None else time.monotonic() + seconds)
    stop.set()
    writing.join(timeout=_LAST_TRANSACTION)
    log.info("stopped", **asdict(fed))


def _report(fed: Fed, told: "SimpleQueue[None]", *, until: float | None) -> None:
    """Say how much was written once in a while, until it is told to stop or the monotonic clock shows ``until``."""
    while True:
        with suppress(Empty):
            told.get(
                timeout=REPORT_INTERVAL if until is None else min(REPORT_INTERVAL, max(0.0, until - time.monotonic()))
            )
            return
        if until is not None and time.monotonic() >= until:
            return
        log.info("written so far", **asdict(fed))


def _write(engine: Engine, rate: float, fed: Fed, stop: Event) -> None:
    """Feed the database; when it fails, forget the customers of that time and begin again with others."""
    rng = Random()  # noqa: S311 - traffic, not secrets
    is_away = False
    while not stop.is_set():
        try:
            check_database(engine)
            if is_away:
                log.info("the database is back")
            is_away = False
            feed_conversations(
                engine,
                timeouts=TIMEOUTS,
                rng=rng,
                scale=SCALE,
                fed=fed,
                stop=stop,
                rate=rate,
                closing_share=CLOSING_SHARE,
            )
        except (DBAPIError, DatabaseUnavailableError, DatabaseNotMigratedError) as error:
            if not is_away:
                log.warning("cannot write, trying again each second", reason=first_line(error))
            is_away = True
            stop.wait(RETRY_INTERVAL)

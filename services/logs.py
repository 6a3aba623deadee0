"""Logs: one line an event, for people (``console``) or machines (``json``), whoever writes it.

Adjourn's own lines and those of dramatiq, Periodiq and SQLAlchemy go through the same format, on standard error.
"""

import logging
import os
import sys
import time
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from services.errors import first_line

#: How often a consumer may say the same, in seconds.
OUTAGE_INTERVAL = 60.0
#: What it says again with each try.
_OF_CONSUMERS = ("Consumer encountered ", "Restarting consumer ")

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.CallsiteParameterAdder([structlog.processors.CallsiteParameter.PROCESS]),
]


def configure_logging(
    *,
    level: str = "INFO",
    style: Literal["json", "console"] = "console",
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to ``stream`` (standard error) in one format; may be called again."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(style, stream)],
        )
    )
    handler.addFilter(_Outages())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Says at info which of its own parts it loads.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for logger in ("periodiq", "dramatiq.worker.WorkerThread"):
        logging.getLogger(logger).addFilter(_quiet_ticks)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module: ``log.info("event", key=value)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _quiet_ticks(record: logging.LogRecord) -> bool:
    """Keep others' lines about each tick for debugging: a tick is no news, and of one that is dropped we say more."""
    message = record.args[0] if isinstance(record.args, tuple) and record.args else None
    skipped = str(record.msg).endswith(" was skipped.") and "scheduled_at" in getattr(message, "options", {})
    if skipped or str(record.msg).startswith("Scheduling "):
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger().isEnabledFor(logging.DEBUG)
    return True


#: Errors whose text says all that there is to say, by their names: most processes that log load nothing of a database.
_SAID_IN_A_LINE = {"OperationalError", "InsufficientPrivilege", "RedisError", "AdjournError"}


def _names_of(error: BaseException) -> set[str]:
    """Return the names of its classes, and of those of the driver's error that it is about."""
    kinds = (*type(error).__mro__, *type(getattr(error, "orig", None)).__mro__)
    return {kind.__name__ for kind in kinds}


class _Outages(logging.Filter):
    """Has what dramatiq says of a database or a Redis that is away be a line, and each of its consumers' once a minute.

    So is what the database does not allow, and what is said in words of ours.

    It would be a traceback a run, and a line or a traceback of each consumer every three seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        #: When a line was let through last, by who said it and what, on the monotonic clock, in seconds.
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to say it."""
        if logging.getLogger().isEnabledFor(logging.DEBUG) or not record.name.startswith("dramatiq.worker."):
            return True
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is not None and _SAID_IN_A_LINE & _names_of(error):
            record.msg, record.args = f"{record.getMessage().rstrip('.')}: {first_line(error)}", ()
            record.exc_info = None
        return not str(record.msg).startswith(_OF_CONSUMERS) or self._is_new(record)

    def _is_new(self, record: logging.LogRecord) -> bool:
        about, now = (record.name, record.getMessage()), time.monotonic()
        if now - self._said.get(about, -OUTAGE_INTERVAL) < OUTAGE_INTERVAL:
            return False
        self._said[about] = now
        return True


def _renderers(style: str, stream: TextIO) -> list[Processor]:
    if style == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=_plain),
        ]
    colors = bool(getattr(stream, "isatty", bool)() or os.environ.get("FORCE_COLOR")) and not os.environ.get("NO_COLOR")
    return [
        structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=32, exception_formatter=structlog.dev.plain_traceback)
    ]


def _plain(value: Any) -> str:
    return str(value)

"""A look at the whole cluster: Redis and the database are asked at the same time, and neither is needed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

from services.errors import AdjournError
from services.operations.inquiry import Inquiry, NoAnswerError
from services.operations.overview import Clock, Overview, Source, SourceState
from services.operations.sources import DatabaseSource, RedisSource
from services.settings import Settings

T = TypeVar("T")


def _ignore() -> None:
    pass


class Lookout:
    """Looks as often as it is told to, and keeps its connections. A context manager.

    ``on_answer`` is called in another thread whenever one of the two has answered.
    """

    def __init__(self, settings: Settings, *, on_answer: Callable[[], None] = _ignore) -> None:
        self._redis = RedisSource(settings)
        self._database = DatabaseSource(settings)
        self._status = Inquiry(self._redis.ask, limit=self._redis.limit, on_answer=on_answer)
        self._backlog = Inquiry(self._database.ask, limit=self._database.limit, on_answer=on_answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # One that still hangs has its connection in use; it ends with this process.
        for inquiry, source in ((self._status, self._redis), (self._backlog, self._database)):
            if not inquiry.is_open:
                source.close()

    def begin(self) -> None:
        """Ask both."""
        self._status.begin()
        self._backlog.begin()

    @property
    def patience(self) -> float:
        """For how many seconds an answer is still worth waiting for; 0 when all are there."""
        return max(self._status.patience, self._backlog.patience)

    def look(self) -> Overview:
        """Ask both and return what they answered within the limits of each."""
        self.begin()
        self._status.wait()
        self._backlog.wait()
        return self.overview()

    def overview(self) -> Overview:
        """Return what they answered when they were asked last."""
        status, redis = _told(self._status, self._redis)
        backlog, database = _told(self._backlog, self._database)
        if backlog is None and database.state is SourceState.ANSWERS:
            database = replace(database, state=SourceState.ABSENT)
        is_current = backlog is not None
        if status is not None:
            now, clock = status.now, Clock.REDIS
            backlog = backlog or status.backlog
        elif backlog is not None:
            now, clock = backlog.measured_at, Clock.DATABASE
        else:
            now, clock = datetime.now(UTC), Clock.MACHINE
        return Overview(
            now=now,
            clock=clock,
            redis=redis,
            database=database,
            status=status,
            backlog=backlog,
            is_backlog_current=is_current,
        )


def _told(inquiry: Inquiry[T], source: RedisSource | DatabaseSource) -> tuple[T, Source] | tuple[None, Source]:
    """Return the answer, None when there is none, and how it went."""
    url = source.shown_url
    try:
        return inquiry.answer(), Source(url, SourceState.ANSWERS)
    except NoAnswerError as error:
        return None, Source(url, SourceState.DOWN, f"cannot use {source.name} at {url}: {error}")
    except AdjournError as error:
        return None, Source(url, SourceState.DOWN, str(error))

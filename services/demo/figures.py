"""How a demo stands, by its database: the figures on the screen."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Float,
    Integer,
    ScalarSelect,
    case,
    cast,
    extract,
    func,
    select,
)

from models.conversation import ConversationStatus, active, conversations, overdue
from models.event import conversation_events
from services.database import current_time, reading

#: How many seconds the endings-a-second cover.
SECONDS_SHOWN = 50

_c = conversations.c
_e = conversation_events.c


@dataclass(frozen=True, slots=True)
class Ending:
    """A conversation that has ended."""

    ended_at: datetime
    owner_id: str
    channel: str
    number: str
    status: ConversationStatus
    #: From its last activity to its end.
    quiet: timedelta
    #: From its deadline to its end.
    lag: timedelta


@dataclass(frozen=True, slots=True)
class Figures:
    """How things stand at one moment of the database's clock."""

    now: datetime
    total: int
    open: int
    #: Open, and a deadline is reached.
    due: int
    idle: int
    expired: int
    #: Conversations on a key that had one before.
    came_back: int
    #: Sweeps that ended something, and when the last of them did.
    sweeps: int
    swept_at: datetime | None
    #: Of all endings, deadline to end, in seconds: the nearest rank.
    lag_p50: float | None
    lag_p99: float | None
    lag_max: float | None
    #: Endings in each of the last whole seconds, oldest first.
    endings_a_second: tuple[int, ...]
    #: Newest first.
    last_endings: tuple[Ending, ...]


def read_figures(engine: Engine, *, endings: int = 8) -> Figures:
    """Return how things stand now, with the last ``endings``; reads only."""
    with reading(engine) as connection:
        now = current_time(connection)
        counts = connection.execute(_counts(now)).one()._asdict()
        lags = connection.execute(_lags(connection)).one()._asdict()
        by_second = {row.second: row.endings for row in connection.execute(_endings_by_second(connection, now))}
        last = connection.execute(_last_endings(endings)).all()
    second = int(now.timestamp())
    return Figures(
        now=now,
        **counts,
        **lags,
        endings_a_second=tuple(by_second.get(each, 0) for each in range(second - SECONDS_SHOWN, second)),
        last_endings=tuple(
            Ending(
                ended_at=row.occurred_at,
                owner_id=row.owner_id,
                channel=row.channel,
                number=row.from_number,
                status=row.status,
                quiet=row.occurred_at - row.last_activity_at,
                lag=row.occurred_at - row.deadline,
            )
            for row in last
        ),
    )


def seconds_between(
    connection: Connection, start: ColumnElement[datetime], end: ColumnElement[datetime]
) -> ColumnElement[float]:
    """Return the seconds from ``start`` to ``end``, negative when it came before; to the millisecond on SQLite."""
    if connection.dialect.name == "sqlite":
        return (func.julianday(end) - func.julianday(start)) * 86_400.0
    return cast(extract("epoch", end) - extract("epoch", start), Float)


def _count(*criteria: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).select_from(conversations).where(*criteria).scalar_subquery()


def _counts(now: datetime) -> Executable:
    """Count what is open and what has ended."""
    swept = select(func.count(_e.sweep_id.distinct())).scalar_subquery()
    return select(
        _count().label("total"),
        _count(active).label("open"),
        _count(overdue(now)).label("due"),
        _count(_c.status == ConversationStatus.IDLE_TIMEOUT).label("idle"),
        _count(_c.status == ConversationStatus.EXPIRED).label("expired"),
        select(func.count() - func.count(_c.session_key.distinct())).scalar_subquery().label("came_back"),
        swept.label("sweeps"),
        select(func.max(_e.occurred_at)).where(_e.sweep_id.is_not(None)).scalar_subquery().label("swept_at"),
    )


def _lags(connection: Connection) -> Executable:
    """Rank the endings by how late they were."""
    lag = seconds_between(connection, _e.deadline, _e.occurred_at)
    ranked = select(
        lag.label("lag"), func.row_number().over(order_by=lag).label("rank"), func.count().over().label("of")
    )
    ranks = ranked.where(_e.ended).subquery("ranks").c

    def percentile(percent: int) -> ColumnElement[float | None]:
        return func.min(case((ranks.rank * 100 >= ranks.of * percent, ranks.lag)))

    return select(
        percentile(50).label("lag_p50"), percentile(99).label("lag_p99"), func.max(ranks.lag).label("lag_max")
    )


def _endings_by_second(connection: Connection, now: datetime) -> Executable:
    """Count the endings of each second of the clock, of the seconds that are shown."""
    second = _second_of(connection, _e.occurred_at).label("second")
    recent = _e.occurred_at >= now - timedelta(seconds=SECONDS_SHOWN + 1)
    return select(second, func.count().label("endings")).where(_e.ended, recent).group_by(second)


def _last_endings(limit: int) -> Executable:
    """Pick the endings to show, newest first; half of them of each kind, since the expired ones are few."""
    newest = (_e.occurred_at.desc(), _e.event_id.desc())
    ranked = select(_e.event_id, func.row_number().over(partition_by=_e.status, order_by=newest).label("rank"))
    ranks = ranked.where(_e.ended).subquery("ranks").c
    return (
        select(
            *(_e.occurred_at, _e.deadline, _e.last_activity_at, _e.status),
            *(_c.owner_id, _c.channel, _c.from_number),
        )
        .join(conversations, _c.conv_id == _e.conv_id)
        .join(ranks.event_id.table, ranks.event_id == _e.event_id)
        .where(ranks.rank <= limit // 2)
        .order_by(*newest)
        .limit(limit)
    )


def _second_of(connection: Connection, instant: Column[datetime]) -> ColumnElement[int]:
    if connection.dialect.name == "sqlite":
        return cast(func.strftime("%s", instant), Integer)
    return cast(func.floor(extract("epoch", instant)), Integer)

"""Conversations by the million, by SQL: what a real table holds, the same on each run but for the ids.

Which rows are due and when is arithmetic on their number, so that counts are exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Connection, Engine, bindparam, text

#: Rows that one statement inserts.
_CHUNK = 500_000
#: A prime: multiplied by it, numbers that follow each other come to lie far apart, each in a place of its own.
_SPREAD = 2_654_435_761


class Layout(StrEnum):
    """Where in the table the due rows lie."""

    #: Side by side, in the order of their deadlines, with ids that sort by time: as services and activity, which
    #: rewrites its row, leave them.
    RECENT = "recent"
    #: Anywhere, with ids at random, as a program of somebody else's may: the worst case, hardly two on a page.
    SCATTERED = "scattered"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a table holds."""

    rows: int
    #: Rows with a deadline in the window.
    due: int
    #: Active rows that are not due for half a day.
    waiting: int
    layout: Layout
    #: From the base instant to the first deadline of the window, in seconds; negative is before.
    first: float = -3_600.0
    #: How long the window of deadlines is, in seconds.
    window: float = 3_600.0
    #: The number before that of the first row: tells the rows of one load from those of another.
    after: int = 0

    @property
    def ended(self) -> int:
        """The other rows, each with the event of its end."""
        return self.rows - self.due - self.waiting


def load_rows(
    engine: Engine, shape: Shape, *, base: datetime, progress: Callable[[int], None] = lambda _done: None
) -> None:
    """Insert what ``shape`` says, in transactions of half a million; deadlines count from ``base``."""
    # The width is said: PostgreSQL would take small numbers for small integers, and overflow.
    written = _insert_rows(engine.dialect.name, shape.layout)
    whole = [bindparam(name, type_=BigInteger()) for name in _WHOLE if f":{name}" in written]
    statement = text(written).bindparams(*whole)
    for start in range(0, shape.rows, _CHUNK):
        end = min(start + _CHUNK, shape.rows)
        with engine.begin() as connection:
            connection.execute(
                statement,
                {
                    "first_row": start + 1,
                    "last_row": end,
                    "rows": shape.rows,
                    "due": shape.due,
                    "active": shape.due + shape.waiting,
                    "ended": shape.ended,
                    "first": shape.first,
                    "window": shape.window,
                    "after": shape.after,
                    "base": _instant(connection, base),
                },
            )
        progress(end)
    if shape.ended:
        with engine.begin() as connection:
            connection.execute(text(_EVENTS_OF_ENDED))


def _instant(connection: Connection, instant: datetime) -> datetime | str:
    return instant.strftime("%Y-%m-%d %H:%M:%S") if connection.dialect.name == "sqlite" else instant


_WHOLE = ("first_row", "last_row", "rows", "due", "active", "ended", "after")
_SERIES = {
    "postgresql": "SELECT n FROM generate_series(:first_row, :last_row) AS n",
    "sqlite": (
        "WITH RECURSIVE series(n) AS (SELECT :first_row UNION ALL SELECT n + 1 FROM series WHERE n < :last_row)"
        " SELECT n FROM series"
    ),
}
_UUID = {
    (Layout.SCATTERED, "postgresql"): "gen_random_uuid()",
    (Layout.SCATTERED, "sqlite"): (
        "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a'"
        " || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
    ),
    # Version 7: the milliseconds since 1970 in 48 bits, then chance.
    (Layout.RECENT, "postgresql"): (
        "CAST(lpad(to_hex(CAST(extract(epoch FROM {created_at}) * 1000 AS bigint)), 12, '0') || '7'"
        " || substr(md5(CAST(random() AS text)), 1, 3) || 'a' || substr(md5(CAST(random() AS text)), 1, 15) AS uuid)"
    ),
    (Layout.RECENT, "sqlite"): (
        "printf('%08x-%04x-7', unixepoch({created_at}) * 1000 >> 16, unixepoch({created_at}) * 1000 & 65535)"
        " || lower(substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
    ),
}
#: Of each row: whether it is active, and of the active ones, whether it is due; both counted from the first row on.
_RANKS = {
    Layout.SCATTERED: (
        "SELECT n, n * :active / :rows AS active_rank, (n - 1) * :active / :rows AS active_before FROM numbered"
    ),
    Layout.RECENT: (
        "SELECT n, CASE WHEN n > :ended THEN n - :ended ELSE 0 END AS active_rank,"
        " CASE WHEN n - 1 > :ended THEN n - 1 - :ended ELSE 0 END AS active_before FROM numbered"
    ),
}
_DUE_RANKS = {
    Layout.SCATTERED: ("active_rank * :due / nullif(:active, 0)", "active_before * :due / nullif(:active, 0)"),
    Layout.RECENT: (
        "CASE WHEN active_rank < :due THEN active_rank ELSE :due END",
        "CASE WHEN active_before < :due THEN active_before ELSE :due END",
    ),
}
#: Which of the deadlines in the window a due row has.
_PLACE = {Layout.SCATTERED: f"(due_rank * {_SPREAD}) % nullif(:due, 0)", Layout.RECENT: "due_rank - 1"}
_PARTICULARS = """
SELECT n, due_place, kind,
    'owner-' || (n % 50) AS owner_id,
    CASE n % 3 WHEN 0 THEN 'whatsapp' WHEN 1 THEN 'sms' ELSE 'web' END AS channel,
    '+336' || (100000000 + CASE WHEN kind = 'ended' THEN n % (1 + :rows / 3) ELSE n + :after END) AS from_number,
    '+331' || (10000000 + n % 50) AS to_number
FROM placed
"""
_VALUES = """
SELECT {uuid}, owner_id, 'user-' || n, channel, from_number, to_number,
    owner_id || ':' || channel || ':' || to_number || ':' || from_number,
    CASE WHEN kind = 'ended' THEN 'idle_timeout' WHEN n % 7 < 2 THEN 'pending' ELSE 'progress' END,
    {json},
    {created_at}, {updated_at}, {idle_at}, {expires_at}, {ended_at}
FROM timed
"""
#: In seconds from the base instant. Ended rows are of the last thirty days; active ones expire after this run.
_TIMED = """
SELECT *,
    CASE kind WHEN 'due' THEN :first + :window * due_place / nullif(:due, 0) WHEN 'waiting' THEN 43200.0 + n % 40000
        ELSE -7200.0 - (n * 7919) % 2570000 END AS idle_at,
    CASE kind WHEN 'waiting' THEN 86400 ELSE 1800 END AS idle_timeout
FROM described
"""


def _insert_rows(dialect: str, layout: Layout) -> str:
    """Return the statement that inserts rows ``:first_row`` to ``:last_row`` of ``:rows``."""
    due_rank, due_before = _DUE_RANKS[layout]
    on_sqlite = dialect == "sqlite"

    def instant(seconds: str) -> str:
        if on_sqlite:
            return f"strftime('%Y-%m-%d %H:%M:%f', :base, ({seconds}) || ' seconds') || '000'"
        return f"CAST(:base AS timestamptz) + ({seconds}) * interval '1 second'"

    # Opened up to three hours before the last activity, for two days.
    created_at = instant("idle_at - idle_timeout - n % 10800")
    values = _VALUES.format(
        uuid=_UUID[layout, dialect].format(created_at=created_at),
        json=_json('\'{"campaign": "spring", "source": "ad-\' || (n % 40) || \'"}\'', on_sqlite=on_sqlite),
        created_at=created_at,
        updated_at=instant("idle_at - idle_timeout"),
        idle_at=instant("idle_at"),
        expires_at=instant("idle_at - idle_timeout - n % 10800 + 172800"),
        ended_at=f"CASE WHEN kind = 'ended' THEN {instant('idle_at + 1')} END",
    )
    kind = "CASE WHEN due_rank > due_before THEN 'due' WHEN active_rank > active_before THEN 'waiting' ELSE 'ended' END"
    return f"""
    INSERT INTO conversations (conv_id, owner_id, user_id, channel, from_number, to_number, session_key, status,
        metadata, created_at, updated_at, idle_at, expires_at, ended_at)
    WITH numbered AS ({_SERIES[dialect]}),
    ranked AS ({_RANKS[layout]}),
    counted AS (SELECT n, active_rank, active_before, {due_rank} AS due_rank, {due_before} AS due_before FROM ranked),
    placed AS (SELECT n, {_PLACE[layout]} AS due_place, {kind} AS kind FROM counted),
    described AS ({_PARTICULARS}),
    timed AS ({_TIMED})
    {values}
    """


def _json(written: str, *, on_sqlite: bool) -> str:
    return written if on_sqlite else f"CAST({written} AS jsonb)"


#: The sweep that ended the rows which are loaded as ended.
LOADED_SWEEP = "5eed5eed-0000-4000-8000-000000000000"
#: As a sweep would have recorded them.
_EVENTS_OF_ENDED = f"""
INSERT INTO conversation_events
    (conv_id, previous_status, status, deadline, last_activity_at, cause, sweep_id, occurred_at)
SELECT conv_id, 'progress', status, idle_at, updated_at, 'sweep', '{LOADED_SWEEP}', ended_at
FROM conversations WHERE ended_at IS NOT NULL
"""

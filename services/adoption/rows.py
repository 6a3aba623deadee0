"""What the rows are like: what is NULL, what the constraints would refuse, what is overdue. Each figure is one scan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from models.columns import READABLE_SQL
from models.conversation import ACTIVE_SQL, ENDED_SQL, ConversationStatus
from services.adoption import wanted
from services.adoption.facts import Facts
from services.timeouts import Timeouts

#: How long overdue, up to.
AGES = {
    "up to a day": timedelta(days=1),
    "up to a week": timedelta(days=7),
    "up to a month": timedelta(days=30),
    "up to a year": timedelta(days=365),
    "more than a year": None,
}


@dataclass(frozen=True, slots=True)
class Rows:
    """What the rows are like."""

    count: int
    #: How many there are of each status, NULL and what is none of ours included.
    statuses: Mapping[str | None, int]
    #: In how many a column is NULL; a column that is missing is NULL in all.
    nulls: Mapping[str, int]
    #: In how many an instant is one that the CHECK refuses, by column.
    unreadable: Mapping[str, int]
    #: Active ones that have an ``ended_at``.
    ended_and_active: int
    #: Ended ones that have none.
    without_ended_at: int

    @property
    def foreign_statuses(self) -> dict[str | None, int]:
        """The statuses that are none of ours."""
        ours = {status.value for status in ConversationStatus}
        return {status: count for status, count in self.statuses.items() if status not in ours}

    @property
    def to_fill(self) -> dict[str, int]:
        """In how many rows the fill would set a column."""
        filled = {name: self.nulls[name] for name in wanted.not_null_columns() if self.nulls[name]}
        return filled | ({"ended_at": self.without_ended_at} if self.without_ended_at else {})


@dataclass(frozen=True, slots=True)
class Overdue:
    """What would end at once."""

    #: How many would get each of the two statuses.
    statuses: Mapping[str, int] = field(default_factory=dict)
    #: How many are overdue for how long; the names of ``AGES``.
    ages: Mapping[str, int] = field(default_factory=dict)
    #: In how many of them somebody has written within the idle timeout: their time is up, but they are not dead.
    lively: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.statuses.values())


def read_rows(connection: Connection, facts: Facts) -> Rows:
    """Return what the rows are like. It reads the table once, from end to end, and locks nothing but its definition."""
    there = facts.columns.keys()

    def count(condition: str, *needed: str) -> str:
        return f"count(*) FILTER (WHERE {condition})" if there >= set(needed) else "0"

    figures = {f"null_{name}": count(f"{name} IS NULL", name) for name in wanted.columns()}
    figures |= {f"unreadable_{name}": count(f"{name} NOT {READABLE_SQL}", name) for name in wanted.INSTANTS}
    figures["ended_and_active"] = count(f"{ACTIVE_SQL} AND ended_at IS NOT NULL", "ended_at")
    figures["without_ended_at"] = (
        count(f"{ENDED_SQL} AND ended_at IS NULL", "ended_at")
        if "ended_at" in there
        else f"count(*) FILTER (WHERE {ENDED_SQL})"
    )
    selected = ", ".join(f"{expression} AS {name}" for name, expression in figures.items())
    query = f"SELECT status::text AS status, count(*) AS count, {selected} FROM conversations GROUP BY status"  # noqa: S608 - fixed names
    found = [dict(row) for row in connection.execute(text(query)).mappings()]
    total = {name: sum(row[name] for row in found) for name in [*figures, "count"]}

    def missing(name: str) -> int:
        # One with a default has it in each row from the moment at which it is added.
        return 0 if wanted.default_clause(name) else int(total["count"])

    return Rows(
        count=total["count"],
        statuses={row["status"]: row["count"] for row in sorted(found, key=lambda row: -row["count"])},
        nulls={name: total[f"null_{name}"] if name in there else missing(name) for name in wanted.columns()},
        unreadable={name: n for name in wanted.INSTANTS if (n := total[f"unreadable_{name}"])},
        ended_and_active=total["ended_and_active"],
        without_ended_at=total["without_ended_at"],
    )


def filled(name: str, there: frozenset[str]) -> str:
    """Return the value of a column once it is filled, as an expression of the columns that are ``there``.

    Its parameters are ``idle`` and ``expiry``, the timeouts of what was opened without deadlines.
    """
    own = name if name in there else "NULL::timestamptz"
    match name:
        case "updated_at":
            return own
        case "created_at":
            return f"coalesce({own}, updated_at)"
        case "idle_at":
            return f"coalesce({own}, updated_at + make_interval(secs => :idle))"
        case "expires_at":
            return f"coalesce({own}, {filled('created_at', there)} + make_interval(secs => :expiry))"
        case "ended_at":
            # The last that is known of it. A platform whose updated_at moves with any change has the very moment.
            return f"CASE WHEN {ENDED_SQL} THEN coalesce({own}, updated_at) ELSE {own} END"
        case _:
            raise ValueError(name)


def timeout_parameters(timeouts: Timeouts) -> dict[str, Any]:
    """Return the parameters of ``filled``."""
    # In seconds: a day is as long as the session's time zone says.
    return {"idle": timeouts.idle.total_seconds(), "expiry": timeouts.expiry.total_seconds()}


def read_overdue(connection: Connection, facts: Facts, *, timeouts: Timeouts, now: datetime) -> Overdue:
    """Return what would end at ``now``, with the deadlines that rows have or would be filled with.

    It reads the table once, without the index of deadlines that is not there yet.
    """
    there = frozenset(facts.columns)
    query = f"""
    SELECT CASE WHEN expires_at <= idle_at THEN 'expired' ELSE 'idle_timeout' END AS status,
           width_bucket(now - least(idle_at, expires_at), CAST(:ages AS interval[])) AS age, count(*) AS count,
           count(*) FILTER (WHERE updated_at > now - make_interval(secs => :idle)) AS lively
    FROM (
        SELECT {filled("idle_at", there)} AS idle_at, {filled("expires_at", there)} AS expires_at, updated_at,
               CAST(:now AS timestamptz) AS now
        FROM conversations WHERE {ACTIVE_SQL}
    ) AS open WHERE least(idle_at, expires_at) <= now GROUP BY 1, 2
    """  # noqa: S608 - fixed names
    bounds = [age for age in AGES.values() if age is not None]
    found = connection.execute(text(query), {**timeout_parameters(timeouts), "now": now, "ages": bounds}).all()
    statuses: dict[str, int] = {}
    ages = dict.fromkeys(AGES, 0)
    for status, age, count, _ in found:
        statuses[status] = statuses.get(status, 0) + count
        ages[list(AGES)[age]] += count
    return Overdue(statuses, ages, sum(row.lively for row in found))

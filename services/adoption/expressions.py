"""The platform's own expressions, of its CHECKs, defaults and indexes, tried out without anything being written."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from models.conversation import ACTIVE_SQL, ENDED_SQL, ENDED_STATUSES, ConversationStatus
from services.adoption.facts import TABLE, Facts
from services.adoption.quoting import quote_ident, quote_literal

STATUSES = tuple(status.value for status in ConversationStatus)


def try_out(connection: Connection, query: str) -> list[tuple[Any, ...]] | None:
    """Return the rows of a query that has such an expression; None where it cannot be evaluated.

    It may call functions that the role may not call, or that write; it is their error that is passed over.
    """
    try:
        with connection.begin_nested():
            return [tuple(row) for row in connection.exec_driver_sql(query.replace("%", "%%"))]
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None


def statuses_where(connection: Connection, facts: Facts, condition: str) -> tuple[str, ...] | None:
    """Return for which of our statuses a condition on the status alone is true; None where it has other columns."""
    found = try_out(
        connection,
        f"SELECT status::text FROM (SELECT CAST(value AS {facts.columns['status'].type}) AS status "  # noqa: S608 - the catalogs' words
        f"FROM unnest({_literals(STATUSES)}) AS value) AS {TABLE} WHERE {condition}",
    )
    return None if found is None else tuple(row[0] for row in found)


def changed_rows(facts: Facts) -> str:
    """Return the table for a FROM with rows as a change of status would leave them; ``became`` is that status, as text.

    A row that is active would end as sweeps do it; one whose status is none of ours would get any that is.
    """
    ended = _literals(status.value for status in ENDED_STATUSES)
    new = {
        "status": f"CAST(became AS {facts.columns['status'].type})",
        "ended_at": f"CASE WHEN became = ANY ({ended}) THEN clock_timestamp() ELSE ended_at END",
    }
    columns = (f"{new.get(name, quote_ident(name))} AS {quote_ident(name)}" for name in facts.columns)
    return (
        f"(SELECT became, {', '.join(columns)} FROM {TABLE}, unnest({_literals(STATUSES)}) AS became "  # noqa: S608 - the catalogs' words
        f"WHERE ({ACTIVE_SQL} AND became IN ('idle_timeout', 'expired')) OR ({ACTIVE_SQL} OR {ENDED_SQL}) IS NOT TRUE"
        f") AS {TABLE}"
    )


def _literals(values: Iterable[str]) -> str:
    """Return texts as an array for a statement."""
    return f"CAST(ARRAY[{', '.join(quote_literal(value) for value in values)}] AS text[])"

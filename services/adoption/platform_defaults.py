"""Defaults of the platform's own for columns that Adjourn relies on: what an INSERT gets that leaves them out."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from models.columns import READABLE_SQL
from services.adoption import wanted
from services.adoption.blockers import Blocker, Finding
from services.adoption.expressions import STATUSES, try_out
from services.adoption.quoting import quote_literal


def judge_defaults(connection: Connection) -> Iterator[Finding]:
    """Yield what is in the way of defaults, and what is to be known of them."""
    for column, expression in connection.execute(_DEFAULTS, {"names": ["status", "session_key", *wanted.INSTANTS]}):
        match column:
            case "status":
                yield from _judge_status(connection, expression)
            case "session_key":
                yield from _judge_session_key(connection, expression)
            case "ended_at":
                yield from _judge_end(connection, expression)
            case _:
                yield from _judge_instant(connection, column, expression)


def _judge_status(connection: Connection, expression: str) -> Iterator[Finding]:
    found = try_out(connection, f"SELECT CAST(({expression}) AS text)")
    if not found:
        yield f"the default of status, {expression}, could not be evaluated; it has to be one of {', '.join(STATUSES)}"
    elif found[0][0] not in {None, *STATUSES}:
        yield Blocker(
            "default",
            f"status has the default {quote_literal(found[0][0])}, which is none of Adjourn's: an INSERT without "
            "status would be refused",
            "ALTER TABLE conversations ALTER COLUMN status SET DEFAULT 'pending';",
        )


def _judge_session_key(connection: Connection, expression: str) -> Iterator[Finding]:
    # Whether two rows get the same.
    found = try_out(connection, f"SELECT ({expression}) IS NULL, ({expression}) = ({expression})")
    if found and found[0][0]:
        return
    drop = "ALTER TABLE conversations ALTER COLUMN session_key DROP DEFAULT;"
    if found and found[0][1]:
        yield Blocker(
            "default",
            f"session_key has the default {expression}, the same for all: a second active conversation would be "
            "refused",
            drop,
        )
    else:
        yield (
            f"session_key has the default {expression}, so a message after an INSERT without it opens another "
            f"conversation. Without the default the triggers make the key: {drop.rstrip(';')}"
        )


def _judge_end(connection: Connection, expression: str) -> Iterator[Finding]:
    found = try_out(connection, f"SELECT ({expression}) IS NULL")
    if not (found and found[0][0]):
        yield Blocker(
            "default",
            f"ended_at has the default {expression}: an INSERT of an active conversation without ended_at would be "
            "refused",
            "ALTER TABLE conversations ALTER COLUMN ended_at DROP DEFAULT;",
        )


def _judge_instant(connection: Connection, column: str, expression: str) -> Iterator[Finding]:
    value = f"CAST(({expression}) AS timestamptz)"
    found = try_out(connection, f"SELECT {value} {READABLE_SQL}, {value} <= clock_timestamp()")
    if not found or found[0][0] is None:
        return
    is_readable, is_past = found[0]
    if not is_readable:
        yield Blocker(
            "default",
            f"{column} has the default {expression}, which is infinity, or of a year that is not from 1 to 9999: an "
            f"INSERT without {column} would be refused",
            f"-- where it means never\n"
            f"ALTER TABLE conversations ALTER COLUMN {column} SET DEFAULT '9999-12-29 00:00:00+00';",
        )
    elif is_past and column in {"idle_at", "expires_at"}:
        yield (
            f"{column} has the default {expression}, so a conversation that is opened without it is due at once. "
            f"Without the default the triggers fill it: ALTER TABLE conversations ALTER COLUMN {column} DROP DEFAULT"
        )


_DEFAULTS = text("""
SELECT a.attname::text, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE d.adrelid = to_regclass('conversations') AND a.attgenerated = '' AND a.attname = ANY (:names) ORDER BY a.attnum
""")

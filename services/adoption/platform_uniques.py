"""Unique indexes of the platform's own that hold for what has ended as well: a pair has many conversations in time."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from models.conversation import ACTIVE_SQL, ACTIVE_STATUSES
from services.adoption import wanted
from services.adoption.blockers import Blocker, Finding
from services.adoption.expressions import statuses_where
from services.adoption.facts import Facts

#: Columns in which one conversation of a pair may be the same as the next.
_THE_SAME = {*wanted.PARTS, "user_id", "session_key", "status"}


def judge_uniques(connection: Connection, facts: Facts) -> Iterator[Finding]:
    """Yield what is in the way of such indexes, and what is to be known of them."""
    for name, columns, predicate, drop in connection.execute(_UNIQUES, {"ours": list(wanted.indexes())}):
        if not set(columns) <= _THE_SAME:
            continue
        among = predicate and statuses_where(connection, facts, predicate)
        if among and set(among) <= set(ACTIVE_STATUSES):
            continue
        on = f"{name} on {', '.join(columns)}{f' WHERE {predicate}' if predicate else ''}"
        if "status" in columns and (among or not predicate):
            yield Blocker(
                "unique_index",
                f"the unique index {on} lets one conversation of a kind end with each status: the second keeps every "
                "sweep from ending its batch",
                f"-- Adjourn's own lets one of each session key be active\n{drop};",
            )
        else:
            yield (
                f"the unique index {on} holds for conversations that have ended, too: Adjourn's services cannot open "
                f"the next one of a pair, sweeps do not mind. One with WHERE {ACTIVE_SQL} would do"
            )


#: Those but the primary key, with what drops each. An expression counts as the columns that are in it.
_UNIQUES = text("""
SELECT i.indexrelid::regclass::text, columns, pg_get_expr(i.indpred, i.indrelid),
       CASE WHEN con.conname IS NULL THEN 'DROP INDEX CONCURRENTLY ' || i.indexrelid::regclass::text
            ELSE format('ALTER TABLE conversations DROP CONSTRAINT %I', con.conname) END
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.contype = 'u', LATERAL (
    SELECT coalesce(array_agg(attname::text ORDER BY array_position(i.indkey::int2[], attnum), attnum), '{}') AS columns
    FROM pg_attribute
    WHERE attrelid = i.indrelid AND (
        attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
        OR 0 = ANY (i.indkey) AND attnum IN (
            SELECT refobjsubid FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = i.indexrelid
            AND refclassid = 'pg_class'::regclass AND refobjid = i.indrelid
        )
    )
) AS named
WHERE i.indrelid = to_regclass('conversations') AND i.indisunique AND NOT i.indisprimary AND c.relname <> ALL (:ours)
ORDER BY 1
""")

"""What of the table's own shape an adoption cannot go on with, each with the SQL that mends it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from models.conversation import ConversationStatus
from services.adoption import wanted
from services.adoption.facts import Facts
from services.adoption.in_batches import in_batches
from services.adoption.quoting import quote_ident

#: The first with all that the triggers for other writers use, and long since one that takes a CHECK's word for NOT NULL
#: instead of reading the table under a lock (12).
OLDEST_POSTGRESQL = 14

#: The column that only services write, and nothing reads: of whichever type, it is in nobody's way.
SERVICES_ONLY = "user_id"

_TEXT = re.compile(r"text|character varying(\((\d+)\))?")
_INSTANT = re.compile(r"timestamp(\(\d\))? with time zone")
#: The least that a column of limited length must hold, in characters.
_SHORTEST = {"status": max(len(status.value) for status in ConversationStatus), "session_key": 255}
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "p": "a partitioned table"}


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that is in the way."""

    kind: str
    text: str
    #: What mends it, in SQL; to be read before it is run.
    advice: str


#: What was found: it is in the way, or a note, which is a sentence.
Finding: TypeAlias = Blocker | str


def shape_blockers(facts: Facts) -> list[Blocker]:
    """Return what is in the way of the table's own shape. The rows can be judged when there is none."""
    if facts.kind != "r":
        return [_no_table(facts)]
    return [*_of_server(facts), *_of_key(facts), *_of_columns(facts)]


def _no_table(facts: Facts) -> Blocker:
    what = _KINDS.get(facts.kind, "no table")
    if facts.kind == "p":
        advice = (
            "-- copies every row; the writers stand still meanwhile\n"
            "BEGIN;\n"
            "LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE;\n"
            "CREATE TABLE conversations_whole (LIKE conversations INCLUDING DEFAULTS INCLUDING CONSTRAINTS);\n"
            "INSERT INTO conversations_whole SELECT * FROM conversations;\n"
            "ALTER TABLE conversations_whole ADD PRIMARY KEY (conv_id);\n"
            "ALTER TABLE conversations RENAME TO conversations_partitioned;\n"
            "ALTER TABLE conversations_whole RENAME TO conversations;\n"
            "COMMIT;"
        )
        why = "a unique index on session_key alone cannot be on partitions"
    else:
        of = facts.view_of[0] if len(facts.view_of) == 1 else "the_table_behind_it"
        rename = {"v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}.get(facts.kind, "TABLE")
        advice = (
            f"ALTER {rename} conversations RENAME TO conversations_view;\nALTER TABLE {of} RENAME TO conversations;"
        )
        why = "triggers, indexes and constraints have to be on the table itself"
    return Blocker("not_a_table", f"conversations is {what}, not a table: {why}", advice)


def _of_server(facts: Facts) -> Iterator[Blocker]:
    if facts.server_version < OLDEST_POSTGRESQL * 10_000:
        yield Blocker(
            "server_version",
            f"the server is PostgreSQL {facts.server_version // 10_000}; it takes {OLDEST_POSTGRESQL} or later",
            f"-- upgrade the server to PostgreSQL {OLDEST_POSTGRESQL} or later",
        )
    if facts.current_schema != facts.schema:
        yield Blocker(
            "schema",
            f"conversations is in the schema {facts.schema}, but a new table would be made in "
            f"{facts.current_schema or 'none'}: Adjourn's tables have to be beside it",
            f"ALTER ROLE {quote_ident(facts.user)} SET search_path = {quote_ident(facts.schema)};\n"
            "-- then connect anew",
        )


def _of_key(facts: Facts) -> Iterator[Blocker]:
    if "conv_id" in facts.columns and facts.key != ("conv_id",):
        is_other = f"; it is {', '.join(facts.key)}" if facts.key else "; it has none"
        index = quote_ident(facts.key_index or "")
        drop = f"ALTER TABLE conversations DROP CONSTRAINT {index};\n" if facts.key_index else ""
        yield Blocker(
            "primary_key",
            f"conv_id is not the primary key of conversations{is_other}",
            "CREATE UNIQUE INDEX CONCURRENTLY conversations_conv_id ON conversations (conv_id);\n"
            f"{drop}ALTER TABLE conversations ADD CONSTRAINT conversations_pkey PRIMARY KEY USING INDEX "
            "conversations_conv_id;",
        )


def _of_columns(facts: Facts) -> Iterator[Blocker]:
    for name in wanted.REQUIRED:
        if name not in facts.columns:
            yield Blocker("missing_column", f"there is no column {name}", _column_advice(name))
    for name, column in facts.columns.items():
        if name not in wanted.columns() or name == SERVICES_ONLY:
            continue
        if column.generated:
            yield Blocker(
                "generated_column",
                f"{name} is computed by the database, and nobody can write it",
                f"ALTER TABLE conversations ALTER COLUMN {name} DROP EXPRESSION;",
            )
        if column.kind == "e":
            yield Blocker(
                "enum_type",
                f"{name} is of the native enum type {column.type}, which does not compare with text",
                f"-- drops its default, and writes the table anew under a lock\n"
                f"ALTER TABLE conversations ALTER COLUMN {name} DROP DEFAULT;\n{_type_advice(name)}",
            )
        elif (problem := type_problem(name, column.type)) is not None:
            yield Blocker("column_type", f"{name} is {column.type}: {problem}", _type_advice(name))


def type_problem(name: str, found: str) -> str | None:
    """Return why a column cannot stay of the type that it has."""
    if name == "conv_id":
        return None if found == "uuid" else "it has to be uuid"
    if name == "metadata":
        return None if found == "jsonb" else "it has to be jsonb"
    if name in wanted.INSTANTS:
        return None if _INSTANT.fullmatch(found) else "an instant has to have a time zone: timestamptz"
    matched = _TEXT.fullmatch(found)
    if matched is None:
        return "it has to be text or varchar"
    least = _SHORTEST.get(name, 0)
    return f"it has to hold {least} characters" if matched[2] and int(matched[2]) < least else None


def _type_advice(name: str) -> str:
    if name in wanted.INSTANTS:
        return (
            "-- nothing is written anew where the session's time zone is UTC; say another one if yours are of another\n"
            f"SET TIME ZONE 'UTC';\nALTER TABLE conversations ALTER COLUMN {name} TYPE timestamptz;"
        )
    new_type = wanted.column_clause(name).partition(" ")[2].partition(" DEFAULT")[0].lower()
    return (
        "-- from another type it writes the table anew, under a lock that nobody passes\n"
        f"ALTER TABLE conversations ALTER COLUMN {name} TYPE {new_type} USING {name}::{new_type};"
    )


def _column_advice(name: str) -> str:
    """Return how a column comes to be that the platform does not have."""
    match name:
        case "conv_id":
            value, new_type = "gen_random_uuid()", "uuid"
        case "from_number":
            # One for each row: were they alike, strangers would share a session key.
            value, new_type = "gen_random_uuid()::text", "varchar"
        case "status":
            value, new_type = "'pending'", "varchar(16)"
        case "updated_at":
            value, new_type = "now()", "timestamptz"
        case _:
            value, new_type = "'unknown'", "varchar"
    # Without conv_id there is nothing yet to make batches by.
    plain = f"UPDATE conversations SET {name} = {value};"  # noqa: S608 - to be read
    fill = plain if name == "conv_id" else in_batches(f"{name} = {value}", f"{name} IS NULL")
    return (
        "-- where a column of your own says it, rename that one, or fill from it\n"
        f"ALTER TABLE conversations ADD COLUMN {name} {new_type};\n"
        f"ALTER TABLE conversations ALTER COLUMN {name} SET DEFAULT {value};\n{fill}"
    )

"""What the table has to be in the end, in PostgreSQL's words: all of it is read out of the models.

Statements here are compiled, with % doubled, for ``Connection.exec_driver_sql``.
"""

import re
from collections.abc import Mapping
from functools import cache

from sqlalchemy import CheckConstraint, Column, Dialect, MetaData, Table, create_mock_engine
from sqlalchemy.schema import AddConstraint, CreateIndex, CreateTable, DDLElement
from sqlmodel import SQLModel

from models.conversation import conversations
from models.event import conversation_events
from models.latest import latest_conversations
from models.set_aside import set_aside_conversations

#: What the platform must have by itself: nobody else knows these.
REQUIRED = ("conv_id", "owner_id", "channel", "from_number", "to_number", "status", "updated_at")
#: What a session key is made of.
PARTS = ("owner_id", "channel", "from_number", "to_number")
#: Columns of instants.
INSTANTS = ("created_at", "updated_at", "idle_at", "expires_at", "ended_at")

#: Made in this order.
TABLES = (conversation_events, latest_conversations, set_aside_conversations)
#: The trigger that a fill of ``ended_at`` would run into, so it comes after.
STAY_ENDED = "conversations_stay_ended"
#: The trigger that needs each row to have its session key, so it comes after the fill.
KEEP_LATEST = "conversations_keep_latest"

_MODELS: Dialect = create_mock_engine("postgresql+psycopg://", lambda *_: None).dialect
_TRIGGER = re.compile(r"CREATE TRIGGER (\w+)")
_FUNCTION = re.compile(r"CREATE (?:OR REPLACE )?FUNCTION (\w+)")
_FILLFACTOR = re.compile(r"ALTER INDEX \w+ SET \(fillfactor = (\d+)\)")


def columns() -> Mapping[str, Column[object]]:
    """Return the columns of ``conversations`` by name."""
    return {column.name: column for column in conversations.columns}


def column_clause(name: str) -> str:
    """Return a column for ADD COLUMN: without its NOT NULL, and with its default if that is a constant."""
    column = columns()[name]
    return f"{name} {column.type.compile(dialect=_MODELS)}{default_clause(name)}"


def default_clause(name: str) -> str:
    """Return the default of a column, as `` DEFAULT …``; empty when it has none."""
    default = getattr(columns()[name].server_default, "arg", None)
    return "" if default is None else f" DEFAULT {default}"


def not_null_columns() -> list[str]:
    """Return the columns that are never NULL in the end."""
    return [name for name, column in columns().items() if not column.nullable]


@cache
def checks() -> Mapping[str, str]:
    """Return the CHECKs by name, each as ``ADD CONSTRAINT … NOT VALID``, for one ALTER TABLE."""
    # Some are of SQLite's; what the table is made with is what counts here.
    made = str(CreateTable(conversations).compile(dialect=_MODELS))
    found = {}
    for constraint in _copy().constraints:
        if isinstance(constraint, CheckConstraint) and f"CONSTRAINT {constraint.name} " in made:
            constraint.dialect_options["postgresql"]["not_valid"] = True
            statement = str(AddConstraint(constraint).compile(dialect=_MODELS))
            found[str(constraint.name)] = statement.partition("ALTER TABLE conversations ")[2]
    return dict(sorted(found.items()))


@cache
def indexes() -> Mapping[str, str]:
    """Return the indexes by name, each with its CREATE INDEX CONCURRENTLY; the unique one first, for it may fail."""
    found = {}
    for index in sorted(_copy().indexes, key=lambda one: (not one.unique, str(one.name))):
        index.dialect_options["postgresql"]["concurrently"] = True
        found[str(index.name)] = str(CreateIndex(index).compile(dialect=_MODELS))
    return found


@cache
def triggers() -> Mapping[str, str]:
    """Return the triggers by name, each with the statements that make it and its function anew."""
    made = [statement for statement in _statements() if _TRIGGER.search(statement)]
    return {
        _TRIGGER.findall(statement)[0]: statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
        for statement in made
    }


def functions_of(trigger: str) -> list[str]:
    """Return the functions that come with a trigger."""
    return _FUNCTION.findall(triggers()[trigger])


def trigger_functions() -> list[str]:
    """Return the functions of all the triggers."""
    return [name for trigger in triggers() for name in functions_of(trigger)]


def storage() -> Mapping[str, str]:
    """Return the storage parameters of the table."""
    return {name: str(value) for name, value in conversations.dialect_options["postgresql"]["with"].items()}


@cache
def key_fillfactor() -> str:
    """Return how full a page of the primary key may be, in percent."""
    (percent,) = [found[1] for statement in _statements() if (found := _FILLFACTOR.search(statement))]
    return percent


def table_statements(table: Table) -> list[str]:
    """Return what makes one of ``TABLES``, with its indexes."""
    statements: list[DDLElement] = [CreateTable(table), *(CreateIndex(index) for index in table.indexes)]
    return [str(statement.compile(dialect=_MODELS)) for statement in statements]


@cache
def _statements() -> tuple[str, ...]:
    """Return all that makes the tables, as the models say it."""
    made: list[str] = []
    engine = create_mock_engine(
        "postgresql+psycopg://", lambda statement, *_, **__: made.append(str(statement.compile(dialect=_MODELS)))
    )
    SQLModel.metadata.create_all(engine, tables=[conversations, *TABLES], checkfirst=False)
    return tuple(made)


def _copy() -> Table:
    return conversations.to_metadata(MetaData())

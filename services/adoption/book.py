"""The book of an adoption: what it added, one row in the table ``adjourn_adoption``, by which it is undone.

Each thing is entered before it is made, or in the same transaction: whatever kills the adoption, the book never lacks
a thing that is there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from services.migrations import ADOPTION_TABLE

#: Where it is kept.
BOOK = ADOPTION_TABLE


class Added(StrEnum):
    """The kinds of things in the book."""

    COLUMNS = "columns"
    DEFAULTS = "defaults"
    NOT_NULLS = "not_nulls"
    CONSTRAINTS = "constraints"
    INDEXES = "indexes"
    TRIGGERS = "triggers"
    FUNCTIONS = "functions"
    TABLES = "tables"
    #: Parts of the adoption that are known by what they are called.
    PARTS = "parts"


@dataclass(frozen=True, slots=True)
class Book:
    """What is in the book."""

    began_at: datetime
    #: None until the adoption was through.
    adopted_at: datetime | None
    added: Mapping[str, Any]

    def has(self, kind: Added, name: str) -> bool:
        """Return whether the adoption added this."""
        return name in self.names(kind)

    def names(self, kind: Added) -> list[str]:
        """Return what the adoption added of a kind."""
        return list(self.added.get(kind.value, ()))

    @property
    def storage(self) -> Mapping[str, str | None]:
        """The storage parameters that were set, each with what it was before; None: it was not set."""
        return dict(self.added.get("storage", {}))

    @property
    def key_fillfactor(self) -> str | None:
        """The fillfactor that the primary key had; None: it had none, or was not changed."""
        found = self.added.get("key_fillfactor")
        return None if found is None else str(found)


def open_book(connection: Connection) -> None:
    """Make the book, unless it is there, in the caller's transaction. It locks no table of the platform's."""
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS adjourn_adoption ("
        "only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), "
        "began_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
        "adopted_at timestamptz, added jsonb NOT NULL DEFAULT '{}')"
    )
    connection.exec_driver_sql("INSERT INTO adjourn_adoption DEFAULT VALUES ON CONFLICT DO NOTHING")


def read_book(connection: Connection) -> Book | None:
    """Return the book; None when there is none."""
    if connection.execute(_IS_THERE).scalar_one():
        row = connection.exec_driver_sql("SELECT began_at, adopted_at, added FROM adjourn_adoption").one_or_none()
        return None if row is None else Book(*row)
    return None


def enter(connection: Connection, kind: Added, names: Iterable[str]) -> None:
    """Enter things of a kind, in the caller's transaction; those that are in it stay once."""
    connection.execute(_ENTER, {"kind": kind.value, "names": json.dumps(list(names))})


def enter_storage(connection: Connection, before: Mapping[str, str | None], key_fillfactor: str | None) -> None:
    """Enter what the storage parameters were, in the caller's transaction; what is in it already counts."""
    entered = json.dumps({"storage": dict(before), "key_fillfactor": key_fillfactor})
    connection.execute(_ENTER_STORAGE, {"entered": entered})


def enter_adopted(connection: Connection) -> None:
    """Enter that the adoption is through, in the caller's transaction; the first time counts."""
    connection.exec_driver_sql("UPDATE adjourn_adoption SET adopted_at = coalesce(adopted_at, clock_timestamp())")


_IS_THERE = text("SELECT to_regclass('adjourn_adoption') IS NOT NULL")
_ENTER = text("""
UPDATE adjourn_adoption SET added = jsonb_set(added, ARRAY[CAST(:kind AS text)], (
    SELECT coalesce(jsonb_agg(DISTINCT name), '[]') FROM (
        SELECT jsonb_array_elements(coalesce(added -> CAST(:kind AS text), '[]'))
        UNION ALL SELECT jsonb_array_elements(CAST(:names AS jsonb))
    ) AS entered (name)
))
""")
_ENTER_STORAGE = text("UPDATE adjourn_adoption SET added = CAST(:entered AS jsonb) || added")

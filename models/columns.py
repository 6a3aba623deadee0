"""Column types that mean the same on PostgreSQL and on SQLite."""

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, Enum, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from models.errors import NaiveDatetimeError

EnumT = TypeVar("EnumT", bound=StrEnum)

#: JSON of the database: indexable on PostgreSQL, text on SQLite.
JsonObject = JSON().with_variant(JSONB(), "postgresql")


def require_aware(instant: datetime, name: str) -> datetime:
    """Return ``instant`` in UTC.

    Raises NaiveDatetimeError, which names ``name``, when it has no time zone.
    """
    if not isinstance(instant, datetime) or instant.utcoffset() is None:
        raise NaiveDatetimeError(
            f"{name}: {instant!r} is not a datetime with a time zone; give one, such as datetime.now(UTC)"
        )
    return instant.astimezone(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: ``timestamptz`` on PostgreSQL, text in UTC on SQLite (``2026-01-31 12:00:00.000000``).

    Takes and returns aware datetimes only, so that the two databases cannot differ.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive datetime; hand SQLite the UTC wall clock that it stores."""
        if value is None:
            return None
        instant = require_aware(value, "instant")
        return instant.replace(tzinfo=None) if dialect.name == "sqlite" else instant

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the instant in UTC; SQLite's text has no time zone because it is always UTC."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class UuidText(TypeDecorator[uuid.UUID]):
    """A UUID: native on PostgreSQL, the usual 36 characters on SQLite, as a person would type it there."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return PostgreSQL's own type where there is one."""
        return dialect.type_descriptor(Uuid() if dialect.name == "postgresql" else String(36))

    def process_bind_param(self, value: uuid.UUID | None, dialect: Dialect) -> uuid.UUID | str | None:
        """Write out the UUID for SQLite."""
        if value is None or dialect.name == "postgresql":
            return value
        return str(value)

    def process_result_value(self, value: uuid.UUID | str | None, dialect: Dialect) -> uuid.UUID | None:
        """Read SQLite's text."""
        del dialect
        return uuid.UUID(value) if isinstance(value, str) else value


def enum_as_text(values: type[EnumT]) -> TypeEngine[EnumT]:
    """Return the type of a column that holds an enum's values: text, which is easier to migrate than a native enum."""
    held: TypeEngine[Any] = Enum(
        values,
        native_enum=False,
        create_constraint=False,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )
    return held


def utc_text_check(table: str, column: str) -> CheckConstraint:
    """Return SQLite's CHECK that ``column`` holds an instant in the one form that compares rightly.

    Text with a ``T`` or with another zone's offset would sort wrongly and be due hours late, silently.
    """
    return CheckConstraint(
        f"{column} IS NULL OR (datetime(substr({column}, 1, 19)) IS NOT NULL AND {column} GLOB '????-??-?? ??:??:??*' "
        f"AND rtrim(replace(substr({column}, 20), '+00:00', ''), '0123456789') IN ('', '.'))",
        name=f"{table}_{column}_utc_text",
    ).ddl_if(dialect="sqlite")

"""Column types that mean the same on PostgreSQL and on SQLite."""

import re
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, Enum, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from models.errors import InvalidValueError, NaiveDatetimeError, shown

EnumT = TypeVar("EnumT", bound=StrEnum)

#: JSON of the database: indexable on PostgreSQL, text on SQLite.
JsonObject = JSON().with_variant(JSONB(), "postgresql")


#: The times that are taken for now: ten years later, too, both databases hold and Python reads what is reckoned from
#: them. See ``READABLE_SQL``.
EARLIEST_NOW = datetime(1, 1, 2, tzinfo=UTC)
FIRST_TOO_LATE = datetime(9989, 1, 1, tzinfo=UTC)


def require_aware(instant: datetime, name: str) -> datetime:
    """Return ``instant``, which somebody says that it is now, in UTC.

    Raises NaiveDatetimeError, which names ``name``, when it has no time zone, and InvalidValueError unless it is from
    0001-01-02 to 9988.
    """
    utc = _in_utc(instant, name)
    if not EARLIEST_NOW <= utc < FIRST_TOO_LATE:
        raise _out_of_range(instant, name)
    return utc


def _in_utc(instant: datetime, name: str) -> datetime:
    if not isinstance(instant, datetime) or instant.utcoffset() is None:
        raise NaiveDatetimeError(
            f"{name}: {shown(instant)} is not a datetime with a time zone; give one, such as datetime.now(UTC)"
        )
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise _out_of_range(instant, name) from None


def _out_of_range(instant: datetime, name: str) -> InvalidValueError:
    return InvalidValueError(f"{name}: {instant.isoformat()} is out of range; give a time from 0001-01-02 to 9988")


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: ``timestamptz`` on PostgreSQL, text in UTC on SQLite (``2026-01-31 12:00:00.000000``).

    Takes and returns aware datetimes only, so that the two databases cannot differ.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive datetime."""
        del dialect
        return None if value is None else _in_utc(value, "instant")

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the instant in UTC."""
        del dialect
        return None if value is None else value.astimezone(UTC)

    def bind_processor(self, dialect: Dialect) -> Any:
        """Write SQLite's text at once: in steps of SQLAlchemy's it took a tenth of a message's time."""
        return _write_instant if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Read SQLite's text at once."""
        return _read_instant if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _write_instant(value: datetime | None) -> str | None:
    if value is None:
        return None
    return _in_utc(value, "instant").replace(tzinfo=None).isoformat(" ", "microseconds")


def _read_instant(text: str | None) -> datetime | None:
    """Return the instant of SQLite's text, which has no time zone because it is always UTC."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


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


class StoredId(UuidText):
    """A UUID as the database has it: on SQLite its text, which plain SQL may have written in another form."""

    cache_ok = True

    def process_result_value(self, value: uuid.UUID | str | None, dialect: Dialect) -> Any:
        """Return it as it is."""
        del dialect
        return value


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


_PLAIN_INSTANT = re.sub("0", "[0-9]", "0000-00-00 00:00:00.000000")


#: In PostgreSQL's SQL: an instant is one that Python can read.
READABLE_SQL = "BETWEEN '0001-01-02 00:00:00+00'::timestamptz AND '9999-12-30 00:00:00+00'::timestamptz"


def readable_check(table: str, columns: tuple[str, ...]) -> CheckConstraint:
    """Return PostgreSQL's CHECK that instants are those that Python can read: no infinity, no year beyond 9999."""
    return CheckConstraint(
        " AND ".join(f"{column} {READABLE_SQL}" for column in columns), name=f"{table}_instants_check"
    ).ddl_if(dialect="postgresql")


def instant_check(table: str, column: str) -> CheckConstraint:
    """Return SQLite's CHECK that ``column`` holds an instant that exists, in any form of ISO 8601.

    Without it, text that is no instant would never be due, silently. SQLite carries a 30th of February over only when
    it calculates with it.
    """
    written = f"replace(substr({column}, 1, 19), 'T', ' ')"
    return CheckConstraint(
        f"{column} IS NULL OR (datetime({column}) IS NOT NULL AND datetime({written}, '+0 seconds') = {written})",
        name=f"{table}_{column}_instant",
    ).ddl_if(dialect="sqlite")


def plain_instant(column: str) -> str:
    """Return SQLite's expression of ``column``, an instant in any form of ISO 8601, in the one that compares."""
    return f"CASE WHEN {_is_plain(column)} THEN {column} ELSE strftime('%Y-%m-%d %H:%M:%f', {column}) || '000' END"


def _is_plain(column: str) -> str:
    return f"{column} GLOB '{_PLAIN_INSTANT}'"


def instant_triggers(table: str, key: str, columns: tuple[str, ...]) -> list[str]:
    """Return SQLite's triggers that bring instants which plain SQL wrote in another form into the one that compares.

    What Adjourn writes is in that form already (UTC, six digits of fraction) and costs no more than a look.
    """
    differs = " OR ".join(f"NOT {_is_plain(f'NEW.{column}')}" for column in columns)
    assignments = ", ".join(f"{column} = {plain_instant(column)}" for column in columns)
    return [
        f"CREATE TRIGGER {table}_instants_{name} AFTER {change} ON {table} WHEN {differs} "  # noqa: S608 - fixed names
        f"BEGIN UPDATE {table} SET {assignments} WHERE {key} = NEW.{key}; END"
        for name, change in (("insert", "INSERT"), ("update", f"UPDATE OF {', '.join(columns)}"))
    ]

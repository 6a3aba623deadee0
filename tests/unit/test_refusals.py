"""What errors of the databases mean to whoever ends a batch."""

import sqlite3

import pytest
from psycopg import errors
from sqlalchemy.exc import DBAPIError

from services.refusals import Refusal, refusal_of


def error_of(original: Exception) -> DBAPIError:
    return DBAPIError("UPDATE", {}, original)


@pytest.mark.parametrize(
    ("original", "refusal"),
    [
        (errors.CheckViolation("no"), Refusal.ROW),
        (errors.RaiseException("no"), Refusal.ROW),
        (errors.NumericValueOutOfRange("no"), Refusal.ROW),
        (errors.InsufficientPrivilege("no"), Refusal.ROW),
        (errors.DataCorrupted("no"), Refusal.ROW),
        (errors.DeadlockDetected("no"), Refusal.CONFLICT),
        (errors.SerializationFailure("no"), Refusal.CONFLICT),
        (errors.TransactionRollback("no"), Refusal.ROW),
        (errors.QueryCanceled("no"), Refusal.TOO_LONG),
        (errors.ObjectNotInPrerequisiteState("no"), Refusal.ROW),
        (errors.InvalidAuthorizationSpecification("no"), Refusal.ROW),
        (errors.LockNotAvailable("no"), Refusal.OTHER),
        (errors.AdminShutdown("no"), Refusal.OTHER),
        (errors.TooManyConnections("no"), Refusal.OTHER),
        (errors.DiskFull("no"), Refusal.OTHER),
        (errors.ReadOnlySqlTransaction("no"), Refusal.ROW),
        (errors.OperationalError("the connection is lost"), Refusal.OTHER),
    ],
)
def test_what_postgresql_says(original: Exception, refusal: Refusal) -> None:
    assert refusal_of(error_of(original)) is refusal


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        (sqlite3.SQLITE_CONSTRAINT_TRIGGER, Refusal.ROW),
        (sqlite3.SQLITE_CONSTRAINT_CHECK, Refusal.ROW),
        (sqlite3.SQLITE_ERROR, Refusal.ROW),
        (sqlite3.SQLITE_BUSY, Refusal.OTHER),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Refusal.OTHER),
        (sqlite3.SQLITE_FULL, Refusal.OTHER),
        (sqlite3.SQLITE_READONLY, Refusal.OTHER),
        (sqlite3.SQLITE_CORRUPT, Refusal.OTHER),
        (None, Refusal.OTHER),
    ],
)
def test_what_sqlite_says(code: int | None, refusal: Refusal) -> None:
    original = sqlite3.OperationalError("no")
    if code is not None:
        original.sqlite_errorcode = code
    assert refusal_of(error_of(original)) is refusal

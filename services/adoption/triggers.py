"""A trigger of the schema, made and entered in the book together."""

from sqlalchemy import Connection

from services.adoption import wanted
from services.adoption.book import Added, enter


def make_trigger(connection: Connection, name: str) -> None:
    """Make a trigger and its function, in the caller's transaction, which has the table locked."""
    enter(connection, Added.TRIGGERS, [name])
    enter(connection, Added.FUNCTIONS, wanted.functions_of(name))
    connection.exec_driver_sql(wanted.triggers()[name])

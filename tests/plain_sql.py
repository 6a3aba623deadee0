"""Connections to PostgreSQL that know none of our code, as another program's would be."""

from typing import Any

import psycopg
from sqlalchemy import make_url


def plain_url(url: str) -> str:
    """Return a URL of SQLAlchemy's as libpq takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def connect(url: str) -> psycopg.Connection[Any]:
    """Return a connection each of whose statements is a transaction of its own."""
    return psycopg.connect(plain_url(url), autocommit=True)


def run_sql(url: str, *statements: str) -> None:
    """Run plain SQL."""
    with connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def rows_of(url: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of plain SQL."""
    with connect(url) as connection:
        return connection.execute(query.encode()).fetchall()

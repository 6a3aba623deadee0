"""The URL of a database: what DATABASE_URL may say, and how it is shown."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from services.errors import InvalidValueError

#: What a URL of PostgreSQL's says, ``true`` or ``false``, of whether statements are prepared on the server. It travels
#: with the URL so that whoever makes an engine cannot forget it.
PREPARED_STATEMENTS = "prepared_statements"

_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}


def parse_database_url(value: str) -> URL:
    """Return the URL with the driver that Adjourn uses: psycopg for any ``postgres…://``, sqlite3 for ``sqlite://``.

    Raises InvalidValueError when it is not a URL or of another database. The text never shows a password.
    """
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise InvalidValueError(
            "it is not a database URL; write it like postgresql://user:password@host/name or sqlite:///path"
        ) from None
    if "@" in (url.host or ""):
        raise InvalidValueError("its password has an @; percent-encode it, as %40")
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise InvalidValueError("it names no file; write it like sqlite:///path")
    driver = _DRIVERS.get(url.drivername.split("+")[0])
    if driver is None:
        raise InvalidValueError(f"{url.drivername!r} is not supported; use postgresql://… or sqlite:///path")
    if url.query.get(PREPARED_STATEMENTS, "true") not in {"true", "false"}:
        raise InvalidValueError(f"its {PREPARED_STATEMENTS} is neither true nor false; write true or false")
    return url.set(drivername=driver)


def shown_url(url: URL) -> str:
    """Return ``url`` fit to be shown: without its password, wherever that stands."""
    return url.set(query={}).render_as_string(hide_password=True)

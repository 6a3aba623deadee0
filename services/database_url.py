"""The URL of a database: what DATABASE_URL may say, and how it is shown."""

from collections.abc import Iterator

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from models.errors import shown
from services.arguments import require_path
from services.errors import InvalidValueError

#: What a URL of PostgreSQL's says, ``true`` or ``false``, of whether statements are prepared on the server. It travels
#: with the URL so that whoever makes an engine cannot forget it.
PREPARED_STATEMENTS = "prepared_statements"

#: What SQLAlchemy and psycopg would take from a query, and no connection to a server: how the program works with it.
_NOT_FOR_A_URL = {
    "autocommit",
    "conninfo",
    "context",
    "cursor_factory",
    "plugin",
    "prepare_threshold",
    "row_factory",
}
#: What the query of a SQLite file may say. With ``uri=true``, where the file is one of SQLite's own URIs, it is SQLite
#: that reads the rest.
_SQLITE_OPTIONS = {"cached_statements", "check_same_thread", "detect_types", "isolation_level", "timeout", "uri"}
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}


def parse_database_url(value: str) -> URL:
    """Return the URL with the driver that Adjourn uses: psycopg for any ``postgres…://``, sqlite3 for ``sqlite://``.

    Raises InvalidValueError when it is not a URL, of another database, or one that could not mean anything. The text
    never shows a password.
    """
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise InvalidValueError(
            "it is not a database URL; write it like postgresql://user:password@host/name or sqlite:///path"
        ) from None
    driver = _DRIVERS.get(url.drivername.split("+")[0])
    if driver is None:
        raise InvalidValueError(f"{shown(url.drivername)} is not supported; use postgresql://… or sqlite:///path")
    url = url.set(drivername=driver)
    if not value.isprintable() or any("\0" in part for part in _parts(url)):
        raise InvalidValueError("it has a character that no URL has, such as a line end or NUL; percent-encode it")
    if url.get_backend_name() == "sqlite":
        _check_file(url)
    else:
        _check_server(url, value)
    if url.query.get(PREPARED_STATEMENTS, "true") not in {"true", "false"}:
        raise InvalidValueError(f"its {PREPARED_STATEMENTS} is neither true nor false; write true or false")
    if unfit := sorted(_NOT_FOR_A_URL & url.query.keys()):
        raise InvalidValueError(f"its option {unfit[0]} is not for a URL; leave it out")
    try:
        url.get_dialect()().create_connect_args(url.difference_update_query([PREPARED_STATEMENTS]))
    except (ArgumentError, TypeError, ValueError):
        raise InvalidValueError("an option of its query makes no sense; mend it, or leave it out") from None
    return url


def _check_file(url: URL) -> None:
    """Return when a URL of SQLite's names a file, and nothing that SQLite has not. Raises InvalidValueError."""
    if url.host or url.port or url.username or url.password:
        raise InvalidValueError("it names a host, which SQLite has not; write it like sqlite:///path")
    if url.database in {None, "", ":memory:"}:
        raise InvalidValueError("it names no file; write it like sqlite:///path")
    require_path(url.database or "")
    unknown = sorted(url.query.keys() - _SQLITE_OPTIONS - _NOT_FOR_A_URL - {PREPARED_STATEMENTS})
    if unknown and "uri" not in url.query:
        raise InvalidValueError(f"its option {shown(unknown[0])} is not known; leave it out, or add uri=true")


def _check_server(url: URL, value: str) -> None:
    """Return when what looks like the host of a URL can be one. Raises InvalidValueError."""
    rest = value.partition("://")[2]
    if rest.count("@") > (url.username is not None):
        # Then the host, or the database, may be a piece of the password.
        raise InvalidValueError("its password has an @, or another part has; percent-encode it, as %40")
    for host in _hosts(url):
        try:
            host.encode("idna")
        except UnicodeError:
            raise InvalidValueError(f"its host {shown(host)} can be no host; name one") from None


def _hosts(url: URL) -> Iterator[str]:
    for written in (url.host or "", *url.normalized_query.get("host", ())):
        # One that begins with / is the directory of a socket.
        yield from (host for host in written.split(",") if not host.startswith("/"))


def _parts(url: URL) -> Iterator[str]:
    yield from filter(None, (url.username, url.password, url.host, url.database))
    for name, values in url.normalized_query.items():
        yield from (name, *values)


def shown_url(url: URL) -> str:
    """Return ``url`` fit to be shown: without its password, wherever that stands."""
    return url.set(query={}).render_as_string(hide_password=True)

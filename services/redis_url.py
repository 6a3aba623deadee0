"""The URL of Redis: what REDIS_URL may say, and the options of redis-py that it means."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import redis

from models.errors import shown
from services.errors import InvalidValueError

SENTINEL_PORT = 26379

_FORMS = (
    "write it like redis://host:6379/0, rediss://… (TLS), unix:///path or redis+sentinel://host:26379/service/0, with "
    "special characters of the password percent-encoded"
)
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^\[\]:\s]+))(?::(?P<port>[0-9]{1,5}))?")
_LARGEST_PORT = 65535
#: What a query may set, besides ``ssl_…``. Not the retries of redis-py, which send a write again whose answer was lost
#: and so carry it out twice, and not how answers are decoded, on which dramatiq relies.
_OPTIONS = {
    "client_name",
    "db",
    "health_check_interval",
    "max_connections",
    "password",
    "protocol",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_read_size",
    "socket_timeout",
    "username",
}
_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is and how to enter, as a URL says it."""

    #: ``connection_class`` and the options of a connection to Redis, by redis-py's names.
    options: Mapping[str, Any] = field(repr=False)
    #: The host and port of each sentinel; none when Redis is addressed itself.
    sentinels: tuple[tuple[str, int], ...] = ()
    #: What the sentinels call the master.
    service: str = ""
    #: The user name and password of the sentinels, by redis-py's names.
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def uses_tls(self) -> bool:
        """Whether every connection is encrypted."""
        return issubclass(self.options["connection_class"], redis.SSLConnection)


def parse_redis_url(url: str) -> RedisAddress:
    """Return what ``url`` means.

    Raises InvalidValueError, whose text says what would be right and nothing of the URL but the names of options.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise _wrong("it is not a Redis URL")
    if "#" in rest:
        raise _wrong("it has a # in it")
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    if scheme == "unix":
        if not path:
            raise _wrong("it has no path")
        return _address(f"unix://{place}", query)
    if "@" in path or "@" in query:
        # It begins the host, so that what looks like one is a piece of the password.
        raise _wrong("it has an @ in the wrong place")
    login, at, hosts = authority.rpartition("@")
    if scheme.endswith("+sentinel"):
        return _sentinel_address(scheme.removesuffix("+sentinel"), f"{login}{at}", hosts, path, query)
    if "," in hosts:
        raise _wrong("it has several hosts, which only redis+sentinel:// may have")
    if hosts:
        _host_and_port(hosts, default_port=0)
    _check_database(path)
    return _address(f"{scheme}://{place}", query)


def _sentinel_address(scheme: str, login: str, hosts: str, path: str, query: str) -> RedisAddress:
    sentinels = tuple(_host_and_port(host, default_port=SENTINEL_PORT) for host in hosts.split(","))
    service, _, database = path.partition("/")
    if not service:
        raise _wrong("it does not name the service that the sentinels watch")
    _check_database(database)
    # All but the sentinels is as in redis-py's own URLs.
    return _address(f"{scheme}://{login}/{database}", query, sentinels=sentinels, service=unquote(service))


def _check_database(text: str) -> None:
    if not re.fullmatch(r"([0-9]+/?)?", text):
        raise _wrong("its database is not a number")


def _host_and_port(text: str, *, default_port: int) -> tuple[str, int]:
    if not text or text.startswith(":"):
        raise _wrong("a host is missing")
    found = _HOST.fullmatch(text)
    port = int(found["port"] or default_port) if found else 0
    if found is None or not (found["port"] is None or 1 <= port <= _LARGEST_PORT):
        raise _wrong(f"a host and its port make no sense, or a port is not a number from 1 to {_LARGEST_PORT}")
    return found["ipv6"] or unquote(found["name"]), port


def _address(place: str, query: str, *, sentinels: tuple[tuple[str, int], ...] = (), service: str = "") -> RedisAddress:
    """Return what a URL of redis-py's own forms means."""
    _check_names(query, of_sentinels=bool(sentinels))
    try:
        options: dict[str, Any] = redis.connection.parse_url(f"{place}?{query}")  # type: ignore[no-untyped-call]
    except ValueError as error:
        named = re.fullmatch(r"Invalid value for '(\w+)' in connection URL\.", str(error))
        raise _wrong(f"the value of {named[1]} makes no sense" if named else "it is not a Redis URL") from None
    login = {name: options.pop(given) for given, name in _SENTINEL_OPTIONS.items() if given in options}
    options.setdefault("connection_class", redis.Connection)
    for name in ("socket_timeout", "socket_connect_timeout"):
        if name in options and not options[name] > 0:
            raise _wrong(f"the value of {name} makes no sense")
    if options.get("db", 0) < 0:
        raise _wrong("its database is not a number")
    try:
        # Nothing is connected yet, but the options are looked at.
        redis.ConnectionPool(**options).make_connection()
    except (TypeError, ValueError, redis.RedisError):
        raise _wrong("an option of its query does not suit it, or its value makes no sense") from None
    return RedisAddress(options, sentinels=sentinels, service=service, sentinel_login=login)


def _check_names(query: str, *, of_sentinels: bool) -> None:
    try:
        names = [name for name, _ in parse_qsl(query, keep_blank_values=True, strict_parsing=True)] if query else []
    except ValueError:
        raise _wrong("what follows its ? is not like name=value&name=value") from None
    for name in names:
        if name in _SENTINEL_OPTIONS:
            if not of_sentinels:
                raise _wrong(f"{name} is for redis+sentinel:// alone")
        elif name.startswith("retry"):
            raise InvalidValueError(f"leave out {name}: a command that is sent again may be carried out twice")
        elif name not in _OPTIONS and not re.fullmatch(r"ssl_\w+", name):
            raise _wrong(f"its option {shown(name)} is not known here")


def _wrong(problem: str) -> InvalidValueError:
    return InvalidValueError(f"{problem}; {_FORMS}")

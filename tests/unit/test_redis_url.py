from typing import Any

import pytest
import redis

from services.errors import InvalidValueError, SettingsError, without_password
from services.redis_url import RedisAddress, parse_redis_url
from services.settings import load_settings


def given(address: RedisAddress) -> dict[str, Any]:
    """Return the options of an address but the class of its connections."""
    return {name: value for name, value in address.options.items() if name != "connection_class"}


@pytest.mark.parametrize(
    ("url", "connection_class", "options"),
    [
        ("redis://", redis.Connection, {}),
        ("redis://host", redis.Connection, {"host": "host"}),
        ("redis://host:1234/5", redis.Connection, {"host": "host", "port": 1234, "db": 5}),
        ("redis://host:1234/5\n", redis.Connection, {"host": "host", "port": 1234, "db": 5}),
        ("redis://host/", redis.Connection, {"host": "host"}),
        ("redis://host?db=3", redis.Connection, {"host": "host", "db": 3}),
        ("redis://[::1]:1234", redis.Connection, {"host": "::1", "port": 1234}),
        ("redis://me:p%40ss%2F@host", redis.Connection, {"username": "me", "password": "p@ss/", "host": "host"}),
        ("redis://:p@ss@host", redis.Connection, {"password": "p@ss", "host": "host"}),
        ("rediss://host", redis.SSLConnection, {"host": "host"}),
        (
            "rediss://host?ssl_ca_certs=%2Fca.pem&ssl_check_hostname=false",
            redis.SSLConnection,
            {"host": "host", "ssl_ca_certs": "/ca.pem", "ssl_check_hostname": False},
        ),
        ("unix:///run/redis.sock?db=2", redis.UnixDomainSocketConnection, {"path": "/run/redis.sock", "db": 2}),
        (
            "unix://me:secret@/run/redis.sock",
            redis.UnixDomainSocketConnection,
            {"username": "me", "password": "secret", "path": "/run/redis.sock"},
        ),
    ],
)
def test_the_urls_of_redis_py_mean_what_they_mean_there(
    url: str, connection_class: type, options: dict[str, Any]
) -> None:
    address = parse_redis_url(url)

    assert address.options["connection_class"] is connection_class
    assert given(address) == options
    assert address.sentinels == ()


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "options"),
    [
        ("redis+sentinel://host/main", [("host", 26379)], "main", {}),
        ("redis+sentinel://host:1/main/", [("host", 1)], "main", {}),
        ("redis+sentinel://a:1,b,c:65535/main/7", [("a", 1), ("b", 26379), ("c", 65535)], "main", {"db": 7}),
        ("redis+sentinel://[::1]:1,b:2/main", [("::1", 1), ("b", 2)], "main", {}),
        ("redis+sentinel://a,[::1]/main", [("a", 26379), ("::1", 26379)], "main", {}),
        (
            "redis+sentinel://me:p%40ss%2C@a,b/my%20main/0?socket_timeout=2",
            [("a", 26379), ("b", 26379)],
            "my main",
            {"username": "me", "password": "p@ss,", "db": 0, "socket_timeout": 2.0},
        ),
    ],
)
def test_a_url_of_sentinels_names_them_the_service_and_the_login_of_redis(
    url: str, sentinels: list[tuple[str, int]], service: str, options: dict[str, Any]
) -> None:
    address = parse_redis_url(url)

    assert (list(address.sentinels), address.service, given(address)) == (sentinels, service, options)
    assert not address.uses_tls
    assert parse_redis_url(url.replace("redis+", "rediss+")).uses_tls


def test_sentinels_have_a_login_of_their_own() -> None:
    url = "redis+sentinel://me:mine@host/main?sentinel_username=you&sentinel_password=y%26urs"

    address = parse_redis_url(url)

    assert given(address) == {"username": "me", "password": "mine"}
    assert address.sentinel_login == {"username": "you", "password": "y&urs"}
    assert parse_redis_url("redis+sentinel://me:mine@host/main").sentinel_login == {}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "it is not a Redis URL"),
        ("host:6379", "it is not a Redis URL"),
        ("http://host/main", "it is not a Redis URL"),
        ("redis+sentinels://host/main", "it is not a Redis URL"),
        ("redis://host:port", "not a number from 1 to 65535"),
        ("redis://host:0", "not a number from 1 to 65535"),
        ("redis://host:65536", "not a number from 1 to 65535"),
        ("redis://:pa55word#@host", "it has a # in it"),
        ("redis://:pa55/word@host", "it has an @ in the wrong place"),
        ("redis://me:12/pa55word@host", "it has an @ in the wrong place"),
        ("redis://me:12?pa55word@host", "it has an @ in the wrong place"),
        ("redis://a,b/0", "several hosts, which only redis+sentinel:// may have"),
        ("redis://host/zero", "its database is not a number"),
        ("redis://host/1/2", "its database is not a number"),
        ("redis://host?db=zero", "the value of db makes no sense"),
        ("redis://host?db=-1", "its database is not a number"),
        ("redis://host?socket_timeout=0", "the value of socket_timeout makes no sense"),
        ("redis://host?socket_timeout=nan", "the value of socket_timeout makes no sense"),
        ("redis://host?protocol=4", "an option of its query does not suit it"),
        ("redis://host?pa55word", "what follows its ? is not like name=value"),
        ("redis://host?colour=pa55word", "its option 'colour' is not known here"),
        ("redis://host?decode_responses=true", "its option 'decode_responses' is not known here"),
        ("redis://host?retry_on_timeout=true", "leave out retry_on_timeout: a command that is sent again may be"),
        ("redis://host?sentinel_password=pa55word", "sentinel_password is for redis+sentinel:// alone"),
        ("redis://host?ssl_ca_certs=/ca.pem", "an option of its query does not suit it"),
        ("rediss://host?ssl_cert_reqs=pa55word", "an option of its query does not suit it"),
        ("unix://run", "it has no path"),
        ("unix:///run/redis.sock?socket_keepalive=true", "an option of its query does not suit it"),
        ("redis+sentinel://", "a host is missing"),
        ("redis+sentinel:///main", "a host is missing"),
        ("redis+sentinel://a,,b/main", "a host is missing"),
        ("redis+sentinel://a,:1/main", "a host is missing"),
        ("redis+sentinel://a,b:/main", "a host and its port make no sense"),
        ("redis+sentinel://a:port/main", "not a number from 1 to 65535"),
        ("redis+sentinel://a:0/main", "not a number from 1 to 65535"),
        ("redis+sentinel://a:65536/main", "not a number from 1 to 65535"),
        ("redis+sentinel://fe80::1/main", "a host and its port make no sense"),
        ("redis+sentinel://host", "it does not name the service"),
        ("redis+sentinel://host/", "it does not name the service"),
        ("redis+sentinel://host//0", "it does not name the service"),
        ("redis+sentinel://host/main/zero", "its database is not a number"),
        ("redis+sentinel://host/main/0/1", "its database is not a number"),
        ("redis+sentinel://:pa55/word@host/main", "it has an @ in the wrong place"),
        ("redis+sentinel://host/main?ssl_ca_certs=/ca.pem", "an option of its query does not suit it"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_in_a_line_that_says_why_and_what_would_be_right(
    url: str, said: str
) -> None:
    with pytest.raises(InvalidValueError) as refused:
        parse_redis_url(url)

    assert said in str(refused.value)
    assert "retry" in url or "; write it like redis://host:6379/0, rediss://" in str(refused.value)
    assert "pa55" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_settings_name_the_variable_and_not_its_value() -> None:
    with pytest.raises(
        SettingsError, match=r"^REDIS_URL: it does not name the service that .*; write it like"
    ) as refused:
        load_settings(REDIS_URL="redis+sentinel://:pa55word@host:26379")

    assert "pa55word" not in str(refused.value)
    url = "redis+sentinel://:pa55word@host:26379/main"
    assert load_settings(REDIS_URL=url).broker_url == url


def test_an_address_shows_no_password() -> None:
    assert "secret" not in repr(parse_redis_url("redis+sentinel://:secret@host/main?sentinel_password=secret"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1/0\n", "redis://host:1/0"),
        ("redis://:secret@host:1/0", "redis://***@host:1/0"),
        ("redis+sentinel://a:1,b:2/main/0", "redis+sentinel://a:1,b:2/main/0"),
        (
            "redis+sentinel://me:s@cret@a:1,b:2/main/0?sentinel_password=secret",
            "redis+sentinel://***@a:1,b:2/main/0",
        ),
        ("redis+sentinel://a:1/main?sentinel_password=s@cret", "redis+sentinel://***"),
        ("redis://host?password=s@cret", "redis://***"),
        ("redis://:s?cret@host", "redis://***"),
        ("redis://me:s?e=cret@host", "redis://***"),
        ("redis://:s#cret@host/0", "redis://***@host/0"),
        ("unix://me:secret@/run/redis.sock?db=1&password=secret", "unix://***@/run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_anything_that_may_be_a_password(url: str, shown: str) -> None:
    assert without_password(url) == shown

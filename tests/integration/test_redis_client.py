"""How Redis is addressed, on real servers: TCP, TLS, a Unix socket, sentinels; and whether it is safe for claims."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
import trustme

from services.errors import RedisUnavailableError
from services.redis_client import check_redis, connect, unsafe_for_claims, what_is_unsafe
from tests.certificates import tls_of
from tests.servers import RedisServer, Relay, redis_server_with, relay_to, sentinel_of
from tests.support import free_port, wait_for

#: More than a busy machine takes to answer.
TIMEOUT = 15.0
WRITE = "return redis.call('INCR', KEYS[1])"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server with a password, a user `me` and a Unix socket."""
    directory = tmp_path_factory.mktemp("redis")
    user = ["--user", "me", "on", ">theirs", "allcommands", "allkeys", "-info"]
    path = directory / "redis.sock"
    with redis_server_with(directory, "--unixsocket", str(path), *user, password="secret") as server:
        yield server


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that asks for no password."""
    with redis_server_with(tmp_path_factory.mktemp("open")) as server:
        yield server


@pytest.fixture
def client() -> Iterator[Callable[[str], redis.Redis]]:
    """Return a client of a URL, closed after the test."""
    clients: list[redis.Redis] = []

    def connected(url: str) -> redis.Redis:
        clients.append(connect(url, timeout=TIMEOUT))
        return clients[-1]

    yield connected
    for each in clients:
        each.close()


def refusal(url: str) -> str:
    """Return what is said of a Redis that cannot be used."""
    with pytest.raises(RedisUnavailableError) as refused:
        check_redis(url)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_password_or_a_user_of_the_url_lets_in(server: RedisServer, client: Callable[[str], redis.Redis]) -> None:
    check_redis(server.url)
    check_redis(f"redis://me:theirs@127.0.0.1:{server.port}")

    assert client(f"{server.url.removesuffix('/0')}/3").set("written", 1)
    assert client(f"redis://me:theirs@127.0.0.1:{server.port}/3").get("written") == b"1"
    assert client(server.url).get("written") is None


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("", "it asks for a password, and none was given"),
        (":pa55word@", "it refuses the user name or the password"),
        ("me:pa55word@", "it refuses the user name or the password"),
        ("pa55word:secret@", "it refuses the user name or the password"),
    ],
)
def test_a_login_that_is_wrong_is_said_and_not_shown(server: RedisServer, login: str, said: str) -> None:
    text = refusal(f"redis://{login}127.0.0.1:{server.port}/0")

    shown = f"redis://{'***@' if login else ''}127.0.0.1:{server.port}/0"
    assert text.startswith(f"cannot use Redis at {shown}: {said}")
    assert "pa55word" not in text


def test_a_database_that_is_not_there_is_said(server: RedisServer) -> None:
    assert refusal(f"{server.url}9999").endswith("DB index is out of range")


def test_a_url_that_makes_no_sense_is_said() -> None:
    assert refusal("http://:pa55word@host").startswith("cannot use Redis at http://***@host: it is not a Redis URL")


def test_a_unix_socket_is_a_redis_as_well(server: RedisServer, client: Callable[[str], redis.Redis]) -> None:
    path = quote(str(server.directory / "redis.sock"))

    check_redis(f"unix://:secret@{path}")
    assert client(f"unix://{path}?password=secret&db=4").set("written", 1)
    assert refusal(f"unix://{path}").endswith("it asks for a password, and none was given")


@pytest.mark.parametrize("kind", ["tcp", "sentinel"])
def test_a_command_whose_answer_is_lost_was_sent_once(
    kind: str, open_server: RedisServer, tmp_path: Path, client: Callable[[str], redis.Redis]
) -> None:
    direct = client(open_server.url)
    direct.delete("count", "others")
    with relay_to(open_server.port) as relay, sentinel_of(relay.port, tmp_path, service="main") as sentinel:
        through = client(
            f"redis://127.0.0.1:{relay.port}" if kind == "tcp" else f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        )
        script = through.register_script(WRITE)
        assert script(keys=["others"]) == 1
        for call in (lambda: through.incr("count"), lambda: script(keys=["count"])):
            relay.lose_answer_to(b"count")
            with pytest.raises(redis.ConnectionError):
                call()
        assert direct.get("count") == b"2"
        assert through.incr("count") == 3


def test_nobody_waits_longer_than_told_whatever_the_url_says(client: Callable[[str], redis.Redis]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        through = client(f"redis://127.0.0.1:{port}?socket_timeout=0.05&socket_connect_timeout=60")

        with pytest.raises(redis.TimeoutError):
            through.ping()
        assert through.get_connection_kwargs()["socket_timeout"] == 0.05
        assert through.get_connection_kwargs()["socket_connect_timeout"] == TIMEOUT


def test_sentinels_are_asked_for_the_master_and_each_has_its_own_login(
    server: RedisServer, tmp_path: Path, client: Callable[[str], redis.Redis]
) -> None:
    nobody = free_port()
    with sentinel_of(server.port, tmp_path, service="main", password="theirs", master_password="secret") as sentinel:

        def url(login: str = ":secret@", *, service: str = "main", query: str = "?sentinel_password=theirs") -> str:
            return f"redis+sentinel://{login}127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/{service}/5{query}"

        check_redis(url())
        through = client(url())
        assert through.set("written", 1)
        asked: list[redis.Redis] = through.connection_pool.sentinel_manager.sentinels  # type: ignore[attr-defined]
        assert [each.get_connection_kwargs()["port"] for each in asked] == [sentinel.port, nobody], (
            "the one that answers"
        )
        with redis.Redis.from_url(server.url, db=5) as direct:
            assert direct.dbsize() == 0, "the database of the URL wins"
        assert client(server.url.removesuffix("0") + "5").get("written") == b"1"

        shown = f"cannot use Redis at redis+sentinel://***@127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/main/5: "
        for refused, said in {
            url(query=""): "it asks for a password, and none was given (sentinel_username, sentinel_password)",
            url(query="?sentinel_password=pa55word"): "(sentinel_username, sentinel_password)",
            url(":pa55word@"): "it refuses the user name or the password",
        }.items():
            text = refusal(refused)
            assert text.startswith(shown)
            assert said in text
            assert "pa55word" not in text
        assert f"sentinel 127.0.0.1:{sentinel.port}: knows no such service" in refusal(url(service="other"))
        assert "Connection refused" in refusal(f"redis+sentinel://127.0.0.1:{nobody}/main")
        assert refusal(f"redis+sentinel://127.0.0.1:{sentinel.port}/main").startswith("cannot use Redis at redis+sent")


def test_a_redis_in_the_place_of_a_sentinel_is_said(open_server: RedisServer) -> None:
    assert refusal(f"redis+sentinel://127.0.0.1:{open_server.port}/main").endswith("it is no sentinel")


def test_after_a_failover_the_same_client_writes_to_the_new_master(
    tmp_path: Path, client: Callable[[str], redis.Redis]
) -> None:
    with (
        redis_server_with(tmp_path / "first", "--repl-diskless-sync-delay", "0") as first,
        redis_server_with(tmp_path / "second", "--replicaof", "127.0.0.1", str(first.port)) as second,
    ):
        replica = client(second.url)
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up", what="the replica's link")
        with sentinel_of(first.port, tmp_path / "sentinel", service="main", down_after=0.3) as sentinel:
            through = client(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
            script = through.register_script(WRITE)
            assert script(keys=["count"]) == 1
            wait_for(lambda: replica.get("count") == b"1", what="the replica's copy")
            known = client(f"redis://127.0.0.1:{sentinel.port}")
            wait_for(lambda: known.sentinel_slaves("main"), what="a sentinel that knows the replica")

            first.kill()

            def written() -> bool:
                try:
                    return bool(script(keys=["count"]) == 2)
                except redis.ConnectionError:
                    return False

            wait_for(written, seconds=60, what="a write to the new master")
            assert replica.get("count") == b"2"


@pytest.mark.parametrize("kind", ["tcp", "sentinel"])
def test_a_master_that_was_demoted_is_left_at_the_first_refusal(
    kind: str, tmp_path: Path, client: Callable[[str], redis.Redis]
) -> None:
    with (
        redis_server_with(tmp_path / "redis") as server,
        sentinel_of(server.port, tmp_path / "sentinel", service="main") as sentinel,
    ):
        sentinels = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        through = client(server.url if kind == "tcp" else sentinels)
        script = through.register_script(WRITE)
        for call in (lambda: script(keys=["count"]), lambda: through.incr("count")):
            call()
            (connection,) = through.connection_pool._available_connections  # noqa: SLF001 - its socket is the point
            server_side = client(server.url)
            server_side.replicaof("127.0.0.1", str(free_port()))

            with pytest.raises(redis.ConnectionError, match=r"is a replica now|is now a slave"):
                call()
            assert not connection.is_connected

            server_side.replicaof("NO", "ONE")
            assert call() in {2, 4}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def encrypted(open_server: RedisServer, authority: trustme.CA) -> Iterator[Relay]:
    """TLS before `open_server`, with a certificate for 127.0.0.1."""
    with relay_to(open_server.port, tls=tls_of(authority, "127.0.0.1")) as relay:
        yield relay


def test_a_certificate_of_a_known_authority_for_the_host_is_accepted(
    encrypted: Relay, authority_file: Path, client: Callable[[str], redis.Redis]
) -> None:
    url = f"rediss://127.0.0.1:{encrypted.port}/6?ssl_ca_certs={authority_file}"

    check_redis(url)
    assert client(url).set("written", 1)
    assert encrypted.encrypted == 2


def test_a_certificate_of_an_unknown_authority_is_refused(encrypted: Relay, tmp_path: Path) -> None:
    url = f"rediss://127.0.0.1:{encrypted.port}"

    assert "certificate verify failed: unable to get local issuer certificate" in refusal(url)
    missing = tmp_path / "ca.pem"
    assert refusal(f"{url}?ssl_ca_certs={missing}").endswith(
        f"there is no file {missing}, which its ssl_ca_certs names"
    )


def test_a_certificate_that_has_expired_is_refused(
    open_server: RedisServer, authority: trustme.CA, authority_file: Path
) -> None:
    with relay_to(open_server.port, tls=tls_of(authority, "127.0.0.1", is_expired=True)) as relay:
        url = f"rediss://127.0.0.1:{relay.port}?ssl_ca_certs={authority_file}"

        assert "certificate verify failed: certificate has expired" in refusal(url)
        assert relay.encrypted == 0


def test_a_certificate_for_another_host_is_refused_unless_the_url_says_that_it_does_not_matter(
    open_server: RedisServer, authority: trustme.CA, authority_file: Path
) -> None:
    with relay_to(open_server.port, tls=tls_of(authority, "redis.example")) as relay:
        url = f"rediss://127.0.0.1:{relay.port}?ssl_ca_certs={authority_file}"

        assert "certificate is not valid for '127.0.0.1'" in refusal(url)
        check_redis(f"{url}&ssl_check_hostname=false")


def test_sentinels_and_the_master_are_both_spoken_to_with_tls(
    encrypted: Relay,
    authority: trustme.CA,
    authority_file: Path,
    tmp_path: Path,
    client: Callable[[str], redis.Redis],
) -> None:
    with (
        sentinel_of(encrypted.port, tmp_path, service="main") as sentinel,
        relay_to(sentinel.port, tls=tls_of(authority, "127.0.0.1")) as before_sentinel,
    ):
        url = f"rediss+sentinel://127.0.0.1:{before_sentinel.port}/main/6"
        through = client(f"{url}?ssl_ca_certs={authority_file}")

        assert through.set("written", 1)
        assert (before_sentinel.encrypted, encrypted.encrypted) == (1, 1)
        assert "certificate verify failed" in refusal(url)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cluster-enabled", "yes"], "this Redis is a cluster, "),
        (["--maxmemory-policy", "allkeys-lru"], "this Redis may evict claims and messages "),
        (["--maxmemory-policy", "allkeys-random"], "(maxmemory-policy allkeys-random)"),
        (["--maxmemory-policy", "volatile-lru"], None),
        (["--maxmemory-policy", "noeviction"], None),
        (["--replicaof", "127.0.0.1", "1"], "this Redis is a replica, "),
    ],
)
def test_what_makes_a_redis_unsafe_for_claims_is_a_sentence_that_says_what_to_change(
    options: list[str], said: str | None, tmp_path: Path, client: Callable[[str], redis.Redis]
) -> None:
    with redis_server_with(tmp_path, *options) as server:
        warnings = unsafe_for_claims(client(server.url))

    assert len(warnings) == (said is not None)
    for warning in warnings:
        assert said is not None
        assert said in warning
        assert ": " in warning


def test_a_sentinel_in_the_place_of_a_redis_is_said(
    open_server: RedisServer, tmp_path: Path, client: Callable[[str], redis.Redis]
) -> None:
    with sentinel_of(open_server.port, tmp_path, service="main") as sentinel:
        (warning,) = unsafe_for_claims(client(f"redis://127.0.0.1:{sentinel.port}"))
    assert "is a sentinel and no Redis: write REDIS_URL like redis+sentinel://" in warning


def test_a_user_that_may_not_ask_is_told_so(server: RedisServer, client: Callable[[str], redis.Redis]) -> None:
    (warning,) = unsafe_for_claims(client(f"redis://me:theirs@127.0.0.1:{server.port}"))
    assert "let the user of REDIS_URL run INFO" in warning


@pytest.mark.parametrize(
    ("version", "is_safe"),
    [("4.0.14", False), ("5.0.0", True), ("6.2.14", True), ("10.0.1", True), ("255.255.255", True)],
)
def test_a_redis_whose_scripts_cannot_use_its_clock_is_too_old(version: str, is_safe: bool) -> None:  # noqa: FBT001
    warnings = what_is_unsafe({"redis_version": version})

    assert is_safe == (not warnings)
    assert all("use 5.0 or newer" in warning for warning in warnings)

"""The proxy of the chaos runs loses what it says it loses, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.proxy import Gate, Loss, Proxies, Proxy, Trap
from tests.chaos.resp import RequestReader
from tests.chaos.server import Server
from tests.support import wait_for

#: How long a client waits for an answer that never comes, and for one that may take a while on a busy machine.
IMPATIENT, PATIENT = 0.5, 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Redis of this test's own, on a TCP port."""
    server = Server(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxies() as proxies:
        yield proxies.open(server.port)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client behind the proxy that repeats nothing."""
    with redis.Redis(port=proxy.port, socket_timeout=PATIENT, retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def impatient(proxy: Proxy) -> Iterator[redis.Redis]:
    """One that soon gives up, for where there is no answer."""
    with redis.Redis(port=proxy.port, socket_timeout=IMPATIENT, retry=Retry(NoBackoff(), 0)) as client:
        yield client


def is_connected(client: redis.Redis) -> bool:
    """Return whether the client has a connection, so that what it says next is under way at once."""
    try:
        return bool(client.ping())
    except redis.TimeoutError:
        return False


@pytest.fixture
def direct(server: Server) -> Iterator[redis.Redis]:
    """A client that is not behind the proxy."""
    with redis.Redis(port=server.port) as client:
        yield client


def count(client: redis.Redis) -> int:
    """Count to the next number with a script, as the schedulers enqueue with scripts."""
    number: int = client.register_script("return redis.call('INCR', KEYS[1])")(keys=["count"])
    return number


def counted(direct: redis.Redis) -> int:
    return int(direct.get("count") or 0)


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        (Loss.REPLY_CLOSED, redis.ConnectionError),
        (Loss.REPLY_SILENT, redis.TimeoutError),
        (Loss.REQUEST_CLOSED, redis.ConnectionError),
        (Loss.REQUEST_SILENT, redis.TimeoutError),
    ],
)
def test_a_trap_loses_as_many_requests_as_it_should(
    *,
    loss: Loss,
    error: type[redis.RedisError],
    proxy: Proxy,
    client: redis.Redis,
    impatient: redis.Redis,
    direct: redis.Redis,
) -> None:
    assert count(client) == 1
    losing = impatient if error is redis.TimeoutError else client
    trap = Trap(matches=lambda request: request.is_script and request.mentions(b"count"), loss=loss, times=2)
    proxy.set_trap(trap)

    client.ping()  # matches nothing
    for _ in range(2):
        wait_for(lambda: is_connected(losing), what="a connection")
        with pytest.raises(error):
            count(losing)

    # Who has given up is no sign that the proxy has it by now.
    wait_for(lambda: len(trap.fired) >= 2, what="the second request")
    assert len(trap.fired) == 2
    carried_out = loss in {Loss.REPLY_CLOSED, Loss.REPLY_SILENT}
    wait_for(lambda: counted(direct) == (3 if carried_out else 1), what="what was carried out")
    assert count(client) == counted(direct) == (4 if carried_out else 2)


def test_cutting_closes_what_is_open_and_takes_new_connections(proxy: Proxy, client: redis.Redis) -> None:
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe("wake")
        assert listener.get_message(timeout=PATIENT) is not None

        proxy.cut()

        with pytest.raises(redis.ConnectionError):
            listener.connection.read_response()
    assert client.ping()


def test_a_refusing_gate_closes_every_connection(proxy: Proxy, client: redis.Redis) -> None:
    client.ping()
    proxy.set_gate(Gate.REFUSING)

    with pytest.raises(redis.ConnectionError):
        client.ping()

    proxy.set_gate(Gate.OPEN)
    assert client.ping()


def test_a_holding_gate_delivers_late_what_the_client_gave_up(
    proxy: Proxy, client: redis.Redis, impatient: redis.Redis, direct: redis.Redis
) -> None:
    assert count(client) == 1
    wait_for(lambda: is_connected(impatient), what="a connection")
    proxy.set_gate(Gate.HOLDING)

    with pytest.raises(redis.TimeoutError):
        count(impatient)
    assert counted(direct) == 1

    proxy.set_gate(Gate.OPEN)
    wait_for(lambda: counted(direct) == 2, what="the late delivery")
    assert count(client) == 3


def test_messages_to_a_channel_pass(client: redis.Redis, direct: redis.Redis) -> None:
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe("wake")
        assert listener.get_message(timeout=PATIENT) is not None
        direct.publish("wake", "up")
        message = listener.get_message(timeout=PATIENT)

    assert message is not None
    assert message["data"] == b"up"


def test_a_killed_redis_comes_back_with_all_its_data(server: Server, client: redis.Redis) -> None:
    numbers = [count(client) for _ in range(20)]
    server.kill()
    with pytest.raises(redis.ConnectionError):
        count(client)

    server.start()

    assert count(client) == len(numbers) + 1


def test_an_emptied_redis_comes_back_without_any(server: Server, client: redis.Redis) -> None:
    count(client)
    server.stop()
    server.empty()
    server.start()

    assert count(client) == 1


def test_requests_are_told_apart_wherever_the_stream_is_cut() -> None:
    stream = b"*1\r\n$4\r\nPING\r\n*3\r\n$7\r\nEVALSHA\r\n$2\r\n\r\n\r\n$0\r\n\r\n"
    for size in range(1, len(stream) + 1):
        reader = RequestReader()
        requests = [
            request for start in range(0, len(stream), size) for request in reader.feed(stream[start : start + size])
        ]
        assert [request.arguments for request in requests] == [(b"PING",), (b"EVALSHA", b"\r\n", b"")]
        assert b"".join(request.raw for request in requests) == stream
        assert [request.is_script for request in requests] == [False, True]

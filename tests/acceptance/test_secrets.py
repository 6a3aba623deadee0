"""Passwords stay where they are: nothing that a command writes, shows, stores or answers has one in it."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import make_url

from tests.acceptance.commands import answer, run, running
from tests.acl import SUFFIX, LockedRedis, locked_redis
from tests.plain_sql import rows_of
from tests.roles import Roles
from tests.support import free_port, wait_for

#: In each password here, and in none of the names.
SECRET = SUFFIX.removeprefix("'s-")
#: The same in a URL, with what has to be quoted there.
OF_DATABASE = f"p%40ss/{SECRET}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LockedRedis]:
    with locked_redis(tmp_path) as server:
        yield server


@pytest.fixture
def roles(empty_postgresql_url: str) -> Iterator[Roles]:
    roles = Roles(empty_postgresql_url)
    try:
        roles.install()
        yield roles
    finally:
        roles.drop()


def url_of(roles: Roles, role: str) -> str:
    """Return a URL with a password twice; the server of the tests asks for none."""
    url = make_url(roles.url_of(role)).set(password=f"p@ss/{SECRET}").update_query_dict({"sslpassword": SECRET})
    return url.render_as_string(hide_password=False)


def everything_in(client: redis.Redis) -> Iterator[bytes]:
    """Yield what Redis has, names and values."""
    readers: dict[bytes, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"list": lambda key: client.lrange(key, 0, -1),
    }
    for key in client.scan_iter():
        yield key
        kind: Any = client.type(key)
        if kind != b"none":  # it was there a moment ago
            yield repr(readers[kind](key)).encode()


@pytest.mark.slow
@pytest.mark.parametrize("style", ["json", "console"])
def test_all_works_with_the_rights_that_are_supplied_and_nothing_that_is_left_behind_has_a_password_in_it(
    style: str, server: LockedRedis, roles: Roles, tmp_path: Path
) -> None:
    worker_port, scheduler_port, left = str(free_port()), str(free_port()), tmp_path / "left"
    left.mkdir()
    variables = {
        "DATABASE_URL": url_of(roles, "app"),
        "REDIS_URL": server.url(),
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": style,
        "BACKGROUND_TASK_INTERVAL": "1",
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": scheduler_port,
        "dramatiq_prom_port": worker_port,
        "dramatiq_prom_db": str(left / "prometheus"),
        "ADJOURN_DATA_DIR": str(left),
    }
    looking = variables | {"DATABASE_URL": url_of(roles, "monitor"), "REDIS_URL": server.url("adjourn_monitor")}
    said: list[str] = []

    def adjourn(*arguments: str, given: dict[str, str] = variables) -> str:
        ran = run("adjourn", *arguments, directory=tmp_path, variables=given)
        said.append(ran.stdout + ran.stderr)
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.stdout

    migrated = adjourn("migrate", given=variables | {"DATABASE_URL": url_of(roles, "owner")})
    assert "is at revision" in migrated
    roles.install()
    conversation = (
        "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, session_key, status, "
        "created_at, updated_at, idle_at, expires_at) "
        "SELECT gen_random_uuid(), 'acme', 'sms', '+1', '+2', number, 'pending', "
        "now() - interval '1 hour', now() - interval '1 hour', now() - interval '1 minute', now() + interval '1 hour' "
        "FROM unnest(ARRAY['a', 'b']) AS number RETURNING conv_id"
    )
    rows_of(roles.url_of("app"), conversation)
    with (
        running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker,
        running("periodiq", "actors", directory=tmp_path, variables=variables) as scheduler,
        server.client("admin") as admin,
    ):
        wait_for(
            lambda: rows_of(roles.url, "SELECT count(*) FROM conversation_events WHERE ended") == [(2,)],
            seconds=120,
            what="the end of both",
        )
        admin.hset("dramatiq:sweeps.msgs", "garbage", "no message")
        admin.rpush("dramatiq:sweeps", "garbage")
        wait_for(lambda: admin.exists("dramatiq:sweeps.XQ"), seconds=60, what="a dead letter")
        wait_for(lambda: admin.exists("adjourn:backlog"), seconds=60, what="a measurement")
        for arguments in (
            ("status",),
            ("status", "--json"),
            ("health",),
            ("health", "--json"),
            ("dead-letters", "list"),
            ("dead-letters", "show", "garbage", "--json"),
        ):
            adjourn(*arguments, given=looking)
        state = json.loads(adjourn("status", "--json", given=looking))
        assert (state["redis"]["state"], state["database"]["state"]) == ("answers", "answers")
        adjourn("pause", "idle")
        adjourn("resume", "idle")
        adjourn("trigger", "idle")
        adjourn("run", "--once")
        adjourn("dead-letters", "drop", "--all", "--yes")
        for port in (worker_port, scheduler_port):
            said += [json.dumps(answer(port, path)) for path in ("/healthz", "/readyz")]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as metrics:
                said.append(metrics.read().decode())
        said += [part.decode() for part in everything_in(admin)]
        said += [path.read_bytes().decode(errors="replace") for path in left.rglob("*") if path.is_file()]
        said += [line for (line,) in rows_of(roles.url, "SELECT query FROM pg_stat_activity WHERE query IS NOT NULL")]
    said += [worker.output, scheduler.output]

    assert server.refusals() == []
    assert "permission denied" not in "".join(said)
    assert "DEBUG" in worker.output.upper()
    assert [part for part in said if SECRET in part] == []


@pytest.mark.parametrize(
    "arguments", [pytest.param(["status", "--json"], marks=pytest.mark.slow, id="status"), ["migrate"]]
)
def test_a_refusal_of_the_password_does_not_show_it(arguments: list[str], server: LockedRedis, tmp_path: Path) -> None:
    variables = {
        "REDIS_URL": server.url().replace("adjourn:", "adjourn:no-"),
        "DATABASE_URL": f"postgresql://u:{OF_DATABASE}@127.0.0.1:{server.port}/x?sslmode=disable&sslpassword={SECRET}",
        "LOG_LEVEL": "DEBUG",
    }
    ended = run("adjourn", *arguments, directory=tmp_path, variables=variables)

    assert ended.returncode == 1
    said = ended.stdout + ended.stderr
    assert "cannot use" in said
    assert SECRET not in said
    assert "Traceback" not in said

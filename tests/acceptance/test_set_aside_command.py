"""``adjourn set-aside``, and what else a person sees of a conversation whose end the database refuses."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from sqlalchemy import Engine

from services.database import create_database_engine
from tests.acceptance.commands import run
from tests.support import opened

Adjourn = Callable[..., CompletedProcess[str]]


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """Commands take a second each, and what they ask is tried on both databases elsewhere."""
    engine = create_database_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def adjourn(engine: Engine, tmp_path: Path) -> Adjourn:
    """Runs ``adjourn`` on the database of ``engine``; there is no Redis."""
    url = engine.url.render_as_string(hide_password=False)
    variables = {"DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    return lambda *arguments: run("adjourn", *arguments, directory=tmp_path, variables=variables)


@pytest.fixture
def stuck(engine: Engine) -> uuid.UUID:
    """One of three conversations that are due: a trigger of the platform's refuses its end."""
    long_ago = datetime.now(UTC) - timedelta(days=2)
    conv_id, *_ = [opened(engine, number=number, now=long_ago).conv_id for number in range(3)]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER billing BEFORE UPDATE ON conversations WHEN OLD.conv_id = '{conv_id}' "
            "BEGIN SELECT RAISE(ABORT, 'not billed yet'); END"
        )
    return conv_id


def test_a_person_sees_what_is_set_aside_and_why_and_has_it_tried_again_once_it_is_mended(
    engine: Engine, adjourn: Adjourn, stuck: uuid.UUID
) -> None:
    cycle = adjourn("run", "--once")
    assert (cycle.returncode, "ended 2 in" in cycle.stdout) == (0, True)
    assert "1 set aside, see adjourn set-aside list" in cycle.stdout

    listed = adjourn("set-aside", "list")
    first, second = listed.stdout.splitlines()
    assert first.startswith(f"{stuck}  set aside at ")
    assert "1 failed attempt, next at " in first
    assert second == "    not billed yet"

    told = json.loads(adjourn("set-aside", "list", "--json").stdout)
    assert told["total"] == 1
    assert told["conversations"][0] | {"set_aside_at": "", "tried_at": "", "retry_at": ""} == {
        "conv_id": str(stuck),
        "reason": "not billed yet",
        "tries": 1,
        "set_aside_at": "",
        "tried_at": "",
        "retry_at": "",
    }

    status = json.loads(adjourn("status", "--json").stdout)
    assert status["backlog"]["set_aside"] == 1
    assert [task["due"] for task in status["tasks"]] == [0, 0]
    (problem,) = [one for one in status["problems"] if one["kind"] == "set_aside"]
    assert problem["text"] == (
        "conversations are due and cannot be ended, because the database refuses it: 1; "
        "to see why: adjourn set-aside list"
    )

    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER billing")
    retried = adjourn("set-aside", "retry", str(stuck))
    assert (retried.returncode, retried.stdout) == (0, f"{stuck}: the next sweep tries it\n")
    assert "ended 1 in" in adjourn("run", "--once").stdout
    assert adjourn("set-aside", "list").stdout == "no conversation is set aside\n"


def test_what_is_not_set_aside_or_no_id_is_said(adjourn: Adjourn) -> None:
    unknown = str(uuid.uuid4())

    assert adjourn("set-aside", "retry", "--all").stdout == "no conversation is set aside\n"
    retried = adjourn("set-aside", "retry", unknown)
    assert (retried.returncode, retried.stdout) == (1, f"{unknown}: not set aside\n")
    refused = adjourn("set-aside", "retry", "seven")
    assert refused.returncode == 1
    assert refused.stderr == "adjourn: ID: 'seven' is not a UUID; give one, such as the conv_id of a conversation\n"
    assert adjourn("set-aside", "retry").returncode == 2

"""What docs/how_to_use.md shows runs as it is written."""

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import Engine

from services import foreign_writers
from services.conversations import close_conversation
from services.database import create_database_engine, open_session
from services.settings import load_settings
from tests.acceptance.commands import BIN, PROJECT, answer, environment, run, running
from tests.plain_sql import connect, rows_of
from tests.support import NOON, all_conversations, all_events, free_port, open_conversation, opened, wait_for

PAGE = (PROJECT / "docs" / "how_to_use.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
MESSAGE = {"owner_id": "acme", "channel": "sms", "from_number": "+33600000001", "to_number": "+33123456789"}


def python_file(name: str) -> str:
    """Return the example that is called so in its first line."""
    [found] = [code for language, code in BLOCKS if language == "python" and code.startswith(f"# {name}:")]
    return str(found)


def sql(title: str) -> list[str]:
    """Return the statements of the SQL below a comment that begins so; each may have another such comment."""
    blocks = "\n".join(code for language, code in BLOCKS if language == "sql")
    parts = re.split(r"^-- ", blocks, flags=re.MULTILINE)
    [found] = [part.partition("\n")[2] for part in parts if part.startswith(title)]
    return [statement.strip() for statement in found.split(";") if statement.strip()]


def module(name: str, directory: Path) -> ModuleType:
    """Import an example."""
    path = directory / name
    path.write_text(python_file(name))
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def in_example(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the examples use the database of this test."""
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.mark.usefixtures("in_example")
def test_the_first_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module("inbox.py", tmp_path).engine.dispose()

    said = capsys.readouterr().out
    assert re.fullmatch(r"progress until .*\n1 active\nclosed \['progress', 'closed'\]\n", said), said


@pytest.mark.usefixtures("in_example")
def test_the_fastapi_application_serves(engine: Engine, tmp_path: Path) -> None:
    example = module("fastapi_app.py", tmp_path)

    async def post(path: str, body: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(example.app), base_url="http://test") as client:
            return await client.post(path, json=body)

    try:
        serves(lambda path, body: asyncio.run(post(path, body)), engine)
    finally:
        example.get_engine().dispose()


@pytest.mark.usefixtures("in_example")
def test_the_flask_application_serves(engine: Engine, tmp_path: Path) -> None:
    example = module("flask_app.py", tmp_path)
    client = example.app.test_client()
    try:
        serves(lambda path, body: client.post(path, json=body), engine)
    finally:
        example.get_engine().dispose()


def serves(post: Any, engine: Engine) -> None:
    """Have a conversation with an application."""

    def told(path: str, body: Any = None, *, code: int = 200) -> dict[str, Any]:
        answer = post(path, body)
        assert answer.status_code == code
        answered: dict[str, Any] = answer.json() if callable(answer.json) else answer.json
        return answered

    first = told("/messages", MESSAGE)
    again = told("/messages", MESSAGE)
    conversation = f"/conversations/{first['conv_id']}"
    assert (first["opened"], again) == (True, {"conv_id": first["conv_id"], "opened": False})
    assert told(f"{conversation}/messages") == again
    assert told(f"{conversation}/close") == {"status": "closed"}
    assert told(f"{conversation}/messages")["opened"]
    assert [one.status for one in all_conversations(engine)] == ["closed", "pending"]

    unknown = "/conversations/00000000-0000-4000-8000-000000000000"
    assert "no conversation with id" in told(f"{unknown}/messages", code=404)["detail"]
    assert "owner_id" in told("/messages", {**MESSAGE, "owner_id": ""}, code=422)["detail"]


def test_goodbyes_are_said_once_each_whoever_is_restarted(postgresql_url: str, tmp_path: Path) -> None:
    engine = create_database_engine(postgresql_url)
    (tmp_path / "goodbyes.py").write_text(python_file("goodbyes.py"))
    variables = {"DATABASE_URL": postgresql_url}

    def closed(number: int) -> None:
        with open_session(engine) as session:
            conversation = open_conversation(session, number=number).conversation
            close_conversation(session, conv_id=conversation.conv_id, now=NOON)
            session.commit()

    closed(1)
    with running("python", "goodbyes.py", directory=tmp_path, variables=variables) as first:
        first.wait_for_output("closed by close")
        closed(2)
        first.wait_for_output("closed by close", times=2)
        # Whoever dies between the goodbye and the commit says it again, as the page has it: not before that.
        last = max(event.event_id or 0 for event in all_events(engine))
        wait_for(
            lambda: rows_of(postgresql_url, "SELECT position FROM ending_positions") == [(last,)],
            what="the position to be written",
        )
    closed(3)
    with running("python", "goodbyes.py", directory=tmp_path, variables=variables) as second:
        second.wait_for_output("closed by close")
        assert re.findall(r"goodbye (\S+),", first.output + second.output) == [
            f"+3360000000{number}" for number in (1, 2, 3)
        ]
    engine.dispose()


def test_the_same_in_sql_sees_who_is_writing(postgresql_url: str) -> None:
    last, writing = sql("endings 1")
    [following] = sql("endings 2")
    engine = create_database_engine(postgresql_url)
    with connect(postgresql_url) as reader, open_session(engine) as session:
        close_conversation(session, conv_id=opened(engine).conv_id, now=NOON)

        assert len(ask(reader, writing)) == 1
        session.commit()
        assert ask(reader, writing) == []
        [(bound,)] = ask(reader, last)
        [event] = ask(reader, following, position=0, bound=bound)
        assert event[2:4] == ("closed", "close")
        assert ask(reader, following, position=bound, bound=bound) == []
    engine.dispose()


def ask(connection: psycopg.Connection[Any], statement: str, **given: Any) -> list[Any]:
    """Return the rows of a statement that names its parameters as ``:name``."""
    for_psycopg = re.sub(r"(?<!:):(\w+)", r"%(\1)s", statement).encode()
    cursor = connection.execute(for_psycopg, given or None)
    return cursor.fetchall() if cursor.description else []


@pytest.fixture
def plain(postgresql_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A program that knows of PostgreSQL only."""
    with connect(postgresql_url) as connection:
        yield connection


def test_another_language_writes_with_the_triggers(
    plain: psycopg.Connection[Any], postgresql_url: str, tmp_path: Path
) -> None:
    [message], [activity], [close] = (
        sql(f"with triggers: {what}") for what in ("a message of a pair", "a message of a conversation", "close it")
    )
    migrated = run(*sh_lines("migrate")[0].split(), directory=tmp_path, variables={"DATABASE_URL": postgresql_url})
    assert migrated.returncode == 0, migrated.stderr
    engine = create_database_engine(postgresql_url)
    with engine.connect() as connection:
        assert foreign_writers.is_installed(connection)

    [(conv_id, status, first_idle_at)] = ask(plain, message)
    assert status == "pending"
    [(same, status, idle_at)] = ask(plain, message)
    assert (same, status) == (conv_id, "progress")
    assert idle_at > first_idle_at
    [(later,)] = ask(plain, activity, conv_id=conv_id)
    assert later > idle_at
    ask(plain, close, conv_id=conv_id)
    assert ask(plain, activity, conv_id=conv_id) == []

    assert [(one.status, one.cause) for one in all_events(engine)] == [("progress", "writer"), ("closed", "writer")]
    assert ask(plain, message)[0][0] != conv_id
    engine.dispose()


def test_another_language_writes_without_the_triggers(plain: psycopg.Connection[Any]) -> None:
    [message] = sql("without triggers: a message of a pair")

    [(conv_id, status, idle_at)] = ask(plain, message)
    assert status == "pending"
    [(same, status, later)] = ask(plain, message)
    assert (same, status) == (conv_id, "progress")
    assert later > idle_at
    plain.execute("UPDATE conversations SET idle_at = now()")
    assert ask(plain, message) == []


def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    (tmp_path / "test_conversations.py").write_text(python_file("test_conversations.py"))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_conversations.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "1 passed" in done.stdout, done.stdout


def sh_lines(part: str = "") -> list[str]:
    """Return the commands of the page that have ``part`` in them, each once."""
    lines = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]
    return list(dict.fromkeys(line for line in lines if part in line))


def test_every_command_for_the_operator_runs_and_says_what_the_page_says(
    postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    variables = {
        "DATABASE_URL": postgresql_url,
        "REDIS_URL": redis_url,
        "BACKGROUND_TASK_INTERVAL": "1",
        "dramatiq_prom_port": str(free_port()),
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": str(free_port()),
    }

    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"

    def said(line: str) -> str:
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=environment(variables) | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Usage:" not in done.stderr
        assert "not found" not in done.stderr
        return done.stdout

    def start(command: str, port: str) -> None:
        processes.enter_context(running(*command.split(), directory=tmp_path, variables=variables))
        wait_for(lambda: answer(port, "/readyz")[0] == 200, what=f"{command} ready")

    with ExitStack() as processes:
        without_scheduler = "no scheduler leads: none was ever heard of; start one with: periodiq actors"
        assert without_scheduler in said("adjourn status")
        start("periodiq actors", variables["BACKGROUND_TASK_SCHEDULER_METRICS_PORT"])
        without_worker = "no worker is there, so nothing is ended; start one with: dramatiq actors"
        assert without_worker in said("adjourn status")
        assert all(f"\n! {problem}\n" in PAGE for problem in (without_scheduler, without_worker))
        start("dramatiq actors", variables["dramatiq_prom_port"])

        outputs = {line: said(line) for line in sh_lines() if shutil.which(line.split()[0], path=path)}
        assert all(outputs.values()), outputs  # ps may be missing
        assert outputs["adjourn status"].startswith("conversations end on time")
        assert outputs["adjourn health"].count(": healthy\n") == 2


@pytest.mark.parametrize(
    ("title", "ending"),
    [
        ("who holds rows", "ORDER BY xact_start"),
        ("one conversation", "LIMIT 5"),
        ("what ended in", "status, cause"),
        ("customers with several", "count(*) > 1"),
        ("what happened to one", "ORDER BY event_id"),
    ],
)
def test_every_query_for_the_operator_runs(plain: psycopg.Connection[Any], title: str, ending: str) -> None:
    [query] = sql(title)

    assert query.endswith(ending)
    assert ask(plain, query, conv_id="00000000-0000-4000-8000-000000000000") == []


def test_every_setting_that_the_page_names_exists() -> None:
    known = {str(field.alias) for field in type(load_settings()).model_fields.values()}
    named = set(re.findall(r"\b(?:BACKGROUND_TASK|DATABASE|REDIS|LOG|ADJOURN)_[A-Z_]+\b", PAGE))

    assert named
    assert named <= known


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    for page in (PROJECT / "docs").glob("*.md"):
        for target, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", page.read_text()):
            aim = page if not target else (page.parent / target).resolve()
            headings = re.findall(r"^#+ (.*)$", aim.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"

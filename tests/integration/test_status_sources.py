"""A look at the cluster asks Redis and the database at once, needs neither, and waits for neither for long."""

import re
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from services.cluster.backlog_record import BacklogRecord
from services.database import create_database_engine
from services.embedded.redis_server import PrivateRedis
from services.errors import DatabaseUnavailableError, RedisUnavailableError
from services.operations.inquiry import Inquiry, NoAnswerError
from services.operations.lookout import Lookout
from services.operations.overview import Clock, Overview, SourceState
from services.operations.problem import ProblemKind
from services.operations.sources import DatabaseSource, RedisSource
from services.settings import Settings, load_settings
from services.tasks import Task
from tests.servers import redis_server_with
from tests.statuses import BACKLOG, kinds
from tests.support import free_port, insert_row, wait_for

OTHERS = "datname = current_database() AND pid != pg_backend_pid()"


def settings_for(directory: Path, *, database: str | None = None, redis: str | None = None) -> Settings:
    return load_settings(
        ADJOURN_DATA_DIR=str(directory / "data"),
        DATABASE_URL=database,
        REDIS_URL=redis or f"redis://:pa55word@127.0.0.1:{free_port()}/0",
    )


def look(settings: Settings) -> Overview:
    with Lookout(settings) as lookout:
        return lookout.look()


def test_the_database_tells_what_is_due_now_whatever_was_measured_before(
    engine: Engine, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    for _ in range(3):
        insert_row(engine, idle_at="2020-01-01 00:00:00.000000")
    with redis.Redis.from_url(redis_url) as client:
        BacklogRecord(client).write(BACKLOG)

    overview = look(settings_for(tmp_path, database=database_url, redis=redis_url))

    assert overview.is_complete
    assert overview.is_backlog_current
    assert overview.clock is Clock.REDIS
    assert (overview.due(Task.IDLE).due, overview.backlog_age) == (3, None)
    assert ProblemKind.OVERDUE_CONVERSATIONS in kinds(overview)


def test_what_was_measured_counts_while_the_database_is_down(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        BacklogRecord(client).write(BACKLOG)
    url = f"postgresql://adjourn:pa55word@127.0.0.1:{free_port()}/adjourn"

    overview = look(settings_for(tmp_path, database=url, redis=redis_url))

    assert overview.database.state is SourceState.DOWN
    assert (overview.backlog, overview.is_backlog_current) == (BACKLOG, False)
    assert overview.backlog_age == max(overview.now - BACKLOG.measured_at, timedelta(0))
    assert "Connection refused" in (overview.database.error or "")
    assert "pa55word" not in repr(overview)


def test_the_database_tells_what_is_due_while_redis_is_down(sqlite_url: str, tmp_path: Path) -> None:
    overview = look(settings_for(tmp_path, database=sqlite_url))

    assert (overview.status, overview.redis.state, overview.clock) == (None, SourceState.DOWN, Clock.DATABASE)
    assert overview.backlog is not None
    assert overview.now == overview.backlog.measured_at
    assert kinds(overview) == [ProblemKind.REDIS_DOWN]
    assert "pa55word" not in repr(overview)


def test_an_embedded_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    overview = look(settings_for(tmp_path))

    assert overview.database.state is SourceState.ABSENT
    assert (overview.backlog, overview.clock) == (None, Clock.MACHINE)
    assert not (tmp_path / "data").exists()


def test_a_database_file_that_is_named_and_not_there_is_not_made_either(tmp_path: Path) -> None:
    source = DatabaseSource(settings_for(tmp_path, database=f"sqlite:///{tmp_path}/none.db"))

    with pytest.raises(DatabaseUnavailableError, match=r"there is no database at .*none\.db; adjourn migrate makes it"):
        source.ask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_without_tables_says_what_to_run(kind: str, request: Any, tmp_path: Path) -> None:
    if kind == "sqlite":
        (tmp_path / "empty.db").touch()
        url = f"sqlite:///{tmp_path}/empty.db"
    else:
        url = request.getfixturevalue("empty_postgresql_url")

    overview = look(settings_for(tmp_path, database=url))

    assert overview.database.state is SourceState.DOWN
    assert (overview.database.error or "").endswith("has no Adjourn tables; run: adjourn migrate")


def test_a_file_that_is_no_database_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to be taken for the header of one")

    error = look(settings_for(tmp_path, database=f"sqlite:///{tmp_path}/text.db")).database.error

    assert error is not None
    assert error.endswith("text.db: file is not a database")


def test_connections_are_kept_from_look_to_look(postgresql_url: str, redis_url: str, tmp_path: Path) -> None:
    engine = create_database_engine(postgresql_url)
    settings = settings_for(tmp_path, database=postgresql_url, redis=redis_url)
    with redis.Redis.from_url(redis_url) as client, engine.connect() as connection, Lookout(settings) as lookout:
        lookout.look()
        accepted = client.info()["total_connections_received"]
        servers = text(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
        (server,) = connection.scalars(servers).all()
        lookout.look()

        assert client.info()["total_connections_received"] == accepted
        assert connection.scalars(servers).all() == [server]
    engine.dispose()


def test_both_are_asked_again_when_they_come_back(postgresql_url: str, tmp_path: Path) -> None:
    engine = create_database_engine(postgresql_url)
    with (
        redis_server_with(tmp_path) as server,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        Lookout(settings_for(tmp_path, database=postgresql_url, redis=server.url)) as lookout,
    ):
        assert lookout.look().is_complete
        server.kill()
        # As when the database is restarted: the connection that was kept is of no more use.
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}"))
        # It ends a moment later, which must not be in the middle of the next look.
        left = text(f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS}")
        wait_for(lambda: connection.scalar(left) == 0, what="the end of the connection that was kept")
        without = lookout.look()
        assert (without.redis.state, without.database.state) == (SourceState.DOWN, SourceState.ANSWERS)
        server.start()
        assert lookout.look().is_complete
    engine.dispose()


def test_a_redis_that_fails_later_on_says_why_in_the_words_of_a_first_failure(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        source = RedisSource(settings_for(tmp_path, redis=server.url))
        source.ask()
        client.config_set("requirepass", "pa55word")
        client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(RedisUnavailableError):
            source.ask()

        with pytest.raises(RedisUnavailableError, match="it asks for a password, and none was given"):
            source.ask()


def test_a_private_redis_is_found_again_when_its_run_was_started_anew(tmp_path: Path) -> None:
    source = RedisSource(load_settings(ADJOURN_DATA_DIR=str(tmp_path), REDIS_URL=None))
    server = PrivateRedis(tmp_path / "redis").start()
    try:
        assert source.ask().leader is None
        server.stop()
        with suppress(RedisUnavailableError):  # this machine may have one where nobody says
            source.ask()
        assert source.shown_url == "redis://127.0.0.1:6379/0"
        server.start()

        assert source.ask().leader is None
        assert source.shown_url == server.url
    finally:
        server.stop()
        source.close()


def test_a_database_that_takes_connections_and_says_nothing_holds_up_nobody(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DatabaseSource, "limit", 3)
    asked: list[None] = []
    ask = DatabaseSource.ask

    def counted(source: DatabaseSource) -> Any:
        asked.append(None)
        return ask(source)

    monkeypatch.setattr(DatabaseSource, "ask", counted)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://adjourn:pa55word@127.0.0.1:{silent.getsockname()[1]}/adjourn"
        with Lookout(settings_for(tmp_path, database=url, redis=redis_url)) as lookout:
            began = time.monotonic()
            first = lookout.look()
            assert time.monotonic() - began >= 3
            began = time.monotonic()
            second = lookout.look()

            # It was waited for once, and it is asked once.
            assert time.monotonic() - began < 3
            assert len(asked) == 1
            for overview in (first, second):
                assert overview.redis.state is SourceState.ANSWERS
                assert re.search(r"adjourn: it has not answered for \d+ s$", overview.database.error or "")


# A question


def test_an_answer_that_comes_too_late_is_not_asked_for_twice() -> None:
    may_answer, answers, asked = threading.Event(), threading.Semaphore(0), []

    def ask() -> int:
        asked.append(1)
        may_answer.wait(60)
        return len(asked)

    inquiry = Inquiry(ask, limit=2, on_answer=answers.release)
    assert (inquiry.is_open, inquiry.patience) == (False, 0)
    inquiry.begin()
    assert 0 < inquiry.patience <= 2
    inquiry.wait()
    assert (inquiry.is_open, inquiry.patience) == (True, 0)
    with pytest.raises(NoAnswerError, match=r"it has not answered for \d+ s"):
        inquiry.answer()
    inquiry.begin()
    may_answer.set()

    assert answers.acquire(timeout=30)
    assert (inquiry.answer(), inquiry.is_open) == (1, False)
    inquiry.begin()
    inquiry.wait()
    assert inquiry.answer() == 2


def test_whatever_goes_wrong_in_asking_is_raised_to_who_wants_the_answer() -> None:
    def ask() -> int:
        raise LookupError("a bug")

    inquiry = Inquiry(ask, limit=30, on_answer=lambda: None)
    inquiry.begin()
    inquiry.wait()

    with pytest.raises(LookupError, match="a bug"):
        inquiry.answer()

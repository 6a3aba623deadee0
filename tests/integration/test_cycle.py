"""A run of a task: by the database's clock, with a line in the log when something changed."""

import io
import itertools
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from services.cycle import run_task
from services.logs import configure_logging
from services.redis_client import connect
from services.scheduling.crew import Crew
from services.scheduling.keys import crew_key
from services.scheduling.shift import Shift
from services.settings import load_settings
from services.tasks import Task
from tests.support import all_events, opened

pytestmark = pytest.mark.usefixtures("untouched_logging")


def test_a_run_that_ended_something_is_one_line_at_info_and_one_that_did_not_is_none(engine: Engine) -> None:
    written = io.StringIO()
    configure_logging(style="json", stream=written)
    opened(engine, now=datetime.now(UTC) - timedelta(hours=1))

    first = run_task(Task.IDLE, engine, load_settings())
    run_task(Task.IDLE, engine, load_settings())

    [line] = [json.loads(line) for line in written.getvalue().splitlines()]
    [event] = all_events(engine)
    assert (line["message"], line["level"], line["task"]) == ("swept", "info", "idle_conversations")
    assert (line["count"], line["batches"], line["drained"]) == (1, 1, True)
    assert line["sweep_id"] == str(first.sweep_id) == str(event.sweep_id)
    assert line["duration"] >= 0


def test_a_run_goes_by_the_clock_of_the_database(engine: Engine) -> None:
    opened(engine, now=datetime.now(UTC) - timedelta(minutes=29, seconds=30))

    assert run_task(Task.IDLE, engine, load_settings()).count == 0


def backlog(engine: Engine, count: int, *, first: int = 1) -> None:
    """Open conversations that have just fallen due. SQLite's clock, which judges that, tells milliseconds only."""
    for number in range(first, first + count):
        opened(engine, now=datetime.now(UTC) - timedelta(minutes=30, seconds=1), number=number)


def test_a_run_that_met_a_backlog_ends_what_fell_due_meanwhile_too(engine: Engine, redis_url: str) -> None:
    written = io.StringIO()
    configure_logging(style="json", stream=written)
    backlog(engine, 4)
    asked: list[None] = []

    def is_stopping() -> bool:
        if not asked:
            backlog(engine, 1, first=5)
        asked.append(None)
        return False

    with connect(redis_url, timeout=5) as client:
        shift = Shift(Crew(client, "task", limit=1), call_in=lambda _: None, is_stopping=is_stopping)
        sweep = run_task(Task.IDLE, engine, load_settings(BACKGROUND_TASK_BATCH_SIZE="2"), shift=shift)

    assert (sweep.count, sweep.batches, sweep.drained) == (5, 3, True)
    assert {event.sweep_id for event in all_events(engine)} == {shift.sweep_id} == {sweep.sweep_id}
    [line] = [json.loads(line) for line in written.getvalue().splitlines()]
    assert (line["count"], line["batches"], line["drained"]) == (5, 3, True)
    assert not {"called", "called_in", "left_to_others"} & line.keys()


def test_a_run_whose_process_is_told_to_end_begins_no_further_sweep(engine: Engine, redis_url: str) -> None:
    backlog(engine, 3)
    # After the first batch it goes on; it is told during the last, which is not full.
    answers = itertools.chain([False], itertools.repeat(True))

    with connect(redis_url, timeout=5) as client:
        shift = Shift(Crew(client, "task", limit=1), call_in=lambda _: None, is_stopping=lambda: next(answers))
        sweep = run_task(Task.IDLE, engine, load_settings(BACKGROUND_TASK_BATCH_SIZE="2"), shift=shift)

    # Nobody has looked whether something fell due meanwhile.
    assert (sweep.count, sweep.batches, sweep.drained) == (3, 2, False)


def test_the_time_budget_is_for_all_sweeps_of_a_run(engine: Engine) -> None:
    # As many seconds pass as the budget has, by when what was due at first is ended.
    ticking = itertools.count(0, 6)
    backlog(engine, 2)
    settings = load_settings(BACKGROUND_TASK_BATCH_SIZE="2", BACKGROUND_TASK_TIME_BUDGET="30s")

    sweep = run_task(Task.IDLE, engine, settings, stopwatch=lambda: float(next(ticking)))

    assert (sweep.count, sweep.drained) == (2, False)
    assert sweep.duration >= 30


def test_the_log_says_who_was_called_in_and_who_left_the_rest_to_others(
    engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine nobody loses its place meanwhile.
    monkeypatch.setattr("services.scheduling.crew.SILENCE", timedelta(minutes=1))
    written = io.StringIO()
    configure_logging(style="json", stream=written)
    backlog(engine, 6)
    settings = load_settings(BACKGROUND_TASK_BATCH_SIZE="2")
    called: list[str] = []
    with connect(redis_url, timeout=5) as client:
        crew = Crew(client, "task", limit=2)
        first = Shift(crew, call_in=called.extend)
        first.proceed()
        second = Shift(crew, sweep_id=uuid.UUID(called[0]))
        second.proceed()
        run_task(Task.IDLE, engine, settings, shift=Shift(crew, call_in=called.extend))
        run_task(Task.IDLE, engine, settings, shift=second)
        backlog(engine, 2, first=7)
        run_task(Task.IDLE, engine, settings, shift=first)

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    said = [{name: line.get(name) for name in ("count", "called", "called_in", "left_to_others")} for line in lines]
    assert said == [
        {"count": 2, "called": None, "called_in": None, "left_to_others": True},
        {"count": 4, "called": None, "called_in": True, "left_to_others": None},
        {"count": 2, "called": 1, "called_in": None, "left_to_others": None},
    ]


def test_a_run_that_fails_gives_up_its_place(engine: Engine, redis_url: str) -> None:
    def is_stopping() -> bool:
        raise ConnectionError("the database is gone")

    backlog(engine, 2)
    with connect(redis_url, timeout=5) as client:
        crew = Crew(client, "task", limit=2)
        shift = Shift(crew, sweep_id=uuid.uuid4(), is_stopping=is_stopping)
        crew.join_or_stay(str(shift.sweep_id))
        with pytest.raises(ConnectionError):
            run_task(Task.IDLE, engine, load_settings(BACKGROUND_TASK_BATCH_SIZE="2"), shift=shift)

        assert client.exists(crew_key("task")) == 0

"""A run of a task: by the database's clock, with a line in the log when something changed."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from services.cycle import run_task
from services.logs import configure_logging
from services.settings import load_settings
from services.sweeps import Task
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

import io
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege
from redis import RedisError
from sqlalchemy.exc import OperationalError, ProgrammingError

from services.errors import AdjournError, first_line
from services.logs import configure_logging, get_logger

pytestmark = pytest.mark.usefixtures("untouched_logging")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raise_and_log(logger: Any) -> None:
    try:
        int("first line\nsecond line")
    except ValueError:
        logger.exception("it failed")


def test_a_line_of_ours_is_one_json_object(stream: io.StringIO) -> None:
    configure_logging(style="json", stream=stream)

    get_logger("services.cycle").info("swept", count=3, task="idle_conversations")

    (line,) = written(stream)
    assert {name: line[name] for name in ("message", "count", "task", "level", "logger")} == {
        "message": "swept",
        "count": 3,
        "task": "idle_conversations",
        "level": "info",
        "logger": "services.cycle",
    }
    assert line["timestamp"].endswith("Z")
    assert isinstance(line["process"], int)


def test_a_line_of_another_library_goes_through_the_same_format(stream: io.StringIO) -> None:
    configure_logging(style="json", stream=stream)

    logging.getLogger("dramatiq.worker").warning("took %d of %s", 7, "messages", extra={"queue": "sweeps"})
    get_logger("ours").warning("ours", queue="sweeps")

    theirs, ours = written(stream)
    assert (theirs["message"], theirs["queue"]) == ("took 7 of messages", "sweeps")
    assert (theirs["level"], theirs["logger"]) == ("warning", "dramatiq.worker")
    assert theirs.keys() == ours.keys()


@pytest.mark.parametrize("get", [get_logger, logging.getLogger])
def test_an_exception_is_one_json_line(stream: io.StringIO, get: Any) -> None:
    configure_logging(style="json", stream=stream)

    raise_and_log(get("somewhere"))

    (line,) = written(stream)
    assert (line["message"], line["level"]) == ("it failed", "error")
    assert "ValueError: invalid literal" in line["exception"]
    assert "\n" in line["exception"]
    assert "raise_and_log" in line["exception"]


def test_what_json_cannot_hold_is_written_as_text(stream: io.StringIO) -> None:
    configure_logging(style="json", stream=stream)

    get_logger("ours").info("odd", value={1, 2}, error=ValueError("x"), line="a\nb")

    (line,) = written(stream)
    assert (line["value"], line["error"], line["line"]) == ("{1, 2}", "x", "a\nb")


def test_people_get_a_line_with_what_it_says_and_no_colours_in_a_file(stream: io.StringIO) -> None:
    configure_logging(style="console", stream=stream)

    get_logger("ours").info("swept", count=3)
    logging.getLogger("theirs").info("hello")

    ours, theirs = stream.getvalue().splitlines()
    assert "swept" in ours
    assert "count=3" in ours
    assert "hello" in theirs
    assert "\x1b" not in stream.getvalue()


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    configure_logging(level="WARNING", style="json", stream=stream)

    for get in (get_logger, logging.getLogger):
        logger: Any = get("somewhere")
        logger.info("no")
        logger.warning("yes")

    assert [line["message"] for line in written(stream)] == ["yes", "yes"]


def test_configuring_again_replaces_what_was_before(stream: io.StringIO) -> None:
    configure_logging(style="json", stream=io.StringIO())
    configure_logging(style="json", stream=stream)
    configure_logging(style="json", stream=stream)

    get_logger("ours").info("once")
    logging.getLogger("theirs").info("once")

    assert len(written(stream)) == 2


@pytest.mark.parametrize(("level", "said"), [("INFO", ["Starting"]), ("DEBUG", ["Scheduling a.", "Starting"])])
def test_periodiqs_line_a_tick_is_for_debugging(stream: io.StringIO, level: str, said: list[str]) -> None:
    configure_logging(level=level, style="json", stream=stream)

    logging.getLogger("periodiq").info("Scheduling %s.", "a")
    logging.getLogger("periodiq").info("Starting")

    assert [line["message"] for line in written(stream)] == said


AWAY = OperationalError("SELECT 1", {}, OSError("100% refused\nis it running?"))
REFUSED = ProgrammingError("SELECT 1", {}, InsufficientPrivilege("permission denied"))


@pytest.mark.parametrize(
    ("level", "error", "message", "traceback"),
    [
        ("INFO", AWAY, "failed to process sweep(): 100% refused", None),
        ("INFO", REFUSED, "failed to process sweep(): permission denied", None),
        ("INFO", AdjournError("too many"), "failed to process sweep(): too many", None),
        ("DEBUG", AWAY, "failed to process sweep().", "100% refused"),
        ("INFO", ValueError("ours"), "failed to process sweep().", "ValueError: ours"),
    ],
)
def test_a_run_that_failed_by_what_a_line_can_say_is_a_line_unless_for_debugging(
    stream: io.StringIO, level: str, error: Exception, message: str, traceback: str | None
) -> None:
    configure_logging(level=level, style="json", stream=stream)

    logging.getLogger("dramatiq.worker.WorkerThread").error("failed to process %s.", "sweep()", exc_info=error)

    (line,) = written(stream)
    assert line["message"] == message
    assert traceback in line["exception"] if traceback else "exception" not in line


def test_what_consumers_say_of_a_redis_that_is_away_is_said_once_a_minute_by_each(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("services.logs.time", SimpleNamespace(monotonic=lambda: now[0]))
    configure_logging(style="json", stream=stream)
    sweeps, drains = (logging.getLogger(f"dramatiq.worker.ConsumerThread({name})") for name in ("sweeps", "drains"))

    for at in (0.0, 3.0, 59.9, 60.0):
        now[0] = at
        for consumer in (sweeps, drains):
            consumer.critical("Consumer encountered an unexpected error.", exc_info=RedisError("full"))
            consumer.info("Restarting consumer in %0.2f seconds.", 3)
    sweeps.error("Received message for undefined actor %r.", "one")
    sweeps.error("Received message for undefined actor %r.", "one")

    said = [line["message"] for line in written(stream)]
    assert said.count("Consumer encountered an unexpected error: full") == 4
    assert said.count("Restarting consumer in 3.00 seconds.") == 4
    assert said.count("Received message for undefined actor 'one'.") == 2
    assert "exception" not in stream.getvalue()


def test_a_mistake_in_a_consumer_has_its_traceback(stream: io.StringIO) -> None:
    configure_logging(style="json", stream=stream)

    consumer = logging.getLogger("dramatiq.worker.ConsumerThread(sweeps)")
    consumer.critical("Consumer encountered an unexpected error.", exc_info=ValueError("ours"))

    assert "ValueError: ours" in written(stream)[0]["exception"]


@pytest.mark.parametrize(
    "text",
    [
        "Error running script (call to f_ab3a): @user_script:88: @user_script: 88: -OOM command not allowed",
        "OOM command not allowed script: f_ab3a, on @user_script:88.",
        "OOM command not allowed",
    ],
)
def test_an_error_in_a_script_is_told_in_the_words_of_redis(text: str) -> None:
    assert first_line(RedisError(text)) == "OOM command not allowed"

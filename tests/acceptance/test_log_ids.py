"""What the logs say: the ids that metrics, events and Redis know a run by, and nothing of people."""

import json
from typing import Any

import redis
from sqlalchemy import text

from services.database import create_database_engine
from tests.acceptance.commands import Command, running
from tests.acceptance.test_worker_metrics import DUE
from tests.support import all_events, wait_for

#: What nobody may read in a log at info.
NUMBER = "+33612345678"
PERSON = text("""
    INSERT INTO conversations (conv_id, owner_id, user_id, channel, from_number, to_number, session_key, status,
        metadata, created_at, updated_at, idle_at, expires_at)
    VALUES (gen_random_uuid(), 'acme', :number, 'sms', :number, :number, :number, 'progress', :metadata,
        now(), now(), now() - interval '1 hour', now() + interval '1 day')
""")


def lines(command: Command, message: str) -> list[dict[str, Any]]:
    """Return what a command logged as JSON, with this in its message."""
    return [line for line in command.logged() if message in line["message"]]


def sent(scheduler: Command, swept: dict[str, Any]) -> set[str]:
    """Return the ids of the messages that a scheduler says it sent for the slot of a sweep."""
    said = [*lines(scheduler, "enqueued"), *lines(scheduler, "caught up")]
    of_slot = (f"process_{swept['task']}", swept["slot"])
    return {line["message_id"] for line in said if (line["actor"], line["slot"]) == of_slot}


def test_a_run_can_be_followed_from_its_slot_to_its_events_and_nobodys_number_is_logged(
    postgresql_url: str, redis_url: str, tmp_path: Any
) -> None:
    engine = create_database_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(DUE, {"count": 10})
    variables = {"DATABASE_URL": postgresql_url, "REDIS_URL": redis_url, "LOG_FORMAT": "json"}
    variables |= {"BACKGROUND_TASK_INTERVAL": "1", "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0"}
    with (
        redis.Redis.from_url(redis_url, decode_responses=True) as client,
        running("periodiq", "actors", directory=tmp_path, variables={**variables, "LOG_LEVEL": "DEBUG"}) as scheduler,
        running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker,
    ):
        swept = wait_for(lambda: lines(worker, "swept"), what="a sweep")
        for line in swept:
            assert line["sweep_id"] in {str(event.sweep_id) for event in all_events(engine)}
            assert line["slot"].endswith("+00:00")
            assert line["message_id"]
            assert line["term"] == 1
        wait_for(lambda: swept[0]["message_id"] in sent(scheduler, swept[0]), what="the line of its enqueuing")
        assert client.get("adjourn:scheduler:term") == "1"

        with engine.begin() as connection:
            connection.execute(PERSON, {"number": NUMBER, "metadata": json.dumps({"said": NUMBER})})
            # Of the whole statement: one row's would only have it set aside.
            connection.exec_driver_sql("""
                CREATE FUNCTION no_idle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE check_violation USING MESSAGE = 'no_idle', DETAIL = (SELECT max(from_number) FROM conversations);
                END $$;
                CREATE TRIGGER no_idle BEFORE UPDATE ON conversations FOR EACH STATEMENT EXECUTE FUNCTION no_idle()
            """)
        failed = wait_for(lambda: lines(worker, "Failed to process message"), what="a run that failed")
        assert {"sweep_id", "slot", "message_id", "term"} <= failed[0].keys()
        assert "no_idle" in failed[0]["exception"]

        def noted() -> str | None:
            told = "".join(str(client.hgetall(key)) for key in client.keys("adjourn:task:*"))
            return told if "no_idle" in told else None

        def notes() -> str | None:
            told = "".join(str(client.get(key)) for key in client.keys("adjourn:failure:*"))
            return told if "no_idle" in told else None

        # They are written after the line, and the next run, a second later, takes the first one back as it begins.
        found = wait_for(noted, what="its note"), wait_for(notes, what="the note beside the message")
        for said in (worker.output, scheduler.output, *found):
            assert NUMBER not in said
    engine.dispose()

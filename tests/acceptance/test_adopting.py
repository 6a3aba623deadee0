"""A platform's table is adopted while the platform writes to it, swept by the real processes, and given back.

ADOPTION_ROWS=1000000 does it with as many rows; -s shows what was measured.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from services.cli import app
from tests.acceptance.commands import PROJECT, run, running
from tests.plain_sql import connect, plain_url, rows_of, run_sql
from tests.platforms import GROWN, HISTORY, catalog, hold_that_it_is_given_back
from tests.support import wait_for

ROWS = int(os.environ.get("ADOPTION_ROWS", "8000"))
#: What a statement of the platform's may wait, in seconds. Where tests run, many at a time, anything takes long.
LONGEST_WAIT = 1.0 if "ADOPTION_ROWS" in os.environ else 20.0
#: What the page says in SQL: timeouts for each inbox, what a loop did otherwise, what it missed, and a listener.
TIMEOUTS_OF_INBOXES, DIFFERENCES, MISSED = re.findall(
    r"```sql\n(.*?)```", (PROJECT / "docs" / "adopting.md").read_text(), flags=re.DOTALL
)
WRITER = Path(__file__).with_name("foreign_writer.py")


@dataclass
class Ledger:
    """What the platform's writer was told is done."""

    opened: set[str]
    active_at: dict[str, str]
    closed_at: dict[str, float]
    waits: list[tuple[float, float, str]]
    errors: list[str]


@contextmanager
def writing(url: str, ledger: Path) -> Iterator[None]:
    """Have the platform write all the while."""
    process = subprocess.Popen(
        [sys.executable, str(WRITER), plain_url(url), str(ledger)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"writing\n"
        yield
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def read_ledger(path: Path) -> Ledger:
    found = Ledger(set(), {}, {}, [], [])
    for writer in json.loads(path.read_text()):
        found.opened |= set(writer["opened"])
        found.active_at |= writer["active_at"]
        found.closed_at |= writer["closed_at"]
        found.waits += [tuple(wait) for wait in writer["waits"]]
        found.errors += writer["errors"]
    return found


class Adopting:
    """``adjourn adopt`` on one database, with how long each run of it took."""

    def __init__(self, url: str, directory: Path) -> None:
        self._variables = {"DATABASE_URL": url}
        self._directory = directory
        self.spans: list[tuple[str, float, float]] = []

    def run(self, *options: str, code: int = 0) -> str:
        started = time.time()
        done = run("adjourn", "adopt", *options, directory=self._directory, variables=self._variables, seconds=900)
        self.spans.append((" ".join(options) or "(none)", started, time.time()))
        said = done.stdout + done.stderr
        print(f"\n$ adjourn adopt {' '.join(options)}  # {time.time() - started:.1f} s\n{said}")  # noqa: T201 - for -s
        assert done.returncode == code, said
        return said


def waits_by_command(ledger: Ledger, adopting: Adopting) -> Iterator[str]:
    for command, began, ended in adopting.spans:
        during = sorted((wait for wait in ledger.waits if began <= wait[0] <= ended), key=lambda wait: -wait[1])
        if during:
            slowest = ", ".join(f"{seconds * 1000:.0f} ms {kind}" for _, seconds, kind in during[:4])
            typical = during[len(during) // 2][1] * 1000
            yield f"{command}: {len(during):,} statements, typical {typical:.1f} ms, slowest {slowest}"


def no_rows(url: str, query: str) -> bool:
    return rows_of(url, query) == []


@pytest.mark.timeout(3600 if ROWS > 100_000 else 120)
@pytest.mark.slow
def test_a_table_with_years_of_history_is_adopted_swept_and_given_back_while_its_writers_go_on(
    empty_postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    url = empty_postgresql_url
    run_sql(url, GROWN, HISTORY.replace("%(rows)s", str(ROWS)), "VACUUM (ANALYZE) conversations")
    before = catalog(url)
    adopting = Adopting(url, tmp_path)

    with writing(url, tmp_path / "ledger.json"):
        checked = json.loads(adopting.run("--check", "--json"))
        assert catalog(url) == before
        assert checked["duplicates"]["session_keys"] == 12
        assert checked["would_end"]["count"] == ROWS * 3 // 100
        assert "alembic_version" in " ".join(checked["notes"])

        kill_one_in_the_middle(url, tmp_path)
        said = adopting.run(code=1)
        assert "12 session keys with more than one active conversation" in said
        installed_at = time.time()

        said = adopting.run("--close-duplicates", code=1)
        assert "closed 12 duplicates" in said
        assert f"{ROWS * 3 // 100:,} active conversations that are overdue" in said

        # The timeouts that the platform has for each inbox, while nothing is swept yet.
        run_sql(url, TIMEOUTS_OF_INBOXES)
        adopting.run("--overdue", "end")
        assert "nothing is left to be done" in adopting.run("--check")
        sweep_with_the_real_processes(url, redis_url, tmp_path)
        hold_the_rules(url)
        undone_at = time.time()
        adopting.run("--undo")

    ledger = read_ledger(tmp_path / "ledger.json")
    print("\n".join(waits_by_command(ledger, adopting)))  # noqa: T201 - for -s
    assert ledger.errors == []
    assert ledger.opened
    assert ledger.closed_at
    hold_the_writers_word(url, ledger)
    hold_the_record(url, ledger, since=installed_at, until=undone_at)
    assert max(seconds for _, seconds, _ in ledger.waits) < LONGEST_WAIT
    hold_that_it_is_given_back(before, catalog(url))


def kill_one_in_the_middle(url: str, directory: Path) -> None:
    """Kill an adoption as it begins to fill."""
    with running("adjourn", "adopt", directory=directory, variables={"DATABASE_URL": url}) as adoption:
        adoption.wait_for_output("triggers installed")
        adoption.send(signal.SIGKILL)
        adoption.wait()
    # The server ends what it is at, and sees then that nobody is there to be told.
    alone = (
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    wait_for(lambda: no_rows(url, alone), what="the end of its lock")


def sweep_with_the_real_processes(url: str, redis_url: str, directory: Path) -> None:
    """Have rows that the platform wrote fall due, and wait until scheduler and worker have ended them."""
    run_sql(
        url,
        "INSERT INTO conversations (owner_id, channel, from_number, to_number, subject, updated_at, expires_at) "
        "SELECT 'owner-2', 'sms', '+32 ' || n, '+331', 'due', now() - interval '31 minutes', "
        "CASE WHEN n % 2 = 0 THEN now() - interval '2 minutes' END FROM generate_series(1, 500) AS n",
    )
    variables = {"DATABASE_URL": url, "REDIS_URL": redis_url, "BACKGROUND_TASK_INTERVAL": "1"}
    with (
        running("dramatiq", "actors", directory=directory, variables=variables) as worker,
        running("periodiq", "actors", directory=directory, variables=variables) as scheduler,
    ):
        wait_for(
            lambda: no_rows(url, "SELECT 1 FROM conversations WHERE subject = 'due' AND ended_at IS NULL LIMIT 1"),
            seconds=60,
            what="the end of what is due",
        )
        hold_a_loop_against_the_record(url)
        for process in (worker, scheduler):
            process.send(signal.SIGTERM)
            process.wait()
    swept = rows_of(
        url,
        "SELECT e.status, cause, count(*) FROM conversation_events e JOIN conversations c USING (conv_id) "
        "WHERE subject = 'due' GROUP BY 1, 2 ORDER BY 1",
    )
    # The deadline that comes first names the status: a minute ago, or two.
    assert swept == [("expired", "sweep", 250), ("idle_timeout", "sweep", 250)]


def hold_a_loop_against_the_record(url: str) -> None:
    """End some as a platform's loop would, one of them too early, and see what the page's statements say of it."""
    run_sql(
        url,
        "INSERT INTO conversations (owner_id, channel, from_number, to_number, subject) "
        "SELECT 'owner-3', 'sms', '+31 ' || n, '+331', 'loop' FROM generate_series(1, 3) AS n",
        "UPDATE conversations SET status = 'idle_timeout' WHERE subject = 'loop'",
    )
    ended, too_early, with_another_status, latest = rows_of(url, DIFFERENCES)[0]
    assert (ended, too_early, with_another_status) == (3, 3, 0)
    assert latest < timedelta(0)
    assert rows_of(url, MISSED)[0][0] == 0
    with connect(url) as connection, pytest.raises(psycopg.errors.CheckViolation, match="never changes again"):
        connection.execute("UPDATE conversations SET status = 'progress' WHERE subject = 'loop'")


def hold_the_rules(url: str) -> None:
    """Hold, for all rows, what docs/conversations.md says is true of a conversation."""
    ended = "('idle_timeout', 'expired', 'closed')"
    assert no_rows(url, f"SELECT 1 FROM conversations WHERE (ended_at IS NOT NULL) <> (status IN {ended}) LIMIT 1")
    assert no_rows(
        url,
        f"SELECT session_key FROM conversations WHERE status NOT IN {ended} GROUP BY 1 HAVING count(*) > 1 LIMIT 1",
    )
    # Whoever wrote since then moved updated_at only: each inbox has kept its own timeout.
    assert no_rows(
        url,
        "SELECT 1 FROM conversations JOIN inboxes USING (inbox_id) WHERE status IN ('pending', 'progress') "
        "AND (idle_at <> updated_at + idle_timeout OR expires_at IS NULL) LIMIT 1",
    )
    assert no_rows(
        url,
        "SELECT conv_id FROM conversation_events WHERE ended GROUP BY conv_id HAVING count(*) > 1 LIMIT 1",
    )
    causes = dict(
        rows_of(
            url,
            "SELECT cause, count(*) FROM conversation_events WHERE ended AND cause IN ('adoption', 'sweep') GROUP BY 1",
        )
    )
    assert causes == {"adoption": ROWS * 3 // 100 + 12, "sweep": 500}
    assert no_rows(
        url,
        "SELECT 1 FROM (SELECT DISTINCT ON (session_key) session_key, created_at FROM conversations "
        "ORDER BY session_key, created_at DESC) AS last FULL JOIN latest_conversations USING (session_key) "
        "WHERE created_at IS DISTINCT FROM opened_at LIMIT 1",
    )


def hold_the_writers_word(url: str, ledger: Ledger) -> None:
    """Hold that whatever the platform was told is done, is."""
    with connect(url) as connection:
        found: dict[str, tuple[Any, ...]] = {
            row[0]: row[1:]
            for row in connection.execute(
                "SELECT conv_id::text, status, updated_at::text FROM conversations WHERE conv_id = ANY (%s)",
                [[*ledger.opened, *ledger.active_at, *ledger.closed_at]],
            )
        }
    assert set(found) == ledger.opened | set(ledger.active_at) | set(ledger.closed_at)
    assert {found[one][0] for one in ledger.closed_at} == {"closed"}
    assert [one for one, at in ledger.active_at.items() if found[one][1] != at] == []


def hold_the_record(url: str, ledger: Ledger, *, since: float, until: float) -> None:
    """Hold that each of the platform's closings in that time has its one event."""
    closed = {one for one, at in ledger.closed_at.items() if since < at < until}
    assert closed
    events = rows_of(
        url, "SELECT conv_id::text, cause, status FROM conversation_events WHERE ended AND cause = 'writer'"
    )
    recorded = [event[0] for event in events]
    assert len(recorded) == len(set(recorded))
    assert closed - set(recorded) == set()
    assert len(set(recorded) - set(ledger.closed_at)) == 3  # those of the loop


def test_what_is_in_the_way_is_said_with_its_advice_and_the_exit_code_is_1(
    empty_postgresql_url: str, tmp_path: Path
) -> None:
    run_sql(empty_postgresql_url, GROWN.replace("conv_id uuid", "conv_id text").replace("gen_random_uuid()", "'x'"))
    adopting = Adopting(empty_postgresql_url, tmp_path)

    said = adopting.run("--check", code=1)
    assert "\nBLOCKED: conv_id is text: it has to be uuid\n    -- from another type" in said
    assert "nothing is in the way" not in said
    assert json.loads(adopting.run("--check", "--json", code=1))["blockers"][0]["kind"] == "column_type"
    said = adopting.run(code=1)
    assert "BLOCKED: conv_id is text" in said
    assert "adjourn: 1 thing in the way; nothing was changed" in said


@pytest.mark.parametrize("options", [["--json"], ["--undo", "--check"], ["--undo", "--overdue", "end"]])
def test_options_that_do_not_go_together_are_refused(options: list[str]) -> None:
    done = CliRunner().invoke(app, ["adopt", *options])

    assert done.exit_code == 2
    assert options[0] in done.stderr

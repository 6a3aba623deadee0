import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support import NOON

ADJOURN = Path(sys.executable).parent / "adjourn"
SAMPLE_HISTORIES = Path(__file__).parents[2] / "../shared/data"

ROWS = [
    (0, "b", "inbound"),
    (0.5, "a", "inbound"),
    (10, "b", "outbound"),
    (45, "b", "inbound"),
    (300, "a", "inbound"),
]


def simulate(*arguments: str | Path, given: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [ADJOURN, "simulate", *arguments],
        input=given,
        capture_output=True,
        timeout=110,
        check=False,
        env={**os.environ, **environment},
    )


def refusal(*arguments: str | Path) -> str:
    """What is said on standard error, which is one line, and nothing else is."""
    ended = simulate(*arguments)
    assert ended.returncode == 1
    assert ended.stdout == b""
    line = ended.stderr.decode()
    assert line.startswith("adjourn: ")
    assert line.count("\n") == 1
    return line


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "history.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "session_key", "direction"])
        for minutes, key, direction in ROWS:
            writer.writerow([(NOON + timedelta(minutes=minutes)).isoformat(), key, direction])
    return path


def ended_idle(key: str, times: tuple[str, str, str], messages: int) -> dict[str, object]:
    opened_at, last_activity_at, deadline = (f"2026-01-31T{time}Z" for time in times)
    return {
        "session_key": key,
        "opened_at": opened_at,
        "last_activity_at": last_activity_at,
        "deadline": deadline,
        "status": "idle_timeout",
        "messages": messages,
    }


def test_jsonl_is_a_line_for_each_conversation_and_nothing_else(history: Path) -> None:
    ended = simulate(history, "--idle-timeout", "30m", "--expire-after", "24h", "--format", "jsonl")

    assert (ended.returncode, ended.stderr) == (0, b"")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert lines == [
        ended_idle("a", ("12:00:30", "12:00:30", "12:30:30"), 1),
        ended_idle("a", ("17:00:00", "17:00:00", "17:30:00"), 1),
        ended_idle("b", ("12:00:00", "12:10:00", "12:40:00"), 2),
        ended_idle("b", ("12:45:00", "12:45:00", "13:15:00"), 1),
    ]
    assert [list(line) for line in lines] == [list(lines[0])] * 4
    assert list(lines[0]) == ["session_key", "opened_at", "last_activity_at", "deadline", "status", "messages"]


def test_json_is_one_object_with_a_result_for_each_idle_timeout(history: Path) -> None:
    ended = simulate(
        history, "--idle-timeout", "30m", "--idle-timeout", "2h", "--expire-after", "60m", "--format", "json"
    )

    assert (ended.returncode, ended.stderr) == (0, b"")
    report = json.loads(ended.stdout)
    assert (report["history"], report["messages"]) == ("history.csv", 5)
    assert [result["idle_timeout_seconds"] for result in report["results"]] == [1800, 7200]
    assert [result["ended"] for result in report["results"]] == [
        {"idle_timeout": 4, "expired": 0},
        {"idle_timeout": 0, "expired": 3},
    ]
    assert report["results"][0]["cut_short"] == {"within_5m": 1, "within_15m": 1, "within_60m": 1}


def test_the_table_has_a_column_for_each_idle_timeout(history: Path) -> None:
    ended = simulate(history, "--idle-timeout", "30m", "--idle-timeout", "2h", PYTHONIOENCODING="utf-8")

    assert (ended.returncode, ended.stderr) == (0, b"")
    table = ended.stdout.decode()
    rows = [[cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")] for line in table.splitlines()]
    assert "history.csv: 5 messages, expiry after 1d" in rows[0][0]
    assert ["idle timeout", "30m", "2h"] in rows
    assert ["conversations", "4", "3"] in rows
    assert ["max", "10m", "45m"] in rows
    assert ["5 min", "1 (25.0%)", "0 (0.0%)"] in rows


@pytest.mark.parametrize("packed", [False, True])
def test_a_dash_reads_standard_input_as_often_as_needed(history: Path, *, packed: bool) -> None:
    content = history.read_bytes()

    ended = simulate(
        "-", "--idle-timeout", "30m", "--idle-timeout", "2h", given=gzip.compress(content) if packed else content
    )

    assert ended.returncode == 0
    assert "standard input: 5 messages" in ended.stdout.decode()


def test_an_idle_timeout_that_is_given_twice_is_one(history: Path) -> None:
    ended = simulate(history, "--idle-timeout", "30m", "--idle-timeout", "1800", "--format", "jsonl")

    assert len(ended.stdout.splitlines()) == 4


def test_nothing_is_left_and_no_setting_is_needed(history: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    ended = simulate(history, TMPDIR=str(temporary), DATABASE_URL="nonsense", BACKGROUND_TASK_INTERVAL="nonsense")

    assert ended.returncode == 0
    assert list(temporary.iterdir()) == []


def test_a_sqlite_file_that_is_named_keeps_the_result_and_is_not_used_again(history: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/simulation.db"

    assert simulate(history, "--database", url).returncode == 0

    assert "has conversations" in refusal(history, "--database", url)


def test_a_postgresql_database_gives_the_same(history: Path, empty_postgresql_url: str) -> None:
    here = simulate(history, "--format", "jsonl")
    there = simulate(history, "--format", "jsonl", "--database", empty_postgresql_url)

    assert (there.returncode, there.stderr) == (0, b"")
    assert there.stdout == here.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--idle-timeout", "soon"], "--idle-timeout: 'soon' is not a duration"),
        (["--expire-after", "0"], "--expire-after: '0' is out of range"),
        (["--idle-timeout", "5m", "--idle-timeout", "30m", "--format", "jsonl"], "give one --idle-timeout"),
        (["--database", "mysql://host/name"], "'mysql' is not supported"),
        (["--database", "postgresql://nobody@127.0.0.1:1/none"], "the database failed"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_one_line(history: Path, options: Sequence[str], said: str) -> None:
    assert said in refusal(history, *options)


def test_a_broken_history_is_refused_in_one_line_that_names_the_place(history: Path) -> None:
    with history.open("a") as file:
        file.write("2026-01-31T12:00:00Z,c,inbound\n")

    line = refusal(history, "--format", "jsonl")

    assert "history.csv, line 7, column at: 2026-01-31T12:00:00Z is before 2026-01-31T17:00:00Z" in line


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.csv")


@pytest.mark.skipif(not SAMPLE_HISTORIES.is_dir(), reason="the sample histories are not beside the project")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_large_sample_history_gives_its_known_figures() -> None:
    history = SAMPLE_HISTORIES / "irc_ubuntu.csv.gz"

    ended = subprocess.run(
        [ADJOURN, "simulate", history, "--idle-timeout", "60m", "--expire-after", "60m", "--format", "json"],
        capture_output=True,
        timeout=280,
        check=True,
    )

    [result] = json.loads(ended.stdout)["results"]
    assert result["conversations"] == 24_160
    assert result["ended"] == {"idle_timeout": 0, "expired": 24_160}

"""What the benchmarks conclude, and what they load."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine, text

from benchmarks.measures import Measurement, Target, percentile, ratio
from benchmarks.report import draw_tables, write_json
from benchmarks.rows import Layout, Shape, load_rows
from models.conversation import ConversationStatus
from services.database import create_database_engine
from tests.support import all_conversations, all_events

BARE = Measurement("drain", "bare", "s", (2.0, 1.0, 9.0))
SWEEP = Measurement("drain", "sweep", "s", (3.0,), "bare", "with events")


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_a_value_that_occurred(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_ratio_is_of_medians() -> None:
    assert BARE.median == 2.0
    assert ratio(SWEEP, [BARE, SWEEP]) == 1.5


@pytest.mark.parametrize(
    "others", [[], [Measurement("flat", "bare", "s", (2.0,))], [Measurement("drain", "bare", "s", (0.0,))]]
)
def test_without_its_yardstick_there_is_no_ratio(others: list[Measurement]) -> None:
    assert ratio(SWEEP, others) is None
    assert ratio(BARE, others) is None


@pytest.mark.parametrize(
    ("measured", "at_least", "holds"),
    [(1.49, False, True), (1.5, False, True), (1.51, False, False), (1.49, True, False), (1.5, True, True)],
)
def test_a_target_holds_up_to_its_bound(measured: float, at_least: bool, holds: bool) -> None:  # noqa: FBT001 - a table
    assert Target("1", "a sweep", "s", 1.5, measured, at_least=at_least).holds is holds


def test_the_tables_show_ratios_and_what_does_not_hold() -> None:
    console = Console(width=140, file=io.StringIO())
    with console.capture() as capture:
        console.print(draw_tables([BARE, SWEEP], [Target("1", "a sweep", "s", 1.5, 3.0)]))
    shown = capture.get()
    assert "1.50 ×" in shown  # noqa: RUF001 - as it is shown
    assert "with events" in shown
    assert "NO" in shown


def test_the_file_is_named_for_the_moment_and_has_it_all(tmp_path: Path) -> None:
    now = datetime(2026, 1, 31, 13, 0, 0, tzinfo=UTC).astimezone()
    target = Target("1", "a sweep", "s", 1.5, 3.0)
    path = write_json(
        tmp_path / "new", measurements=[BARE, SWEEP], targets=[target], circumstances={"commit": "abc"}, now=now
    )
    kept = json.loads(path.read_text())
    assert path.name == "20260131T130000Z.json"
    assert kept["commit"] == "abc"
    assert kept["measurements"][1]["ratio"] == 1.5
    assert kept["measurements"][0]["runs"] == [2.0, 1.0, 9.0]
    assert kept["targets"][0]["holds"] is False


@pytest.mark.parametrize("layout", list(Layout))
def test_loaded_rows_are_as_many_as_their_shape_says(engine: Engine, layout: Layout) -> None:
    base = datetime.now(UTC).replace(microsecond=0)
    shape = Shape(rows=1_003, due=207, waiting=311, layout=layout)

    load_rows(engine, shape, base=base)

    rows = all_conversations(engine)
    ended = [row for row in rows if not row.is_active]
    due = [row for row in rows if row.is_active and row.deadline <= base]
    assert (len(rows), len(due), len(ended)) == (1_003, 207, shape.ended)
    assert {row.status_when_due for row in due} == {ConversationStatus.IDLE_TIMEOUT}
    assert len({row.idle_at for row in due}) == 207
    assert all(base - timedelta(hours=1) <= row.idle_at < base for row in due)
    assert all(row.created_at <= row.updated_at < base for row in rows)
    waiting = [row for row in rows if row.is_active and row.deadline > base]
    assert all(row.deadline >= base + timedelta(hours=12) for row in waiting)
    assert {event.conv_id for event in all_events(engine)} == {row.conv_id for row in ended}


@pytest.mark.parametrize(("layout", "runs"), [(Layout.RECENT, 1), (Layout.SCATTERED, 100)])
def test_due_rows_lie_where_the_layout_says(sqlite_url: str, layout: Layout, runs: int) -> None:
    engine = create_database_engine(sqlite_url)
    load_rows(engine, Shape(rows=500, due=100, waiting=100, layout=layout), base=datetime.now(UTC))
    with engine.connect() as connection:
        numbers = connection.execute(
            text("SELECT rowid FROM conversations WHERE ended_at IS NULL AND idle_at <= datetime('now')")
        )
        due = [int(row[0]) for row in numbers.all()]
    engine.dispose()
    assert len(due) == 100
    assert sum(number - 1 not in due for number in due) == runs


@pytest.mark.parametrize("layout", list(Layout))
def test_a_second_load_is_of_other_customers(engine: Engine, layout: Layout) -> None:
    base = datetime.now(UTC)
    load_rows(engine, Shape(rows=200, due=0, waiting=150, layout=layout), base=base)
    soon = Shape(rows=50, due=50, waiting=0, layout=layout, first=5.0, window=10.0, after=200)

    load_rows(engine, soon, base=base)

    rows = [row for row in all_conversations(engine) if row.is_active and row.idle_at < base + timedelta(hours=1)]
    assert len(rows) == 50
    assert all(base + timedelta(seconds=4) <= row.idle_at <= base + timedelta(seconds=15) for row in rows)

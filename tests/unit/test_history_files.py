"""A history and a final state are read as they were written, and the checker knows nothing of what it checks."""

import ast
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.histories import final, record
from tests.histories.__main__ import main
from tests.histories.record import Checkpoint, Kind, Operation, Outcome
from tests.histories.reference import NOON, Plan, World

PROJECT = Path(__file__).resolve().parents[2]


def test_the_checker_imports_nothing_of_what_it_checks() -> None:
    sources = [*(PROJECT / "tests" / "histories").glob("*.py"), PROJECT / "tests" / "plain_sql.py"]
    assert len(sources) > 10
    modules = {name for source in sources for name in imported_modules(source)}

    assert not {name for name in modules if name.split(".")[0] in {"actors", "services", "models", "migrations"}}
    # Nor by way of other tests.
    assert {name for name in modules if name.startswith("tests") and ".histories" not in name} == {"tests.plain_sql"}


def imported_modules(source: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import"
            names |= {
                f"{node.module}.{alias.name}" if node.module == "tests" else str(node.module) for alias in node.names
            }
    return names


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    operations, state = World(Plan(operations=40, unknown_in=3), random.Random(1)).run()
    checkpoints = (
        Checkpoint(at=NOON, due_since=None, allowed=1.5),
        Checkpoint(at=NOON, due_since=NOON - timedelta(microseconds=1), allowed=1.5, after="Redis was flushed"),
    )

    record.write_all(tmp_path / "history.jsonl", [*operations, *checkpoints])
    final.write(tmp_path / "final.json", state)

    assert record.read(tmp_path / "history.jsonl") == record.History(tuple(operations), checkpoints)
    assert final.read(tmp_path / "final.json") == state


def operation(**given: object) -> Operation:
    values = {
        "number": 1,
        "client": 1,
        "kind": Kind.MESSAGE,
        "key": "acme",
        "now": NOON,
        "idle_timeout": 1.5,
        "expire_after": 6.0,
        "invoked": 0.1,
        "returned": None,
        "outcome": Outcome.UNKNOWN,
    }
    return Operation(**values | given)  # type: ignore[arg-type]


def test_an_instant_with_another_offset_is_written_in_utc(tmp_path: Path) -> None:
    now = datetime(2026, 1, 31, 13, 0, 0, 1, tzinfo=timezone(timedelta(hours=1)))

    record.write_all(tmp_path / "history.jsonl", [operation(now=now)])

    assert '"now":"2026-01-31T12:00:00.000001Z"' in (tmp_path / "history.jsonl").read_text()
    assert record.read(tmp_path / "history.jsonl").operations == (replace(operation(), now=now.astimezone(UTC)),)


@pytest.mark.parametrize(
    "given",
    [
        {"outcome": Outcome.OK, "returned": 1.0},
        {"kind": Kind.CLOSE},
        {"conv_id": "acme/0"},
    ],
)
def test_an_operation_that_contradicts_itself_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="operation 1"):
        operation(**given)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["{}"], "line 1: KeyError"),
        (["nothing"], "line 1: JSONDecodeError"),
        (['{"number":1,'], "line 1: JSONDecodeError"),
    ],
)
def test_what_is_no_history_is_refused_with_its_line(tmp_path: Path, lines: list[str], told: str) -> None:
    (tmp_path / "history.jsonl").write_text("\n".join(lines))

    with pytest.raises(ValueError, match=told):
        record.read(tmp_path / "history.jsonl")


def test_a_number_that_comes_twice_is_refused(tmp_path: Path) -> None:
    record.write_all(tmp_path / "history.jsonl", [operation(), operation()])

    with pytest.raises(ValueError, match=r"line 2: .*operation 1 comes twice"):
        record.read(tmp_path / "history.jsonl")


def test_the_command_exits_with_0_when_all_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operations, state = World(Plan(operations=20, keys=1, clients=2), random.Random(1)).run()
    record.write_all(tmp_path / "history.jsonl", operations)
    final.write(tmp_path / "final.json", state)

    assert main([str(tmp_path / "history.jsonl"), str(tmp_path / "final.json")]) == 0
    assert ": 0 findings\n" in capsys.readouterr().out


def test_the_command_prints_what_is_wrong_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operations, state = World(Plan(operations=20, keys=1, clients=2), random.Random(1)).run()
    record.write_all(tmp_path / "history.jsonl", operations)
    final.write(tmp_path / "final.json", replace(state, rows=state.rows[1:], events=()))

    assert main([str(tmp_path / "history.jsonl"), str(tmp_path / "final.json")]) == 1
    assert "\n- lost_activity: key-0: key-0/0 was acknowledged, and is not there" in capsys.readouterr().out

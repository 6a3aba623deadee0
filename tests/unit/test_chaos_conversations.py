"""The chaos runs' own pieces: what is planned, what a round is judged by, what is told of it."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.chaos.breakages import BREAKAGES
from tests.chaos.conversations import plan
from tests.chaos.conversations.keys import Keys
from tests.chaos.conversations.plan import FAULTS, draw_plan, possible_faults
from tests.chaos.conversations.report import BEGIN, END, write_report
from tests.chaos.conversations.rounds import Figures, Round, attribute, figures_of
from tests.chaos.conversations.stack import LONGEST_DUE
from tests.chaos.conversations.table import draw_table, markdown_of
from tests.chaos.conversations.tracebacks import Logs
from tests.chaos.conversations.traffic import Counts
from tests.chaos.mutations import MUTATIONS
from tests.histories.final import Event, FinalState
from tests.histories.findings import Finding, FindingKind
from tests.histories.record import Kind

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECOND, MOMENT = timedelta(seconds=1), timedelta(microseconds=1)
PROJECT = Path(__file__).resolve().parents[2]


def a_round(number: int = 1, *, name: str = "worker killed", allowed: float = 0.0, well: float | None = 0.5) -> Round:
    """Return one of ten seconds and a hundred operations, the first from noon and number 0 on."""
    return Round(
        number=number,
        name=name,
        began=NOON + (number - 1) * 10 * SECOND,
        after_operation=(number - 1) * 100,
        bound=LONGEST_DUE + allowed,
        what="SIGKILL",
        ended=NOON + number * 10 * SECOND,
        until_operation=number * 100,
        counts=Counts(acknowledged=90, refused=5, unknown=2, unsent=3),
        well_after=well,
    )


def an_end(at: datetime, *, status: str = "idle_timeout") -> Event:
    return Event(
        event_id=1,
        conv_id="c",
        previous_status="pending",
        status=status,
        deadline=at,
        last_activity_at=at,
        cause="sweep",
        sweep_id=None,
        occurred_at=at,
    )


def final_of(*events: Event) -> FinalState:
    return FinalState((), events, NOON)


def test_a_plan_has_every_kind_at_least_once() -> None:
    drawn = draw_plan(len(FAULTS) + 7, random.Random(1))

    assert len(drawn) == len(FAULTS) + 7
    assert set(drawn) == set(FAULTS)


def test_a_seed_repeats_a_plan() -> None:
    plans = [draw_plan(60, random.Random(seed)) for seed in (4, 4, 5)]

    assert plans[0] == plans[1] != plans[2]


def test_a_plan_of_one_kind_has_no_other() -> None:
    drawn = draw_plan(3, random.Random(1), possible=possible_faults(kind="a due row"))

    assert [fault.name for fault in drawn] == 3 * ["a due row locked"]


@pytest.mark.parametrize(
    ("compiler", "short", "kind", "sets_clocks"),
    [("cc", False, "", True), (None, False, "", False), ("cc", True, "", False), ("cc", True, "leap", True)],
)
def test_clocks_are_set_where_there_is_a_compiler_and_not_in_the_short_form(
    monkeypatch: pytest.MonkeyPatch, compiler: str | None, kind: str, *, short: bool, sets_clocks: bool
) -> None:
    monkeypatch.setattr(plan, "find_compiler", lambda: compiler)

    possible = possible_faults(kind=kind, short=short)

    assert any(fault.sets_clocks for fault in possible) is sets_clocks
    assert kind or {fault for fault in FAULTS if not fault.sets_clocks} <= {*possible}


def test_kinds_of_faults_have_names_of_their_own_and_reasons_for_what_they_may_cost() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert [fault.name for fault in FAULTS if fault.allowed and not fault.because] == []


@pytest.mark.parametrize("allowed", [0.0, 4.0])
def test_a_round_that_is_well_at_its_bound_is_not_late(allowed: float) -> None:
    on_time = a_round(allowed=allowed, well=LONGEST_DUE + allowed)
    late = a_round(allowed=allowed, well=LONGEST_DUE + allowed + 0.01)

    on_time.judge()
    late.judge()

    assert on_time.findings == []
    (finding,) = late.findings
    assert finding.startswith("left due")


def test_a_round_that_was_never_well_is_a_finding() -> None:
    never = a_round(well=None)

    never.judge()

    assert never.findings == ["left due: it was never well again"]


@pytest.mark.parametrize(("operation", "number"), [(1, 1), (100, 1), (101, 2), (200, 2)])
def test_a_finding_belongs_to_the_round_of_its_first_operation(operation: int, number: int) -> None:
    rounds = [a_round(1), a_round(2)]

    left = attribute([Finding(FindingKind.ENDED_EARLY, "k", "too early", (operation + 150, operation))], rounds)

    assert left == []
    assert [one.number for one in rounds if one.findings] == [number]


@pytest.mark.parametrize("operations", [(), (201,)])
def test_a_finding_of_no_round_is_returned(operations: tuple[int, ...]) -> None:
    rounds = [a_round(1), a_round(2)]

    left = attribute([Finding(FindingKind.LEFT_DUE, "", "late", operations)], rounds)

    assert len(left) == 1
    assert not any(one.findings for one in rounds)


def test_rounds_of_a_kind_make_one_row() -> None:
    slow = a_round(2, well=1.5)
    slow.findings.append("something")

    rows = figures_of([a_round(1), slow, a_round(3, name="Redis flushed")], None)

    assert rows == {
        "worker killed": Figures(2, 180, 16, 4, 0, 1.5, LONGEST_DUE, 1),
        "Redis flushed": Figures(1, 90, 8, 2, 0, 0.5, LONGEST_DUE, 0),
    }


@pytest.mark.parametrize(
    ("at", "row"),
    [
        (NOON - MOMENT, None),
        (NOON, "worker killed"),
        (NOON + 10 * SECOND - MOMENT, "worker killed"),
        (NOON + 10 * SECOND, "Redis flushed"),
        (NOON + 20 * SECOND, None),
    ],
)
def test_an_end_is_counted_in_the_round_in_which_it_occurred(at: datetime, row: str | None) -> None:
    rows = figures_of([a_round(1), a_round(2, name="Redis flushed")], final_of(an_end(at)))

    assert {name for name, figures in rows.items() if figures.ended} == ({row} if row else set())


def test_what_is_no_end_is_not_counted_as_one() -> None:
    (row,) = figures_of([a_round()], final_of(an_end(NOON, status="progress"))).values()

    assert row.ended == 0


def test_the_table_in_markdown_has_a_row_for_each_kind_and_one_for_all() -> None:
    rows = figures_of([a_round(1), a_round(2, well=1.25), a_round(3, name="Redis flushed", allowed=2)], None)

    assert [line.split(" | ")[0] for line in markdown_of(rows)[2:]] == ["| worker killed", "| Redis flushed", "| all"]
    assert markdown_of(rows)[-1] == "| all | 3 | 270 | 24 | 6 | 0 | 1.25 s |  | 0 |"
    assert draw_table(rows).row_count == 3


def test_a_report_replaces_what_the_last_one_wrote(tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{BEGIN}\nof the last run\n{END}\nafter\n")
    rows = figures_of([a_round()], None)

    write_report(document, rows, "with this")
    write_report(document, rows, "with that")

    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\nwith that\n\n| fault |")
    assert text.endswith(f" |\n\n{END}\nafter\n")
    assert "with this" not in text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_report_is_not_written_where_no_place_is_marked(text: str, tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(text)

    with pytest.raises(ValueError, match="has no <!-- chaos"):
        write_report(document, {}, "")

    assert document.read_text() == text


def test_the_document_has_a_place_for_the_report(tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text((PROJECT / "docs" / "reliability.md").read_text())

    write_report(document, figures_of([a_round()], None), "with this")

    assert "with this" in document.read_text()


def test_a_traceback_is_told_by_its_error_once(tmp_path: Path) -> None:
    log = tmp_path / "worker-001.log"
    log.write_text('ready\nTraceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\nKeyError: 7\n')
    logs = Logs()

    assert list(logs.new_tracebacks([log])) == ["traceback in worker-001.log: KeyError: 7"]
    assert list(logs.new_tracebacks([log])) == []


def test_a_traceback_within_json_is_told_too(tmp_path: Path) -> None:
    log = tmp_path / "worker-001.log"
    traceback = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\nKeyError: 7'
    log.write_text(json.dumps({"level": "error", "exception": traceback}) + "\n")

    (told,) = Logs().new_tracebacks([log])

    assert told.startswith("traceback in worker-001.log: KeyError: 7")


def test_a_traceback_that_a_fault_excuses_is_not_told(tmp_path: Path) -> None:
    log = tmp_path / "worker-001.log"
    log.write_text(
        "".join(f"Traceback (most recent call last):\n  File\n{error}\n" for error in ("KeyError: 7", "No: 8"))
    )

    assert list(Logs().new_tracebacks([log], excuses=("No: ",))) == ["traceback in worker-001.log: KeyError: 7"]


def test_clients_open_what_they_do_not_know_and_name_what_they_do() -> None:
    known: dict[str, str] = {}
    keys = Keys(1, known, random.Random(1), idle_timeout=2.0, monotonic=lambda: 0.0)

    for _ in range(2000):
        choice = keys.choose()
        assert choice.kind is Kind.MESSAGE or choice.key in known
        assert choice.conv_id == (known[choice.key] if choice.kind in {Kind.ACTIVITY_BY_ID, Kind.CLOSE} else None)
        known[choice.key] = f"of {choice.key}"

    assert {key.split(":")[0] for key in known} == {"hot", "warm", "cold", "brink"}


def test_hot_keys_are_others_after_a_while() -> None:
    now = 0.0
    keys = Keys(1, {}, random.Random(1), idle_timeout=2.0, monotonic=lambda: now)
    first = {keys.choose().key for _ in range(500)}
    now = 30.0

    second = {keys.choose().key for _ in range(500)}

    assert {key for key in first if key.startswith("hot:0")}
    assert {key for key in second if key.startswith("hot:1")}
    assert not {key for key in first if key.startswith("hot:1")}


def test_a_client_comes_back_to_some_just_before_they_fall_due_and_may_stay_beyond() -> None:
    now = 0.0
    keys = Keys(1, {}, random.Random(1), idle_timeout=2.0, monotonic=lambda: now)
    opened = {choice.key for choice in (keys.choose() for _ in range(500)) if choice.key.startswith("brink")}
    now = 2.0

    back = [keys.choose() for _ in opened]

    assert {choice.key for choice in back} == opened
    assert all(0 <= choice.other_work <= 0.5 for choice in back)
    assert keys.choose().key not in opened


def test_what_is_broken_on_purpose_is_there_to_be_broken() -> None:
    assert {one.of_processes or one.of_clients or "" for one in BREAKAGES.values()} <= {*MUTATIONS, ""}
    assert [name for name, one in BREAKAGES.items() if not (one.of_processes or one.of_clients or one.statements)] == []

"""What the soak writes into the documentation."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.chaos.conversations.rounds import Round
from tests.chaos.conversations.traffic import Counts
from tests.soak.bounds import MEBIBYTE
from tests.soak.lags import Lags
from tests.soak.report import BEGIN, END, Report
from tests.soak.verdict import Judgement, Verdict

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def judgement(
    measure: str, *values: float, slope: float = 0, bound: float = 2, verdict: Verdict = Verdict.FLAT
) -> Judgement:
    return Judgement(
        "worker-001", measure, values[0], values[-1], min(values), max(values), slope, bound, verdict=verdict
    )


@pytest.fixture
def report() -> Report:
    fault = Round(1, "leader killed", NOON + timedelta(minutes=5), 0, bound=6.0, well_after=1.5)
    return Report(
        command="python -m tests.soak --seed 1",
        took=3600,
        versions=("18.4", "6.2.14"),
        counts=Counts(acknowledged=720_000, refused=3, unknown=1, unsent=2),
        conversations=200_000,
        events=300_000,
        began=NOON,
        judgements=[
            judgement(
                "resident memory",
                90 * MEBIBYTE,
                96 * MEBIBYTE,
                slope=6 * MEBIBYTE,
                bound=4 * MEBIBYTE,
                verdict=Verdict.GROWS,
            ),
            judgement("threads", 15, 15),
            judgement("descriptors", 26, verdict=Verdict.TOO_SHORT),
        ],
        rounds=[fault],
        lags=(Lags(100, 0.5, 0.99, 1.25), Lags(0, 0.0, 0.0, 0.0)),
        findings=["worker-001: resident memory grows"],
    )


def written(report: Report, path: Path) -> str:
    path.write_text(f"# Reliability\n\n{BEGIN}\nof the last time\n{END}\n\nThe end.\n")
    report.write(path)
    return path.read_text()


def test_the_section_between_the_markers_is_replaced(report: Report, tmp_path: Path) -> None:
    text = written(report, tmp_path / "page.md")

    assert text.startswith(f"# Reliability\n\n{BEGIN}\n\n`python -m tests.soak --seed 1`, 60 min 0 s, ")
    assert text.endswith(f"\n\n{END}\n\nThe end.\n")
    assert "of the last time" not in text
    assert written(report, tmp_path / "page.md") == text


def test_it_says_what_was_done_and_found(report: Report, tmp_path: Path) -> None:
    text = written(report, tmp_path / "page.md")

    assert "720,000 operations acknowledged (200 a second), 5 refused, 1 of unknown outcome" in text
    assert "2 series judged, 1 too short to be; 1 findings." in text
    assert "| leader killed | 5.0 min | 1.50 s | 6.0 s | 0 | 0 | 0 |" in text
    assert "| outside of faults | 100 | 0.50 s | 0.99 s | 1.25 s |" in text
    assert "| worker-001 | resident memory, MiB | 90.00 | 96.00 | 90.00 | 96.00 | +6.00 | 4.00 | grows |" in text


def test_what_never_changed_takes_a_line_together(report: Report, tmp_path: Path) -> None:
    text = written(report, tmp_path / "page.md")

    assert "The same from the first value to the last: worker-001: threads 15." in text
    assert "| threads |" not in text


def test_a_page_without_the_markers_is_refused(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"{END}\n{BEGIN}\n")

    with pytest.raises(ValueError, match="has no <!-- soak"):
        report.write(path)

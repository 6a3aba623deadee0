"""What a soak says of itself, printed and in docs/reliability.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from tests.chaos.conversations.rounds import Round
from tests.chaos.conversations.traffic import Counts
from tests.chaos.telling import made_with, write_between
from tests.soak import table
from tests.soak.lags import Lags
from tests.soak.verdict import Judgement, Verdict

BEGIN, END = "<!-- soak: written by python -m tests.soak --write -->", "<!-- /soak -->"


@dataclass(frozen=True, slots=True)
class Report:
    """All that came of a run."""

    command: str
    #: In seconds.
    took: float
    #: Of PostgreSQL and Redis.
    versions: tuple[str, str]
    counts: Counts
    conversations: int
    events: int
    began: datetime
    judgements: Sequence[Judgement]
    rounds: Sequence[Round]
    #: Outside of faults and within.
    lags: tuple[Lags, Lags]
    findings: Sequence[str]

    def show(self, console: Console) -> None:
        """Print it."""
        for header, rows, names in self._tables(self._judged):
            console.print(table.draw(header, rows, names=names))
        console.print(self._about())

    def write(self, path: Path) -> None:
        """Put it between the two markers of a file.

        Raises ValueError when they are not there.
        """
        parts = [
            line for one in self._tables(self._moving) for line in (*table.markdown_of(*one[:2], names=one[2]), "")
        ]
        write_between(path, BEGIN, END, [self._about(), "", *parts, self._still()])

    @property
    def _judged(self) -> list[Judgement]:
        return [one for one in self.judgements if one.verdict is not Verdict.TOO_SHORT]

    @property
    def _moving(self) -> list[Judgement]:
        return [one for one in self._judged if one.least < one.most]

    def _still(self) -> str:
        """Return those that had one value all the time: a row each would hide the others."""
        still: dict[str, list[str]] = {}
        for one in self._judged:
            if one.least == one.most:
                still.setdefault(one.subject, []).append(table.value_of(one))
        listed = "; ".join(f"{subject}: {', '.join(figures)}" for subject, figures in still.items())
        return f"The same from the first value to the last: {listed}."

    def _tables(self, judgements: Iterable[Judgement]) -> list[tuple[Sequence[str], list[list[str]], int]]:
        outside, within = self.lags
        faults = [table.fault_cells(one, (one.began - self.began).total_seconds()) for one in self.rounds]
        judged = [table.cells_of(one) for one in judgements]
        lags = [table.lag_cells("outside of faults", outside), table.lag_cells("within", within)]
        return [
            (table.FAULTS, faults, 1),
            (table.LAGS, lags, 1),
            (table.SERIES, judged, 2),
        ]

    def _about(self) -> str:
        postgresql, redis = self.versions
        counts = self.counts
        short = len(self.judgements) - len(self._judged)
        return (
            f"{made_with(self.command, took=self.took, postgresql=postgresql, redis=redis)}:"
            f" {counts.acknowledged:,} operations acknowledged ({counts.acknowledged / self.took:.0f} a second),"
            f" {counts.refused + counts.unsent:,} refused, {counts.unknown:,} of unknown outcome;"
            f" {self.conversations:,} conversations, {self.events:,} events; {len(self.judgements) - short} series"
            f" judged, {short} too short to be; {len(self.findings)} findings."
        )

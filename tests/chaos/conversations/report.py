"""The section of docs/reliability.md that a run writes by itself."""

from collections.abc import Mapping
from pathlib import Path

from tests.chaos.conversations.rounds import Figures
from tests.chaos.conversations.stack import Stack
from tests.chaos.conversations.table import markdown_of
from tests.chaos.telling import made_with, write_between
from tests.histories.final import FinalState

BEGIN, END = "<!-- chaos: written by python -m tests.chaos --write -->", "<!-- /chaos -->"


def describe_run(*, stack: Stack, final: FinalState | None, faults: int, seed: int, took: float, findings: int) -> str:
    """Return what a table was made with, in a paragraph."""
    command = f"python -m tests.chaos --only conversations --faults {faults} --seed {seed}"
    postgresql, redis = stack.versions
    counts = stack.traffic.counts
    rows, events = (len(final.rows), len(final.events)) if final else (0, 0)
    return (
        f"{made_with(command, took=took, postgresql=postgresql, redis=redis)}: {counts.acknowledged:,} operations"
        f" acknowledged, {counts.refused + counts.unsent:,} refused, {counts.unknown:,} of unknown outcome; {rows:,}"
        f" conversations, {events:,} events; {findings} findings."
    )


def write_report(path: Path, rows: Mapping[str, Figures], about: str) -> None:
    """Put the table between the two markers of a file.

    Raises ValueError when they are not there.
    """
    write_between(path, BEGIN, END, [about, "", *markdown_of(rows)])

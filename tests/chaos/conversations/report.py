"""The section of docs/reliability.md that a run writes by itself."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.machine import describe_machine
from tests.chaos.conversations.rounds import Figures
from tests.chaos.conversations.stack import Stack
from tests.chaos.conversations.table import markdown_of
from tests.histories.final import FinalState

BEGIN, END = "<!-- chaos: written by python -m tests.chaos --write -->", "<!-- /chaos -->"
_PACKAGES = ("dramatiq", "periodiq", "psycopg", "redis", "sqlalchemy")


def describe_run(*, stack: Stack, final: FinalState | None, faults: int, seed: int, took: float, findings: int) -> str:
    """Return what a table was made with, in a paragraph."""
    machine = describe_machine()
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    counts = stack.traffic.counts
    minutes, seconds = divmod(round(took), 60)
    rows, events = (len(final.rows), len(final.events)) if final else (0, 0)
    return (
        f"`python -m tests.chaos --only conversations --faults {faults} --seed {seed}`, {minutes} min"
        f" {seconds} s, {machine['cores']} cores ({machine['processor']}), PostgreSQL {stack.versions[0]}, Redis"
        f" {stack.versions[1]}, Python {platform.python_version()}, {versions}: {counts.acknowledged:,} operations"
        f" acknowledged, {counts.refused + counts.unsent:,} refused, {counts.unknown:,} of unknown outcome; {rows:,}"
        f" conversations, {events:,} events; {findings} findings."
    )


def write_report(path: Path, rows: Mapping[str, Figures], about: str) -> None:
    """Put the table between the two markers of a file.

    Raises ValueError when they are not there.
    """
    text = path.read_text()
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        raise ValueError(f"{path} has no {BEGIN} with {END} after it")
    section = "\n".join([BEGIN, "", about, "", *markdown_of(rows), "", ""])
    path.write_text(text[:begin] + section + text[end:])

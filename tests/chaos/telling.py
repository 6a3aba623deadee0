"""How a run that tries reliability tells of itself: what it was made with, what was found, its place in a document."""

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine

_PACKAGES = ("dramatiq", "periodiq", "psycopg", "redis", "sqlalchemy")
#: How many findings are shown in full.
_SHOWN = 30


def made_with(command: str, *, took: float, postgresql: str, redis: str) -> str:
    """Return a command, how long it took (in seconds), and the machine and versions that it was run with."""
    machine = describe_machine()
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    minutes, seconds = divmod(round(took), 60)
    return (
        f"`{command}`, {minutes} min {seconds} s, {machine['cores']} cores ({machine['processor']}), PostgreSQL"
        f" {postgresql}, Redis {redis}, Python {platform.python_version()}, {versions}"
    )


def tell_findings(findings: Sequence[str], console: Console) -> None:
    """Print the findings, the first of many."""
    console.print(f"\n{len(findings)} findings:")
    for finding in findings[:_SHOWN]:
        console.print(f"- {finding}", markup=False)
    if len(findings) > _SHOWN:
        console.print(f"- and {len(findings) - _SHOWN} more")


def write_between(path: Path, begin: str, end: str, lines: Iterable[str]) -> None:
    """Put lines between two markers of a file, in place of what is there.

    Raises ValueError when the markers are not there.
    """
    text = path.read_text()
    from_, to = text.find(begin), text.find(end)
    if from_ < 0 or to < from_:
        raise ValueError(f"{path} has no {begin} with {end} after it")
    path.write_text(text[:from_] + "\n".join([begin, "", *lines, "", ""]) + text[to:])

"""The end of the demo: what happened, what was checked, what to do next."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.demo.checks import Check
from services.demo.feed import Fed
from services.demo.figures import Figures
from services.demo.screen import describe_lag


def show_summary(
    console: Console, *, figures: Figures, fed: Fed, checks: Sequence[Check], cut_short: str | None
) -> None:
    """Print the summary on ``console``; ``cut_short`` says why the demo did not last its time, None when it did."""
    if cut_short:
        console.print(Text(f"Stopped early: {cut_short}", "bold red"))
    console.print()
    console.print(
        Text.assemble(
            (f"{figures.total:,} conversations", "bold"), " from ", (f"{fed.messages:,} messages", "bold"), ":"
        )
    )
    console.print(_count_endings(figures))
    console.print(f"How late: {describe_lag(figures)}", highlight=False)
    console.print()
    console.print("Checked in the database:")
    console.print(_list_checks(checks, plain=console.options.ascii_only))
    console.print()
    console.print(_point_on())


def _count_endings(figures: Figures) -> Table:
    table = _indented()
    still_open = f"{figures.due} of them due at this moment" if figures.due else ""
    for name, count, style, remark in (
        ("ended idle", figures.idle, "bold cyan", "the customer walked away"),
        ("ended expired", figures.expired, "bold magenta", "lively, but its time was up"),
        ("still open", figures.open, "bold", still_open),
        ("came back", figures.came_back, "bold green", "wrote again after the end: a conversation of its own"),
    ):
        table.add_row(name, Text(f"{count:,}", style, justify="right"), Text(remark, "dim"))
    return table


def _list_checks(checks: Sequence[Check], *, plain: bool) -> Table:
    tick, cross = ("ok", "NO") if plain else ("✓", "✗")
    table = _indented()
    for check in checks:
        mark = Text(tick, "bold green") if check.holds else Text(cross, "bold red")
        table.add_row(mark, Text(check.claim, "" if check.holds else "bold red"), Text(check.found, "dim"))
    return table


def _point_on() -> Table:
    table = _indented()
    table.add_row("Next:", Text("adjourn simulate your-history.csv", "bold"), Text("what it would have ended", "dim"))
    table.add_row("", Text("adjourn run", "bold"), Text("the real thing, on this machine", "dim"))
    return table


def _indented() -> Table:
    return Table(box=None, show_header=False, padding=(0, 1), pad_edge=True)

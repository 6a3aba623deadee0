"""The verdict for people: a row for each kind of fault."""

from collections.abc import Sequence
from dataclasses import astuple

from rich.table import Table

from tests.chaos.scheduling.records import Kind
from tests.chaos.scheduling.verdict import Figures, Verdict

_COLUMNS = ("number", "slots", "once", "twice", "stood in for", "missed", "longest gap", "longest without leader")
#: The last columns are times, of which the longest counts; the others add up.
_TIMES = 2


def draw_table(verdict: Verdict) -> Table:
    """Return the figures of each kind, and of all."""
    table = Table(title="Two actors, a slot of each every second", title_justify="left")
    table.add_column("fault", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    rows = [(kind, verdict.figures[kind]) for kind in Kind if kind in verdict.figures]
    for kind, figures in rows:
        table.add_row(kind, *_cells(figures))
    table.add_section()
    table.add_row("all", *_cells(_total([figures for _, figures in rows])))
    return table


def _total(rows: Sequence[Figures]) -> Figures:
    total = Figures()
    for row in rows:
        total = Figures(
            faults=total.faults + row.faults,
            slots=total.slots + row.slots,
            once=total.once + row.once,
            twice=total.twice + row.twice,
            stood_in=total.stood_in + row.stood_in,
            missed=total.missed + row.missed,
            longest_gap=max(total.longest_gap, row.longest_gap),
            longest_leaderless=max(total.longest_leaderless, row.longest_leaderless),
        )
    return total


def _cells(figures: Figures) -> list[str]:
    values = astuple(figures)
    return [f"{value:,}" for value in values[:-_TIMES]] + [f"{value:.2f} s" for value in values[-_TIMES:]]

"""The figures for people: a row for each kind of fault, on a terminal and in Markdown."""

from collections.abc import Iterable, Mapping

from rich.table import Table

from tests.chaos.conversations.rounds import Figures

_COLUMNS = ("number", "acknowledged", "refused", "unknown", "ended", "longest to be well", "allowed", "findings")


def draw_table(rows: Mapping[str, Figures]) -> Table:
    """Return the figures of each kind, and of all."""
    table = Table(title="Operations of clients while each was done and until all was well again", title_justify="left")
    table.add_column("fault", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        table.add_row(name, *_cells(row))
    table.add_section()
    table.add_row("all", *_cells(total(rows.values())))
    return table


def markdown_of(rows: Mapping[str, Figures]) -> list[str]:
    """Return the lines of the same table in Markdown."""
    lines = ["| " + " | ".join(("fault", *_COLUMNS)) + " |", "| --- |" + " ---: |" * len(_COLUMNS)]
    every = [*rows.items(), ("all", total(rows.values()))]
    return lines + ["| " + " | ".join((name, *_cells(row))) + " |" for name, row in every]


def total(rows: Iterable[Figures]) -> Figures:
    """Return the sums; of times the longest, and no bound, which each kind has for itself."""
    every = Figures()
    for row in rows:
        every.faults += row.faults
        every.acknowledged += row.acknowledged
        every.refused += row.refused
        every.unknown += row.unknown
        every.ended += row.ended
        every.longest = max(every.longest, row.longest)
        every.findings += row.findings
    return every


def _cells(row: Figures) -> list[str]:
    counts = [f"{count:,}" for count in (row.faults, row.acknowledged, row.refused, row.unknown, row.ended)]
    bound = f"{row.bound:.1f} s" if row.bound else ""
    return [*counts, f"{row.longest:.2f} s", bound, str(row.findings)]

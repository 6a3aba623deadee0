"""The figures for people, on a terminal and in Markdown: a row for each series, a row for each fault."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from tests.chaos.conversations.rounds import Round
from tests.soak.bounds import unit_of, written
from tests.soak.lags import Lags
from tests.soak.verdict import Judgement, Verdict

#: The columns of ``cells_of``, ``fault_cells`` and ``lag_cells``.
SERIES = ("of", "figure", "first", "last", "least", "most", "slope an hour", "allowed", "verdict")
FAULTS = ("fault", "at", "well after", "allowed", "acknowledged", "refused", "unknown")
LAGS = ("from the deadline to the end", "endings", "p50", "p99", "most")


def cells_of(judgement: Judgement) -> list[str]:
    """Return the cells of a series, the first two of them what it is of."""
    unit = unit_of(judgement.measure)
    values = [judgement.first, judgement.last, judgement.least, judgement.most]
    cells = [written(value, unit) for value in values]
    is_judged = judgement.verdict is not Verdict.TOO_SHORT
    slope = f"{'+' if judgement.slope > 0 else ''}{written(judgement.slope, unit)}" if is_judged else ""
    bound = "" if judgement.bound is None or not is_judged else written(judgement.bound, unit)
    name = f"{judgement.measure}, {unit.value}" if unit.value else judgement.measure
    return [judgement.subject, name, *cells, slope, bound, judgement.verdict.value]


def value_of(judgement: Judgement) -> str:
    """Return the figure and its last value, with its unit."""
    unit = unit_of(judgement.measure)
    return f"{judgement.measure} {written(judgement.last, unit)} {unit.value}".rstrip()


def fault_cells(round_: Round, began_after: float) -> list[str]:
    """Return the cells of a fault that began so many seconds after the watch."""
    well = "never" if round_.well_after is None else f"{round_.well_after:.2f} s"
    counts = round_.counts
    return [
        round_.name,
        f"{began_after / 60:.1f} min",
        well,
        f"{round_.bound:.1f} s",
        f"{counts.acknowledged:,}",
        f"{counts.refused + counts.unsent:,}",
        f"{counts.unknown:,}",
    ]


def lag_cells(name: str, lags: Lags) -> list[str]:
    """Return the cells of endings."""
    return [name, f"{lags.count:,}", *(f"{value:.2f} s" for value in (lags.p50, lags.p99, lags.most))]


def draw(header: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> Table:
    """Return a table of which the first ``names`` columns are text."""
    table = Table()
    for number, name in enumerate(header):
        table.add_column(name, no_wrap=True, justify="left" if number < names else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_of(header: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> list[str]:
    """Return the lines of the same table in Markdown."""
    rule = ["---" if number < names else "---:" for number in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]

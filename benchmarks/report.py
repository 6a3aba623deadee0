"""What was found, for people as tables and for programs as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group
from rich.table import Table

from benchmarks.measures import TIMES, Measurement, Target, ratio

#: Units of which fractions are not worth showing.
_WHOLE = {"1/s", "buffers"}


def draw_tables(measurements: Sequence[Measurement], targets: Sequence[Target]) -> Group:
    """Return the ways with their ratios, and the targets with what was measured."""
    return Group(_draw_measurements(measurements), "", _draw_targets(targets))


def _draw_measurements(measurements: Sequence[Measurement]) -> Table:
    table = Table(title="Measured: medians, and the least and the most of the runs", title_justify="left")
    for name in ("section", "way"):
        table.add_column(name, overflow="fold")
    for name in ("median", "least", "most", "unit", "ratio"):
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    table.add_column("note", overflow="fold")
    last = None
    for one in measurements:
        if last is not None and one.section != last:
            table.add_section()
        times = ratio(one, measurements)
        several = len(one.runs) > 1
        table.add_row(
            "" if one.section == last else one.section,
            one.way,
            shown(one.median, one.unit),
            shown(min(one.runs), one.unit) if several else "",
            shown(max(one.runs), one.unit) if several else "",
            one.unit,
            "" if times is None else f"{times:,.2f} {TIMES}",
            one.note,
        )
        last = one.section
    return table


def _draw_targets(targets: Sequence[Target]) -> Table:
    table = Table(title="Targets", title_justify="left")
    table.add_column("target", no_wrap=True)
    table.add_column("what", overflow="fold")
    for name in ("bound", "measured", "holds"):
        table.add_column(name, justify="left" if name == "holds" else "right", no_wrap=True)
    for target in sorted(targets, key=lambda target: target.name):
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:,.4g} {target.unit}"
        measured = f"{shown(target.measured, target.unit)} {target.unit}"
        table.add_row(target.name, target.what, bound, measured, "yes" if target.holds else "[bold]NO[/bold]")
    return table


def shown(value: float, unit: str) -> str:
    """Return a figure with as many digits as its unit is worth."""
    return f"{value:,.0f}" if unit in _WHOLE else f"{value:,.2f}" if unit in {TIMES, "ms", "MiB"} else f"{value:,.3f}"


def write_json(
    directory: Path,
    *,
    measurements: Sequence[Measurement],
    targets: Sequence[Target],
    circumstances: dict[str, object],
    now: datetime,
) -> Path:
    """Keep it all in a file that is named for the moment, in UTC, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"
    found = {
        "at": now.astimezone(UTC).isoformat(timespec="seconds"),
        **circumstances,
        "measurements": [
            asdict(one) | {"median": one.median, "ratio": ratio(one, measurements)} for one in measurements
        ],
        "targets": [asdict(target) | {"holds": target.holds} for target in targets],
    }
    path.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    return path

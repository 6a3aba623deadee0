"""How much each figure may grow in an hour.

With an interval of 1 s, an hour of the soak has as many sweeps as sixty hours at the default of 60 s: a worker of
100 MiB that stays within these bounds takes two months to double.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Unit(StrEnum):
    """Of what a figure is a number."""

    COUNT = ""
    BYTES = "MiB"
    SECONDS = "s"


@dataclass(frozen=True, slots=True)
class Bound:
    """The growth that is let pass: ``absolute``, or ``share`` of the figure's median, whichever is more. In an hour."""

    unit: Unit
    absolute: float
    share: float = 0.0

    def allowed(self, median: float) -> float:
        """Return what a figure around ``median`` may grow in an hour, in its unit (bytes for bytes)."""
        return max(self.absolute, self.share * median)


MEBIBYTE = 1 << 20

#: Of one Python process: an hour of it is a day and a half of sweeps.
_PROCESS_MEMORY = Bound(Unit.BYTES, 4 * MEBIBYTE)
#: Of all processes of a server together, each of which fills its caches for as long as it lives.
_SERVER_MEMORY = Bound(Unit.BYTES, 16 * MEBIBYTE)
#: A leak with each fault that a process lives through would be ten in an hour.
_FEW = Bound(Unit.COUNT, 2, share=0.02)
#: A file never gives back what it has, and takes more when a busy minute needs it.
_FILE = Bound(Unit.BYTES, MEBIBYTE, share=0.2)
#: These go up and down with the traffic.
_ROWS = Bound(Unit.COUNT, 1000, share=0.2)

BOUNDS: Mapping[str, Bound] = MappingProxyType(
    {
        "resident memory": _PROCESS_MEMORY,
        "private memory": _SERVER_MEMORY,
        "used memory": Bound(Unit.BYTES, MEBIBYTE),
        "descriptors": _FEW,
        # Each process of PostgreSQL keeps open what it has met of a table's files.
        "descriptors in total": Bound(Unit.COUNT, 100, share=0.1),
        "threads": _FEW,
        "processes": _FEW,
        "connections": _FEW,
        "oldest transaction": Bound(Unit.SECONDS, 1),
        "size": _FILE,
        "rows": _ROWS,
        "active rows": _ROWS,
        "dead rows": _ROWS,
        "bytes a row": Bound(Unit.COUNT, 20, share=0.2),
        # A process opens another when one more of its threads asks at the same time, as in its first backlog.
        "clients": Bound(Unit.COUNT, 8),
        "keys": Bound(Unit.COUNT, 5),
        "length": Bound(Unit.COUNT, 5),
        "files": _FEW,
        "lag, median": Bound(Unit.SECONDS, 0.25),
        "lag, p99": Bound(Unit.SECONDS, 1.0),
    }
)
#: What is shown and not judged: it depends on what else the machine has to do.
UNITS_OF_OTHERS: Mapping[str, Unit] = MappingProxyType({"acknowledged a second": Unit.COUNT})


def written(value: float, unit: Unit) -> str:
    """Return a value for people, without its unit."""
    if unit is Unit.BYTES:
        return f"{value / MEBIBYTE:,.2f}"
    if unit is Unit.SECONDS:
        return f"{value:.3f}"
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def unit_of(measure: str) -> Unit:
    """Return the unit of a figure."""
    bound = BOUNDS.get(measure)
    return UNITS_OF_OTHERS[measure] if bound is None else bound.unit

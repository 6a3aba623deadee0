"""A run of the benchmarks: its options, its servers, what it has found so far."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.measures import Measurement, Target
from benchmarks.postgresql import PostgreSQL
from benchmarks.rows import Layout, Shape


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    #: Rows of the table.
    size: int
    #: How often each way is measured.
    runs: int
    #: Where the due rows lie.
    layout: Layout
    #: For how long deadlines pass, in the section ``lag``, in seconds.
    seconds: int
    #: How many times as large the large table of the section ``flat`` is.
    times: int
    #: A message history to simulate.
    history: Path | None


@dataclass(slots=True)
class Bench:
    """What the sections are given, and where they put what they find."""

    options: Options
    console: Console
    #: For what a section writes: logs, SQLite files. It is removed at the end.
    directory: Path
    postgresql: PostgreSQL
    redis_url: str
    #: Loaded databases, by what they hold.
    templates: dict[Shape, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Show that something is done."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def doing(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show, on a terminal, that something goes on; yields what changes the text."""
        with self.console.status(text) as status:
            yield status.update

    def measure(
        self, section: str, ways: Mapping[str, Callable[[], float]], *, unit: str = "s"
    ) -> dict[str, list[float]]:
        """Take each of ``ways`` in turn, ``runs`` times over, and return their figures."""
        figures: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(1, self.options.runs + 1):
            for way, take in ways.items():
                with self.doing(f"{section} {number}/{self.options.runs}: {way}"):
                    figures[way].append(take())
                self.say(f"{section} {number}/{self.options.runs}  {figures[way][-1]:10,.3f} {unit}  {way}")
        return figures

    def keep(self, *measurements: Measurement) -> None:
        """Keep measurements for the table."""
        self.measurements.extend(measurements)

    def judge(self, *targets: Target) -> None:
        """Keep targets for the table."""
        self.targets.extend(targets)

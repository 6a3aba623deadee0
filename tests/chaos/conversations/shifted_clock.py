"""Clocks of real servers and processes that can be set: PostgreSQL's, Redis's, and those of all others.

A library of a page (shifted_clock.c), compiled here and preloaded, adds to the wall clock what a file says. Whatever
starts while the clocks are ``installed`` has it, and a step shows in all of them at once. Wants a C compiler.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_NANOSECONDS = 1_000_000_000
#: The programs that have a clock of their own.
POSTGRESQL, REDIS, OTHERS = "postgres", "redis-server", "others"


def find_compiler() -> str | None:
    """Return the C compiler of this machine, None where there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class ShiftedClocks:
    """The clocks, below ``directory``; all show the right time until they are shifted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.library = directory / "shifted_clock.so"
        for program in (POSTGRESQL, REDIS, OTHERS):
            self.shift(timedelta(0), program)

    def shift(self, by: timedelta, *programs: str) -> None:
        """Have the clocks of ``programs``, all where none is named, be ``by`` ahead of the right time from now on."""
        nanoseconds = round(by / timedelta(microseconds=1)) * 1000
        for program in programs or (POSTGRESQL, REDIS, OTHERS):
            # In place: they have it mapped.
            with os.fdopen(os.open(self.directory / program, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as clock:
                clock.write(struct.pack("=q", nanoseconds))

    def set(self, now: datetime, *programs: str) -> None:
        """Have them show ``now``, and go on from there."""
        self.shift(now - datetime.now(UTC), *programs)

    def compile(self) -> None:
        """Make the library. Raises FileNotFoundError without a C compiler."""
        compiler = find_compiler()
        if compiler is None:
            raise FileNotFoundError("no C compiler: cc, gcc or clang is wanted to shift the clocks of servers")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(self.library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def installed_clocks() -> Iterator[ShiftedClocks]:
    """Yield clocks that whatever is started meanwhile has."""
    with tempfile.TemporaryDirectory(prefix="adjourn-clocks-") as name:
        directory = Path(name)
        # PostgreSQL runs as another user when this is root.
        directory.chmod(0o755)
        clocks = ShiftedClocks(directory)
        clocks.compile()
        before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "CHAOS_CLOCKS")}
        os.environ |= {"LD_PRELOAD": str(clocks.library), "CHAOS_CLOCKS": str(directory)}
        try:
            yield clocks
        finally:
            for variable, value in before.items():
                if value is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = value

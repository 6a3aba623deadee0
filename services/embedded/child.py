"""A command that runs under ``adjourn run``: started, its lines passed on, stopped."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TextIO

from services.embedded import tether
from services.errors import AdjournError

#: How the masters of dramatiq and Periodiq write before, or without, loading our format.
_FOREIGN_LINE = re.compile(
    r"\[(?P<at>[^\]]+)\] \[PID (?P<pid>\d+)\] \[[^\]]+\] \[(?P<logger>[^\]]+)\] \[(?P<level>[A-Z]+)\] (?P<message>.*)"
)


def find_command(name: str) -> str:
    """Return the path of a command installed with Adjourn, or else of PATH.

    Raises AdjournError when there is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise AdjournError(f"the command {name} is not installed beside {sys.executable} nor on PATH")
    return found


def tethered(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that run a command which does not outlive this process."""
    # By its path, isolated: the directory that a person stands in may have a package `services` of its own.
    return [sys.executable, "-I", tether.__file__, str(os.getpid()), *arguments]


class Child:
    """One of the commands that a run is made of."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: TextIO,
        on_exit: Callable[[], None],
    ) -> None:
        self.name = name
        # A process group of its own: Ctrl-C is for this process, which then stops its children in order.
        self._process = subprocess.Popen(  # noqa: S603 - our own commands
            tethered(arguments),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._on_exit = on_exit
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe, see above
        self._reader = threading.Thread(target=_pass_on, args=(self._process.stdout, output), daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def finish(self, *, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for its end, then kill it and whatever it started."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(timeout, 0))
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=1)

    def _watch(self) -> None:
        self._process.wait()
        self._on_exit()


def _pass_on(lines: IO[str], output: TextIO) -> None:
    """Write each line to ``output``; those that are not in our format yet go to the log, in it."""
    for line in lines:
        foreign = _FOREIGN_LINE.match(line)
        if foreign is None:
            # Whoever read our lines may be gone: go on taking them, or the commands would wait for us forever.
            with suppress(OSError, ValueError):
                output.write(line)
                output.flush()
            continue
        logger = logging.getLogger(foreign["logger"])
        level = logging.getLevelNamesMapping().get(foreign["level"], logging.INFO)
        if logger.isEnabledFor(level):
            record = logger.makeRecord(logger.name, level, "", 0, "%s", (foreign["message"],), None)
            record.process = int(foreign["pid"])
            logger.handle(record)

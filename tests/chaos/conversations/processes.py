"""The real ``dramatiq actors`` and ``periodiq actors``, each a process group with a log and a directory of its own."""

import itertools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from services.embedded.child import tethered
from tests.acceptance.commands import BIN, PROJECT, environment
from tests.support import attempts, free_port

#: What has to be on PYTHONPATH for CHAOS_CLOCK_SHIFT to count.
CLOCK = Path(__file__).parents[1] / "startup"
#: What a command may take to end after SIGTERM: the batch in hand is let commit.
END_TIMEOUT = 30.0
_count = itertools.count(1)


class Process:
    """A command under test, with the processes that it starts. Its name is also that of its log."""

    def __init__(self, kind: str, arguments: Sequence[str], directory: Path, variables: Mapping[str, str]) -> None:
        self.name = f"{kind}-{next(_count):03}"
        self.kind = kind
        #: Whether its end is the harness's doing.
        self.ended_by_us = False
        self.log = directory / f"{self.name}.log"
        self.metrics_port = free_port()
        self.environment = {
            # This checkout's code, also where another one is installed.
            "PYTHONPATH": str(PROJECT),
            "NO_COLOR": "1",
            "dramatiq_prom_port": str(self.metrics_port),
            **variables,
        }
        where = directory / self.name
        where.mkdir()
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                tethered([str(BIN / arguments[0]), *arguments[1:]]),
                cwd=where,
                env=environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    @property
    def children(self) -> list[int]:
        """The processes that it started, first to last."""
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def pause(self) -> None:
        """Stop it and what it started where they are."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and what it started without a chance to do anything, and return when it is gone."""
        self.ended_by_us = True
        self._signal(signal.SIGKILL)
        self._process.wait()

    def kill_command(self) -> None:
        """End the command alone so, and leave what it started behind."""
        self.ended_by_us = True
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to stop, as an init system does: the command alone."""
        self.ended_by_us = True
        self._process.terminate()

    def finish(self) -> int | None:
        """Wait for its end; return its exit code, None when it had to be killed."""
        for _ in attempts(END_TIMEOUT):
            if self._process.poll() is not None:
                # What it started and left, if anything.
                self._signal(signal.SIGKILL)
                return self._process.returncode
        self.kill()
        return None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

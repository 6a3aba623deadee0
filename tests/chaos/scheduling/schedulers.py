"""The real ``periodiq actors``, each a process with a log of its own."""

import itertools
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from services.embedded.child import tethered
from tests.acceptance.commands import BIN, PROJECT, environment
from tests.chaos.proxy import Proxy
from tests.chaos.scheduling.bounds import INTERVAL, LEASE, RENEW

_STARTUP = Path(__file__).parents[1] / "startup"
_count = itertools.count(1)


class Scheduler:
    """One process, behind its proxy. Its name is also that of its log."""

    def __init__(self, proxy: Proxy, directory: Path, *, clock_shift: float = 0, variables: Mapping[str, str]) -> None:
        self.name = f"scheduler-{next(_count):03}"
        self.proxy = proxy
        self.clock_shift = clock_shift
        #: Whether its end is the harness's doing.
        self.ended_by_us = False
        self.log = directory / f"{self.name}.log"
        variables = {
            "REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "DATABASE_URL": f"sqlite:///{directory / 'unused.db'}",
            "BACKGROUND_TASK_INTERVAL": str(INTERVAL),
            "BACKGROUND_TASK_LEASE_TIMEOUT": f"{LEASE:g}s",
            "BACKGROUND_TASK_RENEW_INTERVAL": f"{RENEW:g}s",
            "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0",
            # Ticks of sweeps only.
            "BACKGROUND_TASK_ENABLE_METRICS": "false",
            "NO_COLOR": "1",
            # This checkout's code, also where another one is installed.
            "PYTHONPATH": os.pathsep.join([str(_STARTUP), str(PROJECT)] if clock_shift else [str(PROJECT)]),
            **variables,
        }
        if clock_shift:
            variables["CHAOS_CLOCK_SHIFT"] = str(clock_shift)
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                tethered([str(BIN / "periodiq"), "actors"]),
                cwd=directory,
                env=environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def __str__(self) -> str:
        shift = f", clock {self.clock_shift:+.0f} s" if self.clock_shift else ""
        return f"{self.name} (pid {self.pid}{shift})"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it without a chance to do anything, and return when it is gone."""
        self.ended_by_us = True
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Ask it to stop, as an init system does."""
        self.ended_by_us = True
        self.process.terminate()

    def pause(self) -> None:
        """Stop it where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

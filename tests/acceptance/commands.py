"""Run the real commands, as a person or an init system would."""

import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.support import free_port, wait_for

BIN = Path(sys.executable).parent
PROJECT = Path(__file__).resolve().parents[2]
#: How long a command may take to end where it does so at once: two seconds, and what a busy machine adds.
PROMPTLY = 2 + 3
_numbers = itertools.count()
_OURS = ("BACKGROUND_TASK_", "ADJOURN_", "LOG_", "DATABASE_URL", "REDIS_URL", "dramatiq_", "PROMETHEUS_")


class Command:
    """A command, with what it has written so far: in whole lines, as long as it runs."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        has_ended = self.process.poll() is not None
        written = self._output.read_bytes()
        # Whoever reads a file may meet a line, or a letter, of which the other half is just being written.
        return (written if has_ended else written[: written.rfind(b"\n") + 1]).decode()

    def logged(self) -> list[dict[str, Any]]:
        """Return the lines that it has logged as JSON."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def wait_for_output(self, text: str, *, times: int = 1, seconds: float = 30) -> None:
        wait_for(lambda: self.output.count(text) >= times, seconds=seconds, what=f"{text!r} in the output")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(timeout=seconds)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without our variables, and with those that are given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # Hundreds of commands are started here, and each would compile all that it imports.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"dramatiq_prom_port": str(free_port())} | dict(given)


@contextmanager
def running(*arguments: str, directory: Path, variables: Mapping[str, str]) -> Iterator[Command]:
    """Run a command of ours in the background; whatever is left of it at the end is killed."""
    output = directory / f"{arguments[0]}-{next(_numbers)}.log"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [str(BIN / arguments[0]), *arguments[1:]],
            cwd=directory,
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Command(process, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answer(port: str, path: str) -> tuple[int, dict[str, Any]]:
    """Return what a command says of its health: the code and the report; (0, {}) while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as told:
            return told.status, json.load(told)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)
    except (OSError, HTTPException):  # the latter of an answer that broke off
        return 0, {}


def run(
    *arguments: str, directory: Path, variables: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    return subprocess.run(
        [str(BIN / arguments[0]), *arguments[1:]],
        cwd=directory,
        env=environment(variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def processes_about(*texts: str) -> list[int]:
    """Return the processes whose command line and environment name all of ``texts``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if all(text.encode() in about for text in texts) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found

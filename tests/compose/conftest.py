"""The stack of ``make compose-test``, started from nothing and taken away at the end."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack


def _require_engine(compose: str) -> None:
    """End the tests, with a line, where nothing could be started."""
    engine = compose.split(maxsplit=1)[0].removesuffix("-compose")
    for command in ([*compose.split(), "version"], [engine, "info"]):
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        except FileNotFoundError:
            reason = f"there is no {command[0]} here"
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout).strip().splitlines() or ["nothing"]
            reason = f"{' '.join(command)} says: {said[0]}"
        except subprocess.TimeoutExpired:
            reason = f"{' '.join(command)} does not answer"
        else:
            continue
        pytest.exit(f"make compose-test needs a container engine: {reason}; COMPOSE names another command", 2)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of compose.yaml, healthy. What a test stops it starts again."""
    compose = os.environ.get("COMPOSE") or "docker compose"
    _require_engine(compose)
    stack = Stack(compose, tmp_path_factory.mktemp("compose"))
    stack.remove()
    try:
        started = time.monotonic()
        stack.compose("build")
        built = time.monotonic()
        stack.up()
        stack.wait_until_up()
        sys.stdout.write(f"built in {built - started:.1f} s, all healthy {time.monotonic() - built:.1f} s later\n")
        yield stack
    finally:
        if request.session.testsfailed:
            sys.stdout.write(stack.compose("ps", "--all") + stack.compose("logs", "--tail", "40"))
        stack.remove()

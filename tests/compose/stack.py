"""A stack of compose.yaml, as a project of its own: other names, volumes, ports and image than one that is in use."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.support import attempts, free_port

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
NAME = "adjourn-compose-test"
#: What the project of the test is started with: sweeps come often, so that nobody waits long for one.
SETTINGS = {"BACKGROUND_TASK_INTERVAL": "5", "POSTGRES_PASSWORD": "p@ss/w:rd% ", "GRAFANA_PASSWORD": "look"}
#: Those that run, with their number; `migrate` has run.
REPLICAS = {"redis": 1, "postgres": 1, "worker": 1, "scheduler": 2, "prometheus": 1, "grafana": 1}


class Stack:
    """The services of compose.yaml, on the engine that ``compose`` (``docker compose``, ``podman-compose``) drives."""

    def __init__(self, compose: str, directory: Path) -> None:
        command = compose.split()
        #: The engine's own command: docker, podman.
        self._engine = command[0].removesuffix("-compose")
        settings = directory / "env"
        self.prometheus = f"http://127.0.0.1:{free_port()}"
        self.grafana = f"http://127.0.0.1:{free_port()}"
        ports = {"PROMETHEUS_PORT": self.prometheus, "GRAFANA_PORT": self.grafana}
        given = SETTINGS | {name: url.rpartition(":")[2] for name, url in ports.items()}
        settings.write_text("".join(f"{name}='{value}'\n" for name, value in given.items()))
        self._compose = [*command, "--project-name", NAME, "--file", str(PROJECT / "compose.yaml")]
        self._compose += ["--env-file", str(settings)]
        # What the environment says goes before the file.
        read = set(re.findall(r"\$\{(\w+)", (PROJECT / "compose.yaml").read_text()))
        self._environment = {name: value for name, value in os.environ.items() if name not in read}

    def compose(self, *arguments: str) -> str:
        """Run a verb of compose; return what it prints."""
        return self._run([*self._compose, *arguments])

    def engine(self, *arguments: str) -> str:
        """Run a command of the engine; return what it prints."""
        return self._run([self._engine, *arguments])

    def up(self, *arguments: str) -> None:
        """Start what does not run, or not as compose.yaml has it."""
        self.compose("up", "--detach", *arguments)

    def remove(self) -> None:
        """Take everything away: containers, volumes and the image."""
        self.compose("--profile", "traffic", "down", "--volumes", "--remove-orphans")
        self._run([self._engine, "image", "rm", "--force", NAME], check=False)

    def containers(self, service: str) -> list[str]:
        """Return the ids of the containers of a service, also of those that have ended."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        """Return all that the engine knows of a container."""
        found: list[dict[str, Any]] = json.loads(self.engine("inspect", container))
        return found[0]

    def run_in(self, container: str, *command: str) -> str:
        """Run a command in a container that is up; return what it prints."""
        return self.engine("exec", container, *command)

    def signal(self, container: str, name: str) -> None:
        """Send a signal to the main process of a container, which is the init's child."""
        self.run_in(container, "sh", "-c", f"kill -s {name} $(cat /proc/1/task/1/children)")

    def is_healthy(self, container: str) -> bool:
        """Return whether a container runs and its health check says that all is well."""
        state = self.inspect(container)["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def is_up(self, **replicas: int) -> bool:
        """Return whether all services are there and healthy, ``replicas`` of some and else what compose.yaml says."""
        for service, count in (REPLICAS | replicas).items():
            containers = self.containers(service)
            if len(containers) != count or not all(self.is_healthy(container) for container in containers):
                return False
        return True

    def wait_until_up(self, *, seconds: float = 120, **replicas: int) -> None:
        """Wait until ``is_up``; fail after ``seconds`` with what the engine says of each container."""
        for _ in attempts(seconds, pause=0.5):
            if self.is_up(**replicas):
                return
        raise AssertionError(f"not all healthy within {seconds:g} s:\n{self.compose('ps', '--all')}")

    def status(self) -> dict[str, Any]:
        """Return what ``adjourn status --json`` says in one of the workers."""
        found: dict[str, Any] = json.loads(self.run_in(self.containers("worker")[0], "adjourn", "status", "--json"))
        return found

    def leader(self) -> str | None:
        """Return the container of the scheduler that leads, None when none does."""
        leader = self.status()["leader"]
        return None if leader is None else next(c for c in self.containers("scheduler") if c.startswith(leader["host"]))

    def sql(self, statement: str) -> list[str]:
        """Run a statement with psql; return its rows, as text."""
        [postgres] = self.containers("postgres")
        psql = ["psql", "-U", "adjourn", "-d", "adjourn", "-qAtX", "-v", "ON_ERROR_STOP=1"]
        return self.run_in(postgres, *psql, "-c", statement).split()

    def ask(self, url: str, **headers: str) -> Any:
        """Return the JSON that a URL answers with."""
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return json.load(answer)

    def _run(self, command: list[str], *, check: bool = True) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=PROJECT, env=self._environment, timeout=900
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout


def eventually(condition: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Return what ``condition`` returns once that is true, asked twice a second; fail after ``seconds``."""
    started = time.monotonic()
    for _ in attempts(seconds, pause=0.5):
        if found := condition():
            return found
    raise AssertionError(f"{what} did not come about within {time.monotonic() - started:.0f} s")

"""compose.yaml, as it is without a .env."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deployments.started import PROJECT, Started

FILE = PROJECT / "compose.yaml"
#: The services that run our image.
OURS = ("migrate", "worker", "scheduler", "traffic")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_UNITS = {"ms": 0.001, "s": 1, "m": 60}


def read_compose() -> dict[str, Any]:
    """Return what the file says; a variable is its default."""
    text = _VARIABLE.sub(lambda found: found[2] or "", FILE.read_text())
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def interpolated() -> set[str]:
    """Return the variables that the file takes from .env."""
    return {found[1] for found in _VARIABLE.finditer(FILE.read_text())}


def started_by_compose() -> list[Started]:
    """Return the processes of ours."""
    services = read_compose()["services"]
    return [_started(name, services[name]) for name in OURS]


def seconds(duration: str) -> float:
    """Return what a duration such as ``1m30s`` is in seconds."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m)", duration))


def on_the_host(service: Mapping[str, Any], path: str) -> Path:
    """Return what a container sees at ``path``, which must lie in a directory of this project that is mounted."""
    for volume in service["volumes"]:
        source, target, *_ = str(volume).split(":")
        if source.startswith(".") and Path(path).is_relative_to(target):
            return PROJECT / source / Path(path).relative_to(target)
    raise AssertionError(f"nothing of this project is mounted at {path}")


def _started(name: str, service: Mapping[str, Any]) -> Started:
    return Started(
        name=f"compose.yaml: {name}",
        role=name,
        command=tuple(service["command"]),
        # Ten seconds are Compose's own.
        grace=seconds(service.get("stop_grace_period", "10s")),
        variables={variable: str(value or "") for variable, value in service["environment"].items()},
    )

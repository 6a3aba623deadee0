"""The units of deploy/systemd, with the drop-ins that count for them."""

import re
import shlex
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deployments.started import PROJECT, Started

DIRECTORY = PROJECT / "deploy" / "systemd"
FILES = tuple(sorted(DIRECTORY.glob("*.service")))
#: Where the units expect the virtual environment.
INSTALLED = "/opt/adjourn/bin/"
_UNITS = {"": 1, "s": 1, "min": 60}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit with its settings; one that is given several times has several values."""

    name: str
    values: dict[str, list[str]]

    def value(self, setting: str) -> str:
        """Return the one value of a setting, such as ``Service.Type``."""
        (value,) = self.values[setting]
        return value


def read_unit(file: Path) -> Unit:
    """Return what a unit says, and the drop-ins for all units whose name begins as its own."""
    prefix = file.stem[: file.stem.index("-") + 1]
    drop_ins = sorted((DIRECTORY / f"{prefix}.service.d").glob("*.conf"))
    values: dict[str, list[str]] = defaultdict(list)
    section = ""
    for line in (line for one in (file, *drop_ins) for line in one.read_text().splitlines()):
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = heading[1]
        elif line and not line.startswith(("#", ";")):
            setting, equals, value = line.partition("=")
            assert equals, f"{file.name}: {line}"
            values[f"{section}.{setting}"].append(value)
    return Unit(file.stem, dict(values))


def started_by_systemd() -> list[Started]:
    """Return the processes of ours."""
    return [_started(read_unit(file)) for file in FILES]


def install_units(directory: Path, binaries: Path) -> list[str]:
    """Copy the units to ``directory`` for an environment whose commands are in ``binaries``; return their names."""
    shutil.copytree(DIRECTORY, directory, dirs_exist_ok=True)
    for file in FILES:
        (directory / file.name).write_text(file.read_text().replace(INSTALLED, f"{binaries}/"))
    return [file.name for file in FILES]


def systemd_analyze() -> str:
    """Return the path of systemd-analyze; the test is skipped where there is none."""
    path = shutil.which("systemd-analyze")
    if path is None:
        pytest.skip("systemd-analyze is not installed")
    return path


def _started(unit: Unit) -> Started:
    program, *arguments = shlex.split(unit.value("Service.ExecStart"))
    assert program.startswith(INSTALLED), program
    stop: Sequence[str] = unit.values.get("Service.TimeoutStopSec", ("90s",))  # 90 s are systemd's own
    number, suffix = re.fullmatch(r"(\d+)(\w*)", stop[-1]).groups()  # type: ignore[union-attr]
    return Started(
        name=f"systemd: {unit.name}",
        role=unit.name.removeprefix("adjourn-"),
        command=(program.removeprefix(INSTALLED), *arguments),
        grace=float(number) * _UNITS[suffix],
        variables=dict(one.split("=", 1) for one in unit.values.get("Service.Environment", ())),
        secrets=frozenset({"DATABASE_URL", "REDIS_URL"}),
    )

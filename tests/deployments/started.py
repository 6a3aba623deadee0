"""A process of ours as one of the ways to deploy it starts it, and whether the code has such a command."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import dramatiq.cli
import periodiq
from typer.main import get_command

from services.cli import app
from services.settings import Settings, load_settings

PROJECT = Path(__file__).resolve().parents[2]
#: What dramatiq itself reads; the first of them is also where the processes of a worker keep what they tell.
_DRAMATIQ = {"dramatiq_prom_db", "dramatiq_worker_timeout", "dramatiq_queue_prefetch"}
#: What libpq reads where DATABASE_URL does not say it.
_LIBPQ = {"PGPASSWORD"}


@dataclass(frozen=True, slots=True)
class Started:
    """One of our processes, as compose.yaml, a manifest or a unit has it."""

    #: Which way, and what it is called there.
    name: str
    #: worker, scheduler, migrate or traffic.
    role: str
    command: tuple[str, ...]
    #: How long it may take to stop, in seconds.
    grace: float
    #: Those whose values stand there.
    variables: Mapping[str, str] = field(default_factory=dict)
    #: Those whose values come from elsewhere.
    secrets: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name

    def settings(self) -> Settings:
        """Return the settings that it gets; raises what makes no sense of them."""
        known = variables_of_settings()
        return load_settings(**{name: value for name, value in self.variables.items() if name in known and value})


def variables_of_settings() -> set[str]:
    """Return the variables that ``services.settings`` reads."""
    return {str(one.alias) for one in Settings.model_fields.values()}


def known_variables() -> set[str]:
    """Return the variables that a process of ours reads, or a library of its."""
    return variables_of_settings() | _DRAMATIQ | _LIBPQ


def parse_command(command: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of a command of ours, as it reads them; raises when it does not take them."""
    program, *arguments = command
    assert program in {script.name for script in entry_points(group="console_scripts")}, program
    if program == "adjourn":
        return _parse_ours(arguments)
    parsers = {"dramatiq": dramatiq.cli.make_argument_parser, "periodiq": periodiq.make_argument_parser}
    parsed: dict[str, Any]
    try:
        parsed = vars(parsers[program]().parse_args(arguments))
    except SystemExit as end:
        raise AssertionError(f"{program} does not take {arguments}") from end
    assert importlib.util.find_spec(parsed["broker"]), parsed["broker"]
    return parsed


def _parse_ours(arguments: list[str]) -> dict[str, Any]:
    group: Any = get_command(app)
    first, *rest = arguments
    assert first in group.commands, first
    parsed: dict[str, Any] = group.commands[first].make_context(first, rest).params
    return parsed

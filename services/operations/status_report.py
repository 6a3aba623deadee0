"""``adjourn status``: one look at the cluster, printed."""

import sys
from typing import TextIO

from rich.console import Console

from services.operations.lookout import Lookout
from services.operations.overview import Overview
from services.operations.status_json import json_text
from services.operations.status_screen import draw_screen
from services.settings import load_settings

#: Wide enough that no row is folded where there is no terminal to fit.
_WIDTH_OF_A_FILE = 1_000


def print_status(*, as_json: bool) -> bool:
    """Print the state of what the environment names; return whether both Redis and the database could be asked.

    Raises SettingsError.
    """
    with Lookout(load_settings()) as lookout:
        overview = lookout.look()
    if as_json:
        print(json_text(overview))  # noqa: T201 - what was asked for
    else:
        print_screen(overview)
    return overview.is_complete


def print_screen(overview: Overview, *, stream: TextIO | None = None) -> None:
    """Print the state for a person, on standard output unless told otherwise."""
    stream = stream or sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_A_FILE, highlight=False)
    console.print(draw_screen(overview, width=console.width))

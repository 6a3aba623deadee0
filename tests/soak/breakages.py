"""Leaks on purpose: a verdict that never found one is worth nothing until it does.

python -m tests.soak --short --break files
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.commands import PROJECT

_DIRECTORY = Path(__file__).parent / "leak"


@dataclass(frozen=True, slots=True)
class Breakage:
    """What is made to grow."""

    what: str
    environment: Mapping[str, str] = field(default_factory=dict)
    statements: tuple[str, ...] = ()


def _of_processes(leak: str) -> Mapping[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(_DIRECTORY), str(PROJECT)]), "SOAK_LEAK": leak}


BREAKAGES: Mapping[str, Breakage] = {
    "memory": Breakage("each process keeps 200 kB more every second", _of_processes("memory")),
    "files": Breakage("each process opens a file every second", _of_processes("files")),
    "threads": Breakage("each process starts a thread every second", _of_processes("threads")),
    "vacuum": Breakage(
        "nothing dead is cleared away",
        statements=tuple(
            f"ALTER TABLE {table} SET (autovacuum_enabled = off)"
            for table in ("conversations", "conversation_events", "latest_conversations")
        ),
    ),
}

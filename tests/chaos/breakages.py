"""The product broken on purpose: a checker that never found anything is worth nothing until it does.

    python -m tests.chaos --short --break recheck

Each takes away something that a promise rests on, in the real processes and in the clients.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.acceptance.commands import PROJECT
from tests.chaos.mutations import MUTATIONS

_STARTUP = Path(__file__).parent / "startup"


@dataclass(frozen=True, slots=True)
class Breakage:
    """What is taken away."""

    what: str
    #: The part of the chaos that has to find it.
    part: Literal["scheduling", "conversations"] = "conversations"
    #: The mutation of workers and schedulers, by its name.
    of_processes: str = ""
    #: The mutation of the clients, which call the services in this process.
    of_clients: str = ""
    #: What is done to the database, before anything else is.
    statements: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that break a process from its start."""
        if not self.of_processes:
            return {}
        return {"PYTHONPATH": os.pathsep.join([str(_STARTUP), str(PROJECT)]), "CHAOS_BREAKAGE": self.of_processes}

    def break_clients(self) -> None:
        """Break the services in this process."""
        if self.of_clients:
            MUTATIONS[self.of_clients]()


BREAKAGES: Mapping[str, Breakage] = {
    "recheck": Breakage(
        "sweeps read which are due and end them by id, without another look at the deadline", of_processes="end_by_id"
    ),
    "locks": Breakage(
        "sweeps neither lock nor look at the status again, and an end is not unique in the schema",
        of_processes="end_again",
        statements=(
            "DROP TRIGGER conversations_stay_ended ON conversations",
            "DROP INDEX conversation_events_conv_id_ended",
        ),
    ),
    "unique-index": Breakage(
        "session keys of active conversations are not unique in the schema, and openings do not look twice",
        of_clients="open_blindly",
        statements=("DROP INDEX conversations_active_session_key",),
    ),
    "activity": Breakage("activity is acknowledged, and not written", of_clients="record_nothing"),
    "status": Breakage("each end is named after the idle deadline", of_processes="name_idle_always"),
    "clock": Breakage("workers go by their own clocks", of_processes="trust_own_clock"),
    "late": Breakage("what is due is ended three seconds later", of_processes="sweep_late"),
    "fencing": Breakage(
        "a tick is enqueued whoever leads, and whether or not its slot is claimed",
        part="scheduling",
        of_processes="enqueue_unfenced",
    ),
    "mark": Breakage(
        "a tick is enqueued whether or not its slot is claimed", part="scheduling", of_processes="enqueue_unmarked"
    ),
    "election": Breakage("whoever asks for the lease gets it", part="scheduling", of_processes="lead_anyway"),
    "durability": Breakage(
        "PostgreSQL acknowledges commits before they are written",
        statements=(
            "ALTER SYSTEM SET synchronous_commit = off",
            "ALTER SYSTEM SET wal_writer_delay = '10s'",
            "SELECT pg_reload_conf()",
        ),
    ),
}

"""Where the worker and the scheduler of this machine answer: by its variables, or as an ``adjourn run`` has noted."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from services.health import Role

#: Where ``adjourn run`` writes its pid, and where its two commands answer: their usual ports may be taken.
ENDPOINTS_FILE = "endpoints.json"

#: The variable that names the port of each, and the port when it is not set.
PORTS = {
    Role.WORKER: ("dramatiq_prom_port", 9191),
    Role.SCHEDULER: ("BACKGROUND_TASK_SCHEDULER_METRICS_PORT", 9192),
}
#: Addresses that mean every one of this machine, and one to reach it by.
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - none is bound here


def base_url(role: Role, environment: Mapping[str, str] = os.environ) -> str:
    """Return where the worker or the scheduler of this machine answers, as far as the environment tells."""
    variable, usual = PORTS[role]
    port = environment.get(variable) or None
    if port in {None, "0"}:
        noted = _noted(role, environment)
        if noted is not None:
            return noted
    host = environment.get("dramatiq_prom_host", "")
    host = _EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port or usual}"


def _noted(role: Role, environment: Mapping[str, str]) -> str | None:
    """Return where an ``adjourn run`` says that it is; None when there is none, or when it was killed."""
    directory = Path(environment.get("ADJOURN_DATA_DIR") or ".adjourn")
    try:
        told = json.loads((directory.expanduser() / ENDPOINTS_FILE).read_bytes())
        noted = told[role.value]
        with suppress(PermissionError):  # another user's is there, too
            os.kill(told["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError):  # the last: ~ of nobody, too nested
        return None
    return noted if isinstance(noted, str) else None

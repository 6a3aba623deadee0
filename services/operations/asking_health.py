"""``adjourn health``: asks the worker and the scheduler of this machine how they are, as an orchestrator would.

A container runs it every few seconds, so it imports little: settings and Redis only when a scheduler does not answer.
"""

import http.client
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from services.errors import without_password
from services.health import HealthReport, HealthStatus, Role
from services.monitoring.addresses import PORTS, base_url
from services.operations.inquiry import ask_in_background

#: How long all of it may take, in seconds.
TIME_LIMIT = 3.0
#: When a scheduler has not answered after so long, Redis is asked meanwhile, in seconds.
IMPATIENCE = 0.5
EXIT_CODES = {HealthStatus.HEALTHY: 0, HealthStatus.DEGRADED: 1, HealthStatus.STOPPED: 2}
_LARGEST_ANSWER = 1 << 20

T = TypeVar("T")


def ask_health(
    roles: Sequence[Role], *, url: str | None = None, environment: Mapping[str, str] = os.environ
) -> dict[Role, dict[str, Any]]:
    """Return the report of each, as JSON has it; of one that does not answer, that it is stopped.

    ``url`` is where to ask, if it is not where the environment says. It takes no longer than ``TIME_LIMIT``.
    """
    deadline = time.monotonic() + TIME_LIMIT
    urls = {role: url or base_url(role, environment) for role in roles}
    asked = {role: ask_in_background(partial(_get, urls[role], role)) for role in roles}
    scheduler, leader = asked.get(Role.SCHEDULER), None
    if scheduler is not None and not _is_answered(scheduler):
        leader = ask_in_background(_who_leads)
    reports = {role: _report(role, without_password(urls[role]), answer, deadline) for role, answer in asked.items()}
    if leader is not None and not reports[Role.SCHEDULER].get("processes"):
        reports[Role.SCHEDULER]["reasons"].append(_leader_line(leader, deadline))
    return reports


def _get(url: str, role: Role) -> dict[str, Any]:
    """Return the report that is given at a base URL. Raises OSError, HTTPException or ValueError."""
    where = urlsplit(url if "//" in url else f"//{url}")
    make = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    if not where.hostname or where.port == 0:
        raise ValueError("no such address")
    # No proxy stands between us and this machine, whatever the environment says.
    connection = make(where.hostname, where.port, timeout=TIME_LIMIT)
    try:
        connection.request("GET", f"{where.path.rstrip('/')}/readyz")
        report = json.loads(connection.getresponse().read(_LARGEST_ANSWER))
    except RecursionError:
        raise ValueError("no such report") from None
    finally:
        connection.close()
    if not _is_report(report, role):
        raise ValueError("no such report")
    return dict(report)


def _is_report(said: Any, role: Role) -> bool:
    """Return whether what somebody answered is a report, as far as this command goes by it."""
    return (
        isinstance(said, dict)
        and said.get("role") == role
        and said.get("status") in list(HealthStatus)
        and isinstance(said.get("reasons"), list)
    )


def _report(role: Role, url: str, answer: Future[dict[str, Any]], deadline: float) -> dict[str, Any]:
    """Return the report that came, or one that says why none did."""
    variable, _ = PORTS[role]
    try:
        return answer.result(max(deadline - time.monotonic(), 0))
    except TimeoutError:
        reason = f"nothing answers at {url} within {TIME_LIMIT:.0f} s: it is stopped by a signal, or hangs"
    except ConnectionRefusedError:
        reason = f"nothing answers at {url}: no {role} runs here, or it is starting"
    except OSError as error:
        reason = f"nothing answers at {url}: {error.strerror or error}"
    except (http.client.HTTPException, ValueError):
        reason = f"what answers at {url} is no {role} of Adjourn's: name its port in {variable}, or give --url"
    return HealthReport(role=role, status=HealthStatus.STOPPED, is_live=False, reasons=(reason,)).as_object()


def _leader_line(leader: Future[str], deadline: float) -> str:
    try:
        return leader.result(max(deadline - time.monotonic(), 0))
    except TimeoutError:
        return "who leads is unknown: Redis does not answer"
    except Exception as error:  # noqa: BLE001 - settings that make no sense, or a Redis that refuses: all the same here
        return f"who leads is unknown: {error}"


def _who_leads() -> str:
    from services.cluster.status import read_status  # noqa: PLC0415 - see above
    from services.operations.asking import asking  # noqa: PLC0415 - see above
    from services.settings import load_settings  # noqa: PLC0415 - see above
    from services.wording import place  # noqa: PLC0415 - see above

    with asking(load_settings()) as client:
        leader = read_status(client=client).leader
    return "no scheduler leads" if leader is None else f"the leader is {place(leader.host, leader.pid)}"


def _is_answered(answer: Future[Any]) -> bool:
    with suppress(TimeoutError):
        return answer.exception(IMPATIENCE) is None
    return False

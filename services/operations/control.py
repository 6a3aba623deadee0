"""What a person asks of the schedulers while they run: pause a task, let it go on, run it out of turn.

What is asked for lies in Redis, so it outlives every process of ours; it is lost when Redis loses its data.
"""

import getpass
import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import datetime

import redis

from models.errors import shown
from services.cluster.state import Asked, Status, Trigger
from services.cluster.status import read_status
from services.errors import InvalidValueError
from services.scheduling import keys
from services.scheduling.scripts import load_script
from services.tasks import Task, actor_of
from services.values import instant_of, text_of

#: How often to look whether a request was carried out, in seconds.
LOOK_INTERVAL = 0.05


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    """What came of asking for a pause, or for its end."""

    #: False when it was so already, and nothing was done.
    changed: bool
    #: By Redis's clock.
    now: datetime | None
    #: The pause that there is, or that ended; None when there was none to end.
    pause: Asked | None


@dataclass(frozen=True, slots=True)
class TriggerAnswer:
    """What came of asking for a run."""

    #: False when a request waited already, and none was added.
    added: bool
    #: By Redis's clock.
    now: datetime | None
    #: The request that waits.
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class TriggerProgress:
    """How far a request has come."""

    #: Whether it waits still.
    waiting: bool
    #: What was sent, if it was, and no later request has been carried out since.
    done: Trigger | None
    #: All else, at that moment.
    status: Status


def find_task(name: str) -> Task:
    """Return the task that a person calls ``name``: ``idle``, ``idle_conversations`` or by its actor's name.

    Raises InvalidValueError, which lists what would be right.
    """
    names = {called: task for task in Task for called in (task.name.lower(), task.value, actor_of(task))}
    try:
        return names[name]
    except KeyError:
        raise InvalidValueError(f"{shown(name)} is no task; give one of {', '.join(names)}") from None


def who_asks() -> str:
    """Return who runs this process, and where: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number only
        user = str(os.getuid())
    return text_of(f"{user}@{socket.gethostname()}") or ""


def pause(*, client: redis.Redis, task: Task, by: str) -> PauseAnswer:
    """Pause ``task``: its slots are claimed without a message until it goes on. What is enqueued already still runs.

    Raises redis.RedisError, as all that follows; what was asked for may then be done or not, and can be asked again.
    """
    changed, now, at, who = load_script(client, "pause")(keys=[keys.task_key(actor_of(task))], args=[by, keys.WAKE])
    return PauseAnswer(bool(changed), instant_of(now), Asked(instant_of(at), text_of(who)))


def resume(*, client: redis.Redis, task: Task) -> PauseAnswer:
    """Let ``task`` go on with its next slot."""
    changed, now, at, who = load_script(client, "resume")(keys=[keys.task_key(actor_of(task))], args=[keys.WAKE])
    ended = Asked(instant_of(at), text_of(who)) if changed else None
    return PauseAnswer(bool(changed), instant_of(now), ended)


def request_trigger(*, client: redis.Redis, task: Task, by: str) -> TriggerAnswer:
    """Ask for a run of ``task`` out of turn, also when it is paused or not scheduled; the leader carries it out."""
    request_id = str(uuid.uuid4())
    added, now, at, who, waiting_id = load_script(client, "request_trigger")(
        keys=[keys.task_key(actor_of(task))], args=[request_id, by, keys.WAKE]
    )
    waiting = Trigger(text_of(waiting_id) or "", instant_of(at), text_of(who))
    return TriggerAnswer(bool(added), instant_of(now), waiting)


def wait_for_trigger(*, client: redis.Redis, task: Task, request_id: str, seconds: float) -> TriggerProgress:
    """Return how far the request has come: once it does not wait any more, and after ``seconds`` at the latest."""
    deadline = time.monotonic() + seconds
    while True:
        status = read_status(client=client)
        (found,) = (one for one in status.tasks if one.task is task)
        waiting = found.waiting_trigger is not None and found.waiting_trigger.id == request_id
        if not waiting or time.monotonic() >= deadline:
            done = found.last_trigger
            return TriggerProgress(waiting, done if done and done.id == request_id else None, status)
        time.sleep(LOOK_INTERVAL)

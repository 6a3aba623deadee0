"""What a person's commands print: a line or two for whatever was asked for."""

from services.operations.asking import asking
from services.operations.control import (
    PauseAnswer,
    TriggerProgress,
    find_task,
    pause,
    request_trigger,
    resume,
    wait_for_trigger,
    who_asks,
)
from services.settings import load_settings
from services.tasks import Task
from services.wording import instant, place


def print_pause(name: str) -> None:
    """Pause the task that is called ``name`` and print what came of it. Raises AdjournError."""
    task = find_task(name)
    with asking(load_settings()) as client:
        answer = pause(client=client, task=task, by=who_asks())
    print(_pause_line(task, answer))  # noqa: T201 - what was asked for


def print_resume(name: str) -> None:
    """Let the task that is called ``name`` go on and print what came of it. Raises AdjournError."""
    task = find_task(name)
    with asking(load_settings()) as client:
        answer = resume(client=client, task=task)
    if answer.pause is None:
        print(f"{task} was not paused; nothing changed")  # noqa: T201 - what was asked for
    else:
        print(f"{task} goes on with its next slot; it was paused {_since(answer)}")  # noqa: T201 - the same


def print_trigger(name: str, *, seconds: float) -> None:
    """Ask for a run of the task that is called ``name`` and print what has come of it after ``seconds`` at the latest.

    Raises AdjournError.
    """
    task = find_task(name)
    with asking(load_settings()) as client:
        answer = request_trigger(client=client, task=task, by=who_asks())
        if answer.added:
            print(f"a run of {task} is asked for", flush=True)  # noqa: T201 - what was asked for
        else:
            asked = f"{answer.trigger.by or 'somebody'} asked for at {instant(answer.trigger.at, now=answer.now)}"
            print(f"a run of {task} that {asked} waits already; no other is added", flush=True)  # noqa: T201 - the same
        progress = wait_for_trigger(client=client, task=task, request_id=answer.trigger.id, seconds=seconds)
    for line in _trigger_lines(task, progress, seconds=seconds):
        print(line)  # noqa: T201 - the same


def _pause_line(task: Task, answer: PauseAnswer) -> str:
    if not answer.changed:
        return f"{task} is paused already, {_since(answer)}; nothing changed"
    return f"{task} is paused; to go on: adjourn resume {task.name.lower()}"


def _since(answer: PauseAnswer) -> str:
    if answer.pause is None:
        return "unknown"
    return f"since {instant(answer.pause.at, now=answer.now)}, by {answer.pause.by or 'somebody'}"


def _trigger_lines(task: Task, progress: TriggerProgress, *, seconds: float) -> list[str]:
    status = progress.status
    (found,) = (one for one in status.tasks if one.task is task)
    lines = []
    if progress.done is not None:
        message = progress.done.message_id or "unknown"
        lines.append(f"it was sent at {instant(progress.done.at, now=status.now)}: message {message}")
    elif not progress.waiting:
        lines.append("it waits no more, and a later one was sent since, or Redis lost it; see: adjourn status")
    elif status.leader is None:
        lines.append("no scheduler leads now: it is sent as soon as one does; see: adjourn status")
    else:
        waited = f" within {seconds:g} s" if seconds else " yet"
        where = place(status.leader.host, status.leader.pid)
        lines.append(f"it was not sent{waited}: the leader, {where}, sends it at its next renewal; see: adjourn status")
    if found.pause is not None:
        lines.append(f"{task} is paused: that stops its schedule, not this run")
    elif found.schedule is None and status.last_term is not None:
        lines.append(f"{task} is not scheduled: this run is all there is")
    return lines

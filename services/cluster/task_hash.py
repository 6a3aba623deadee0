"""What the hash of a task in Redis says, written by schedulers, workers and people."""

from collections.abc import Mapping
from datetime import timedelta

from services.cluster.state import Asked, ClaimedSlot, Run, RunOutcome, TaskStatus, Trigger
from services.scheduling.queue import Outcome
from services.tasks import Task
from services.values import duration_of, instant_of, integer_of, text_of

_SECOND = timedelta(seconds=1)
Hash = Mapping[bytes, bytes]


def task_status(task: Task, *, actor: str, values: Hash) -> TaskStatus:
    """Return what ``values``, the hash of a task, say of it."""
    return TaskStatus(
        task=task,
        actor=actor,
        schedule=text_of(values.get(b"schedule")),
        interval=_interval(values),
        last_slot=_claimed_slot(values),
        next_slot=instant_of(values.get(b"next_slot"), unit=_SECOND),
        last_run=_run(values),
        last_success_at=instant_of(values.get(b"last_success_at")),
        runs=_total(values, b"runs"),
        failures=_total(values, b"failures"),
        ended=_total(values, b"ended"),
        awaited_since=instant_of(values.get(b"awaited_since")),
        dropped=_total(values, b"dropped"),
        pause=_pause(values),
        waiting_trigger=_trigger(values, "trigger"),
        last_trigger=_trigger(values, "triggered"),
    )


def _total(values: Hash, field: bytes) -> int | None:
    """Return how often something came about: what was never counted never did."""
    return integer_of(values.get(field, b"0"))


def _interval(values: Hash) -> timedelta | None:
    seconds = duration_of(values.get(b"interval"), unit=_SECOND)
    return seconds if seconds and seconds > timedelta(0) else None


def _claimed_slot(values: Hash) -> ClaimedSlot | None:
    slot = instant_of(values.get(b"slot"), unit=_SECOND)
    if slot is None:
        return None
    outcome = text_of(values.get(b"outcome"))
    return ClaimedSlot(
        slot=slot,
        outcome=Outcome(outcome) if outcome in {Outcome.ENQUEUED, Outcome.CAUGHT_UP, Outcome.PAUSED} else None,
        enqueued_at=instant_of(values.get(b"enqueued_at")),
        term=integer_of(values.get(b"term")),
        # A slot that fell in a pause has an id and no message.
        message_id=None if outcome == Outcome.PAUSED else text_of(values.get(b"message_id")),
    )


def _run(values: Hash) -> Run | None:
    started_at = instant_of(values.get(b"run_started_at"))
    if started_at is None:
        return None
    outcome = text_of(values.get(b"run_outcome"))
    if b"run_ended_at" not in values:
        outcome = RunOutcome.RUNNING
    return Run(
        slot=instant_of(values.get(b"run_slot"), unit=_SECOND),
        started_at=started_at,
        ended_at=instant_of(values.get(b"run_ended_at")),
        outcome=RunOutcome(outcome) if outcome in set(RunOutcome) else None,
        limit=duration_of(values.get(b"run_limit")),
        error=text_of(values.get(b"run_error")) if outcome == RunOutcome.FAILED else None,
    )


def _pause(values: Hash) -> Asked | None:
    # As the scheduler has it: it is paused when the field is there.
    if b"paused_at" not in values:
        return None
    return Asked(instant_of(values[b"paused_at"]), text_of(values.get(b"paused_by")))


def _trigger(values: Hash, prefix: str) -> Trigger | None:
    request_id = text_of(values.get(f"{prefix}_id".encode()))
    if request_id is None:
        return None
    return Trigger(
        id=request_id,
        at=instant_of(values.get(f"{prefix}_at".encode())),
        by=text_of(values.get(f"{prefix}_by".encode())),
        message_id=text_of(values.get(f"{prefix}_message_id".encode())),
    )

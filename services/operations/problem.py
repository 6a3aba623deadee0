"""One thing that is wrong, and what can be."""

from dataclasses import dataclass
from enum import StrEnum

from services.tasks import Task


class ProblemKind(StrEnum):
    """What can be wrong, by a name that does not change, worst first."""

    REDIS_DOWN = "redis_down"
    REDIS_FULL = "redis_full"
    DATABASE_DOWN = "database_down"
    NO_LEADER = "no_leader"
    NO_WORKER = "no_worker"
    OVERDUE_CONVERSATIONS = "overdue_conversations"
    NO_SUCCESS = "no_success"
    LOOP_STUCK = "loop_stuck"
    OVERDUE = "overdue"
    NOT_RUN = "not_run"
    PAUSED = "paused"
    RUN_FAILED = "run_failed"
    WORKER_GONE = "worker_gone"
    SET_ASIDE = "set_aside"
    DEAD_LETTERS = "dead_letters"
    TRIGGER_WAITS = "trigger_waits"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    kind: ProblemKind
    #: A sentence, for a person.
    text: str
    task: Task | None = None
    #: The id of the scheduler that has it.
    scheduler: str | None = None
    #: The id of the worker process that has it.
    worker: str | None = None

"""Whether conversations end on time: the one thing that all the rest is about."""

from collections.abc import Sequence
from enum import StrEnum

from services.operations.overview import Overview
from services.operations.problem import Problem, ProblemKind
from services.tasks import Task

#: With one of these, some of what comes due is not ended, or not when it should be.
_DELAYING = frozenset(
    {
        ProblemKind.REDIS_DOWN,
        ProblemKind.REDIS_FULL,
        ProblemKind.DATABASE_DOWN,
        ProblemKind.NO_LEADER,
        ProblemKind.NO_WORKER,
        ProblemKind.NO_SUCCESS,
        ProblemKind.LOOP_STUCK,
        ProblemKind.OVERDUE,
        ProblemKind.NOT_RUN,
        ProblemKind.PAUSED,
        ProblemKind.RUN_FAILED,
        ProblemKind.SET_ASIDE,
    }
)


class Punctuality(StrEnum):
    """Whether conversations end on time."""

    ON_TIME = "on_time"
    #: None is overdue, but something is wrong that may make them so, or some are set aside.
    AT_RISK = "at_risk"
    LATE = "late"
    UNKNOWN = "unknown"


def punctuality_of(overview: Overview, problems: Sequence[Problem]) -> Punctuality:
    """Return whether conversations end on time, by what is due and what is wrong."""
    kinds = {problem.kind for problem in problems}
    if ProblemKind.OVERDUE_CONVERSATIONS in kinds:
        return Punctuality.LATE
    if any(overview.due(task).oldest_due_seconds is None for task in Task):
        return Punctuality.UNKNOWN
    return Punctuality.AT_RISK if kinds & _DELAYING else Punctuality.ON_TIME

"""A run's shift in the crew of its task: from its first full batch until nothing is left."""

import time
import uuid
from collections.abc import Callable, Sequence

import redis

from services.logs import get_logger
from services.scheduling.crew import Crew

#: How often a member says that it is there, at most, in seconds: a batch takes a tenth of that.
HEARTBEAT = 1.0

log = get_logger(__name__)


class Shift:
    """One run's place in a crew, which it asks for when it meets a backlog, and keeps until ``end``.

    ``sweep_id`` is its name there. ``call_in`` sends for further runs, by the ids that their sweeps shall have; it is
    called once, when there is room for more. None for a run that was called in itself. ``is_stopping`` says whether
    this process is about to end.

    A Redis that does not answer stops no run: it goes on as if it were in, and asks no more.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        sweep_id: uuid.UUID | None = None,
        call_in: Callable[[Sequence[str]], None] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sweep_id = sweep_id or uuid.uuid4()
        #: Whether another run called for this one.
        self.was_called = call_in is None
        #: How many this one has called in.
        self.called = 0
        #: Whether there was no room: others are at it, as many as may be.
        self.is_refused = False
        self._crew = crew
        self._call_in = call_in
        self._is_stopping = is_stopping
        self._monotonic = monotonic
        self._ask_at: float | None = monotonic()
        self._is_in = False
        #: What Redis may have of this run, and must not keep when it has ended.
        self._names = {str(self.sweep_id)} if self.was_called else set()

    @property
    def is_over(self) -> bool:
        """Whether this process is about to end, so that its run takes no further batch."""
        return self._is_stopping()

    def proceed(self) -> bool:
        """Return whether to take another batch, after one that was full. Asks Redis once a second at most."""
        if self.is_over:
            return False
        if self._ask_at is not None and self._monotonic() >= self._ask_at:
            self._ask()
        return not self.is_refused

    def end(self) -> None:
        """Give the place up, if there is one."""
        if not self._names:
            return
        try:
            self._crew.leave(*sorted(self._names))
        except redis.RedisError as error:
            log.debug("place in the crew not given up, it lapses", reason=str(error))

    def _ask(self) -> None:
        name = str(self.sweep_id)
        wanted = 0 if self._is_in or self._call_in is None else self._crew.limit - 1
        candidates = [str(uuid.uuid4()) for _ in range(wanted)]
        self._names.update((name, *candidates))
        try:
            muster = self._crew.join_or_stay(name, candidates=candidates)
            if muster.called and self._call_in is not None:
                self._call_in(muster.called)
        except redis.RedisError as error:
            self._ask_at = None
            log.warning("draining a backlog without the others: redis does not answer", reason=str(error))
            return
        self._ask_at = self._monotonic() + HEARTBEAT
        self._is_in, self.is_refused = muster.is_in, not muster.is_in
        self.called += len(muster.called)
        self._names = {name} if muster.is_in else set()

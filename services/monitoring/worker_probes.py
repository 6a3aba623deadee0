"""Whether the database and Redis answer this process: asked in threads that may hang for as long as they like."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Thread

from services.errors import first_line
from services.health import Answer

#: From the end of one question to the next, in seconds.
PROBE_INTERVAL = 5.0
#: How long an answer may take, in seconds. A driver may wait for longer: what counts is how it looks from outside.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class _Question:
    """One that waits for its answer."""

    at: datetime
    #: On the monotonic clock, in seconds.
    asked: float


class Probe:
    """Asks, again and again, in a thread of its own: ``ask`` returns when it is answered, and raises when it is not.

    To look at what came of it takes no lock.
    """

    def __init__(
        self,
        ask: Callable[[], None],
        *,
        name: str,
        interval: float = PROBE_INTERVAL,
        patience: float = PATIENCE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._interval = interval
        self._patience = patience
        self._monotonic = monotonic
        self._pending: _Question | None = None
        self._failed: Answer | None = None
        self._answered = self._answering_since = monotonic()
        self._is_stopped = Event()
        self._thread = Thread(target=self._run, name=f"probe of {name}", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self, *, timeout: float) -> None:
        """Ask no more; wait so many seconds at most for the question that is under way."""
        self._is_stopped.set()
        self._thread.join(timeout)

    def answer(self) -> Answer:
        """Return whether it answers, as it looks at this moment. Before the first answer it does."""
        failed, pending, now = self._failed, self._pending, self._monotonic()
        if failed is not None:
            return failed
        if pending is not None and now - pending.asked > self._patience:
            return Answer(answers=False, since=pending.at, reason=f"no answer within {self._patience:.0f} s")
        if pending is None and now - self._answered > self._interval + 2 * self._patience:
            return Answer(answers=False, reason="it is not asked any more")
        return Answer()

    def answered_for(self) -> float:
        """Return for how long it has been answering, in seconds; 0 while it does not."""
        return self._monotonic() - self._answering_since if self.answer().answers else 0.0

    def ask(self) -> None:
        """Ask once, and note what came of it."""
        question = _Question(datetime.now(UTC), self._monotonic())
        self._pending = question
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            since = question.at if self._failed is None else self._failed.since
            self._failed = Answer(answers=False, since=since, reason=first_line(error))
        else:
            if self._failed is not None or self._monotonic() - question.asked > self._patience:
                self._answering_since = self._monotonic()
            self._failed = None
        self._answered = self._monotonic()
        self._pending = None

    def _run(self) -> None:
        while not self._is_stopped.is_set():
            self.ask()
            self._is_stopped.wait(self._interval)

"""A question to a server, asked in a thread of its own: one that hangs holds up nobody."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

from services.errors import AdjournError

T = TypeVar("T")


class NoAnswerError(AdjournError):
    """A server has been asked and has not answered in time."""


def ask_in_background(ask: Callable[[], T]) -> Future[T]:
    """Return what will have the answer. The process may end while it hangs."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001 - whoever wants the answer gets it
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer


class Inquiry(Generic[T]):
    """Asks the same question again and again; ``limit`` is how long to wait for an answer, in seconds.

    ``on_answer`` is called whenever one has come, in whichever thread.
    """

    def __init__(self, ask: Callable[[], T], *, limit: float, on_answer: Callable[[], None]) -> None:
        self._ask = ask
        self._limit = limit
        self._on_answer = on_answer
        self._began = 0.0
        self._answer: Future[T] | None = None

    def begin(self) -> None:
        """Ask, unless the answer to an earlier question is still awaited: those that hang do not become more."""
        if self.is_open:
            return
        self._began = time.monotonic()
        self._answer = ask_in_background(self._ask)
        self._answer.add_done_callback(lambda _: self._on_answer())

    @property
    def is_open(self) -> bool:
        """Whether an answer is awaited."""
        return self._answer is not None and not self._answer.done()

    @property
    def patience(self) -> float:
        """For how many seconds the answer is still worth waiting for; 0 once it is there."""
        return max(self._began + self._limit - time.monotonic(), 0) if self.is_open else 0

    def wait(self) -> None:
        """Return when the answer is there, or not worth waiting for any more."""
        if self._answer is not None:
            wait_for([self._answer], timeout=self.patience)

    def answer(self) -> T:
        """Return the answer to what was asked last.

        Raises what asking raised, and NoAnswerError when there is no answer yet.
        """
        if self._answer is None or not self._answer.done():
            raise NoAnswerError(f"it has not answered for {time.monotonic() - self._began:.0f} s")
        return self._answer.result()

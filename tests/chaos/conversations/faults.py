"""What a fault is. Each module of faults has its own in ``FAULTS``."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.conversations.stack import Stack


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault.

    ``inject`` does it to a stack with traffic on, takes its cause away, and returns what it did, in words. When it
    returns, the time begins within which all must be well again: one interval plus one batch, and ``allowed``.
    """

    name: str
    inject: Callable[[Stack], str]
    #: What it may cost beyond one interval plus one batch, in seconds,
    allowed: float = 0.0
    #: and why.
    because: str = ""
    #: What processes may say in tracebacks because of it: parts of the last line of each.
    excuses: tuple[str, ...] = ()
    #: Whether it sets the clocks of servers of its own: that takes up to two minutes, and wants a C compiler.
    sets_clocks: bool = False

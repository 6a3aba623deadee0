"""Puts ticks on the queue of REDIS_URL when told to by a line, and says when it has: ``python -m benchmarks.ticker``.

``send ACTOR`` sends a tick of the slot of this second; ``wait`` waits until all messages of the queues are done.
"""

import sys
from datetime import UTC, datetime

import actors
from actors.conversations import SWEEPS_QUEUE

#: How often to look whether the queue is empty, in milliseconds.
_LOOK_INTERVAL = 5


def main() -> None:
    """Do what each line says."""
    print("done", flush=True)  # noqa: T201 - the answer
    for line in sys.stdin:
        match line.split():
            case ["send", actor]:
                slot = datetime.now(UTC).replace(microsecond=0)
                actors.broker.get_actor(actor).send_with_options(scheduled_at=slot.isoformat())
            case ["wait"]:
                actors.broker.join(SWEEPS_QUEUE, interval=_LOOK_INTERVAL)
        print("done", flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()

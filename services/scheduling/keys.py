"""What schedulers and workers keep in Redis: all of it may be lost. docs/scheduling.md lists the fields."""

#: Hash: who leads, under which term, since when. It expires with the lease.
LEASE = "adjourn:scheduler:lease"
#: The last term that was given.
TERM = "adjourn:scheduler:term"
#: Hash: what each scheduler says of itself, JSON.
MEMBERS = "adjourn:scheduler:members"
#: Sorted set: when each scheduler was last heard of, in milliseconds of Redis's clock.
SEEN = "adjourn:scheduler:seen"
#: Channel: whatever is published here makes every scheduler look at once.
WAKE = "adjourn:scheduler:wake"

#: Hash: what each worker process says of itself, JSON.
WORKERS = "adjourn:workers:members"
#: Sorted set: when each worker process was last heard of, in milliseconds of Redis's clock.
WORKERS_SEEN = "adjourn:workers:seen"
#: Set: the names of dramatiq's queues.
QUEUES = "adjourn:queues"
#: Hash: how much is due and active, as it was measured last. It expires.
BACKLOG = "adjourn:backlog"


def task_key(actor: str) -> str:
    """Return the hash that holds all about one task: its last slot, its last run, what was asked of it."""
    return f"adjourn:task:{actor}"


def crew_key(actor: str) -> str:
    """Return the sorted set of the runs that drain the task's backlog: when each was last heard of, in milliseconds."""
    return f"{task_key(actor)}:crew"


def calls_key(actor: str) -> str:
    """Return the sorted set of the runs that were called in and have not come yet: when, in milliseconds."""
    return f"{task_key(actor)}:calls"


def failure_key(message_id: str) -> str:
    """Return the text, JSON, that says why the run of a message failed, by the message's id in Redis."""
    return f"adjourn:failure:{message_id}"

"""What is done to workers: killed, paused, told to end, in the middle of a batch where that is not said otherwise."""

import os
import signal
import time

from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.held_batch import holding_batch
from tests.chaos.conversations.stack import LEASE, Stack
from tests.support import attempts, wait_for

#: How long processes may outlive the command that started them.
_ORPHAN_TIMEOUT = 10.0
#: How long a command may take to notice that one of its processes is gone.
_NOTICE_TIMEOUT = 20.0


def _kill(stack: Stack) -> str:
    with holding_batch(stack) as held:
        held.worker.kill()
        later = stack.rng.choice([0.0, 0.8])
        time.sleep(later)
        # Its connection is found dead by then, or its batch goes on without it.
        held.let_go()
    stack.replace(held.worker)
    return f"SIGKILL to {held.worker} in a batch, which PostgreSQL went on with {later:g} s later"


def _kill_command(stack: Stack) -> str:
    with holding_batch(stack) as held:
        orphans = held.worker.children
        held.worker.kill_command()
    for _ in attempts(_ORPHAN_TIMEOUT):
        left = [pid for pid in orphans if _is_alive(pid)]
        if not left:
            break
    else:
        stack.incidents.append(f"{left} still ran {_ORPHAN_TIMEOUT:g} s after {held.worker} was killed")
        held.worker.kill()
    stack.replace(held.worker)
    return f"SIGKILL to the command of {held.worker} alone; {len(orphans)} processes were left to end by themselves"


def _kill_one_of_several(stack: Stack) -> str:
    several = stack.start_worker(processes=2)
    stack.wait_until_ready(several)
    # Those that work are started first, the one that serves metrics after them.
    victim = several.children[stack.rng.randrange(2)]
    several.ended_by_us = True
    os.kill(victim, signal.SIGKILL)
    try:
        wait_for(lambda: not several.is_running, seconds=_NOTICE_TIMEOUT)
        outcome = f"the command ended with {several.finish()}"
    except AssertionError:
        outcome = "the command went on"
        stack.incidents.append(f"{several} goes on without one of its processes, and nobody was told")
        several.kill()
    stack.forget(several)
    return f"SIGKILL to one of two processes of {several}: {outcome}"


def _pause(stack: Stack) -> str:
    length = stack.rng.uniform(3, 6)
    with holding_batch(stack) as held:
        held.worker.pause()
    # What it had ended is ready to be committed, and nobody does.
    time.sleep(length)
    held.worker.go_on()
    return f"SIGSTOP to {held.worker} in a batch, for {length:.1f} s"


def _terminate(stack: Stack) -> str:
    with holding_batch(stack) as held:
        held.worker.terminate()
        time.sleep(stack.rng.uniform(0.2, 1))
    stack.finish(held.worker)
    stack.start_worker()
    return f"SIGTERM to {held.worker} in a batch"


def _kill_all(stack: Stack) -> str:
    down = stack.rng.choice([0.0, 3.0])
    killed = list(stack.workers)
    for one in killed:
        one.kill()
    time.sleep(down)
    for new in [stack.replace(one) for one in killed]:
        stack.wait_until_ready(new)
    return f"SIGKILL to all {len(killed)} workers; others were started {down:g} s later"


def _kill_everything(stack: Stack) -> str:
    """End all that runs, as when the power goes, but for the clients; they have nobody to talk to."""
    killed = [*stack.workers, *stack.schedulers]
    for one in killed:
        one.kill()
    stack.redis.kill()
    stack.postgres.crash()
    time.sleep(stack.rng.uniform(0, 2))
    stack.postgres.start()
    stack.redis.start()
    for new in [stack.replace(one) for one in killed]:
        if new.kind == "worker":
            stack.wait_until_ready(new)
    return f"SIGKILL to {len(killed)} commands and Redis, crash of PostgreSQL; all were started again"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


FAULTS = (
    Fault("worker killed in a batch", _kill),
    Fault("a worker's command killed, its processes left", _kill_command),
    Fault("one process of a worker killed", _kill_one_of_several),
    Fault("worker paused in a batch", _pause),
    Fault("worker terminated in a batch", _terminate),
    Fault("all workers killed", _kill_all),
    Fault(
        "everything killed at once",
        _kill_everything,
        allowed=LEASE + 1.0,
        because="the lease of the dead scheduler has to lapse, and the next one to see it",
    ),
)

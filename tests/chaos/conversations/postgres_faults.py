"""What is done to PostgreSQL, and by others on it."""

import os
import signal
import time
from contextlib import suppress

import psycopg

from tests.chaos.conversations.commands import run_adjourn
from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.held_batch import holding_batch
from tests.chaos.conversations.postgresql import MAX_CONNECTIONS
from tests.chaos.conversations.stack import Stack
from tests.servers import relay_to
from tests.support import wait_for

#: A connection in the pool of a worker, or of a client, is found dead when it is used next.
_OURS = "application_name = 'adjourn'"
_NEXT_COLD = """
    SELECT conv_id, session_key FROM conversations WHERE status = 'pending' AND session_key LIKE 'cold:%'
        AND idle_at > clock_timestamp() + interval '0.2 s' ORDER BY idle_at LIMIT 1
"""
_LATE = """
    SELECT max(extract(epoch FROM clock_timestamp() - least(idle_at, expires_at)))::float FROM conversations
    WHERE status IN ('pending', 'progress') AND session_key NOT LIKE %s
"""
#: Some that nobody writes to: due in a moment, a few milliseconds apart.
_POISON = """
    INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, session_key, status, metadata,
        created_at, updated_at, idle_at, expires_at)
    SELECT gen_random_uuid(), 'acme', 'sms', '1', '2', 'refused:' || gen_random_uuid(), 'pending', '{}',
        now(), now(), now() + number * interval '0.03 s', now() + interval '1 hour'
    FROM generate_series(1, %s) AS number
"""
_REFUSE = """
    CREATE FUNCTION chaos_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
    CREATE TRIGGER chaos_refuse BEFORE UPDATE ON conversations FOR EACH ROW
    WHEN (OLD.session_key LIKE 'refused:%' AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION chaos_refuse()
"""

_TOUCH = "UPDATE conversations SET metadata = metadata WHERE conv_id = ANY (%s)"
_DEADLOCK = "ERROR:  deadlock detected"
#: As it is on the wire. Each transaction begins with READ COMMITTED.
_COMMIT = b"COMMIT\0"
_SWEPT = '"message": "swept"'
_LOST = "server closed the connection unexpectedly"


def _restart(stack: Stack) -> str:
    down = stack.rng.choice([0.0, 1.0, 4.0])
    stack.postgres.stop()
    time.sleep(down)
    stack.postgres.start()
    return f"shut down, started {down:g} s later"


def _crash(stack: Stack) -> str:
    if stack.rng.random() < 0.5:
        with holding_batch(stack) as held:
            # PostgreSQL then ends all others as well, and recovers.
            os.kill(held.backend, signal.SIGKILL)
            wait_for(lambda: not stack.postgres.is_answering(), seconds=5, what="the crash")
        wait_for(stack.postgres.is_answering, what="an answer of PostgreSQL")
        return "SIGKILL to the process that ran a batch"
    with holding_batch(stack):
        stack.postgres.crash()
    stack.postgres.start()
    return "all processes of PostgreSQL ended in a batch, and were started again"


def _pause(stack: Stack) -> str:
    length = stack.rng.uniform(2, 6)
    stack.postgres.pause()
    time.sleep(length)
    stack.postgres.go_on()
    return f"SIGSTOP to all processes of PostgreSQL, for {length:.1f} s"


def _terminate_connections(stack: Stack) -> str:
    times, count = stack.rng.randint(20, 40), 0
    with stack.postgres.connect_as_superuser() as superuser:
        for _ in range(times):
            count += len(
                superuser.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS}").fetchall()
            )
            time.sleep(stack.rng.uniform(0.01, 0.1))
    return f"{count} connections ended by pg_terminate_backend, in {times} goes"


def _lose_answers(stack: Stack) -> str:
    """Have clients, and sweeps, not learn that what they asked for was committed."""
    of_clients, of_sweeps = 12, 2
    stack.stop(stack.rng.choice(stack.workers))
    with relay_to(stack.postgres.port) as relay:
        behind = stack.start_worker(DATABASE_URL=stack.postgres.url_through(relay.port))
        # What it asks at its start is committed too.
        wait_for(lambda: _SWEPT in behind.output, what=f"a sweep of {behind}")
        for count in range(1, of_sweeps + 1):
            relay.lose_answer_to(_COMMIT)
            wait_for(lambda: behind.output.count(_LOST) >= count, what="a sweep that learnt nothing")  # noqa: B023
        for _ in range(of_clients):
            stack.relay.lose_answer_to(_COMMIT)
            time.sleep(stack.rng.uniform(0.02, 0.2))
        stack.stop(behind)
    stack.start_worker()
    return f"the answers to {of_clients} COMMITs of clients and {of_sweeps} of sweeps thrown away, connections closed"


def _exhaust_connections(stack: Stack) -> str:
    length = stack.rng.uniform(3, 6)
    taken: list[psycopg.Connection[object]] = []
    until = time.monotonic() + length
    try:
        with stack.postgres.connect_as_superuser() as superuser:
            while time.monotonic() < until:
                _take_slots(stack, taken)
                # Those that others hold.
                superuser.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS}")
                time.sleep(0.02)
    finally:
        for one in taken:
            one.close()
    return f"{len(taken)} of {MAX_CONNECTIONS} slots taken, everyone else's connections ended, for {length:.1f} s"


def _take_slots(stack: Stack, taken: "list[psycopg.Connection[object]]") -> None:
    with suppress(psycopg.OperationalError):
        while len(taken) < MAX_CONNECTIONS:
            taken.append(stack.postgres.connect())


def _lock_row(stack: Stack) -> str:
    """Hold a row that falls due; it alone is late."""
    length = stack.rng.uniform(3.5, 6)
    with stack.postgres.connect(autocommit=False) as holder, stack.postgres.connect() as watch:
        conv_id, key = holder.execute(_NEXT_COLD).fetchone() or (None, "")
        holder.execute("SELECT FROM conversations WHERE conv_id = %s FOR UPDATE", [conv_id])
        latest = _watch_lateness(stack, watch, length, but=key)
        (status,) = holder.execute("SELECT status FROM conversations WHERE conv_id = %s", [conv_id]).fetchone() or (
            None,
        )
    if status != "pending":
        stack.incidents.append(f"{conv_id} became {status} while another transaction held it")
    return f"a due row held by SELECT FOR UPDATE for {length:.1f} s; any other was due for {latest:.1f} s at most"


def _lock_table(stack: Stack) -> str:
    length = stack.rng.uniform(1.5, 4)
    table = stack.rng.choice(["conversations", "conversation_events"])
    with stack.postgres.connect(autocommit=False) as holder:
        holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        time.sleep(length)
    return f"{table} locked in ACCESS EXCLUSIVE MODE for {length:.1f} s"


def _hold_snapshot(stack: Stack) -> str:
    """Keep a transaction open, with a number and a snapshot: what is dead meanwhile, no vacuum may take away."""
    length = stack.rng.uniform(4, 8)
    with stack.postgres.connect(autocommit=False) as holder, stack.postgres.connect() as watch:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT pg_current_xact_id(), count(*) FROM conversations")
        latest = _watch_lateness(stack, watch, length)
        watch.execute("VACUUM conversations")
        dead = watch.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'conversations'").fetchone()
    return (
        f"a snapshot held for {length:.1f} s; {dead[0] if dead else 0} dead rows were left by a vacuum then;"
        f" the longest due was so for {latest:.1f} s"
    )


def _deadlock(stack: Stack) -> str:
    """Have another writer and a sweep wait for each other."""
    victim = stack.rng.choice(["sweep", "writer"])
    with holding_batch(stack) as held:
        before = stack.postgres.log.read_text(errors="replace").count(_DEADLOCK)
        if victim == "writer":
            # PostgreSQL looks who waits for whom when somebody has waited for a second: the sweep has, by then.
            time.sleep(1.2)
        outcome = "the sweep was the victim"
        try:
            # The sweep waits for this transaction, which now asks for what the sweep has locked.
            held.holder.execute(_TOUCH, [list(held.traps)])
        except psycopg.errors.DeadlockDetected:
            outcome = "the writer was the victim"
        found = stack.postgres.log.read_text(errors="replace").count(_DEADLOCK) - before
    if not found:
        stack.incidents.append("a deadlock was to be, and was none")
    return f"another writer of a due row and a sweep waited for each other: {outcome}"


def _refuse_rows(stack: Stack) -> str:
    """Have a trigger of the platform's refuse the end of some rows, which fall due among others, and then mend it."""
    count = stack.rng.choice([1, 2, 10])
    length = stack.rng.uniform(3, 5)
    with stack.postgres.connect() as watch:
        watch.execute(_REFUSE)
        try:
            watch.execute(_POISON, [count])
            latest = _watch_lateness(stack, watch, length, but="refused:%")
            (aside,) = watch.execute("SELECT count(*) FROM set_aside_conversations").fetchone() or (0,)
        finally:
            watch.execute("DROP FUNCTION chaos_refuse() CASCADE")
    if aside != count:
        stack.incidents.append(f"{aside} conversations were set aside, of {count} that were refused")
    run_adjourn(stack, "set-aside", "retry", "--all")
    return f"{count} ends refused by a trigger for {length:.1f} s; any other was due for {latest:.1f} s at most"


def _watch_lateness(
    stack: Stack, watch: "psycopg.Connection[tuple[float | None]]", length: float, *, but: str = ""
) -> float:
    """Watch for so many seconds how long any conversation is due; note when that is too long, and return the most.

    Those of session keys like ``but`` are left out.
    """
    latest, until = 0.0, time.monotonic() + length
    while time.monotonic() < until:
        (late,) = watch.execute(_LATE, [but]).fetchone() or (None,)
        latest = max(latest, late or 0.0)
        time.sleep(0.05)
    if latest > stack.longest_due:
        stack.incidents.append(f"while a transaction of another's was open, others were due for {latest:.1f} s")
    return latest


FAULTS = (
    Fault("PostgreSQL restarted", _restart),
    Fault("PostgreSQL crashed in a batch", _crash),
    Fault("PostgreSQL paused", _pause),
    Fault("connections terminated", _terminate_connections),
    Fault("answers to COMMIT lost", _lose_answers),
    Fault("connections exhausted", _exhaust_connections),
    Fault("a due row locked", _lock_row),
    Fault("a table locked", _lock_table),
    Fault("a long open transaction", _hold_snapshot),
    Fault("deadlock with another writer", _deadlock),
    Fault("ends refused by a trigger", _refuse_rows),
)

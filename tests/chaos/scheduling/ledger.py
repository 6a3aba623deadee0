"""Reads from Redis what was enqueued, who leads and what is claimed, many times a second.

No worker runs, so every message stays where the broker pushed it, and Redis itself is the ledger. What belongs together
is read in one transaction, past the proxies.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.scheduling.records import Absence, Claim, Push, Record, Reign

#: From one look to the next, in seconds.
PAUSE = 0.02
#: A Redis that keeps us waiting longer is down.
_ANSWER = 0.5
#: Shorter stretches without a lease are the pause between two looks.
_SHORTEST_ABSENCE = 3 * PAUSE

QUEUE = "dramatiq:sweeps"
MESSAGES = "dramatiq:sweeps.msgs"
LEASE_KEY = "adjourn:scheduler:lease"
MEMBERS_KEY = "adjourn:scheduler:members"
SEEN_KEY = "adjourn:scheduler:seen"
TASK_KEY = "adjourn:task:{}"


@dataclass(frozen=True, slots=True)
class Look:
    """Redis at one instant, by its own clock."""

    at: float
    #: The process of each scheduler that has announced itself, with when it was last seen.
    members: dict[int, float] = field(default_factory=dict)
    leader_pid: int | None = None


class Ledger:
    """Keeps a record up to date from a thread of its own."""

    def __init__(self, record: Record, port: int) -> None:
        self._record = record
        self._client = redis.Redis(
            port=port,
            socket_timeout=_ANSWER,
            socket_connect_timeout=_ANSWER,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._read = 0
        self._generation = 0
        self._newest: dict[str, Push] = {}
        self._claimed: dict[str, tuple[str, str]] = {}
        self._reign: tuple[str, int] | None = None
        self._lease_seen_at: float | None = None
        self.look = Look(at=0)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look a last time."""
        self._stopped.set()
        self._thread.join(timeout=10)
        self._client.close()

    def pause(self) -> threading.Lock:
        """Return what to hold while Redis loses its data; ``forget`` before it is let go."""
        return self._lock

    def forget(self) -> None:
        """Start anew: Redis has lost its data."""
        self._generation += 1
        self._read = 0
        self._newest.clear()
        self._claimed.clear()
        self._reign = None
        self.look = Look(at=time.time())

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE):
            try:
                with self._lock:
                    self._look()
            except redis.RedisError:
                # It is down, which is what some faults are about.
                self._client.connection_pool.disconnect()
            except (KeyError, ValueError, TypeError) as error:
                self._record.incidents.append(f"the ledger cannot read what it found in Redis: {error!r}")
                return

    def _look(self) -> None:
        actors = self._record.actors
        with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.lrange(QUEUE, self._read, -1)
            pipe.llen(QUEUE)
            pipe.hgetall(LEASE_KEY)
            pipe.hgetall(MEMBERS_KEY)
            pipe.zrange(SEEN_KEY, 0, -1, withscores=True)
            for actor in actors:
                pipe.hgetall(TASK_KEY.format(actor))
            (seconds, microseconds), ids, length, lease, members, seen, *tasks = pipe.execute()
        at = seconds + microseconds / 1e6
        if length < self._read:
            self._record.incidents.append(f"the list of messages shrank from {self._read} to {length}")
            self._read = length
        self._take_lease(lease, at)
        self._take_pushes(ids, at)
        for actor, task in zip(actors, tasks, strict=True):
            self._take_claim(actor, task, at)
        last_seen = dict(seen)
        processes = {holder: int(json.loads(about)["pid"]) for holder, about in members.items()}
        self.look = Look(
            at=at,
            members={pid: last_seen.get(holder, 0) / 1000 for holder, pid in processes.items()},
            leader_pid=processes.get(lease.get("holder", "")),
        )

    def _take_pushes(self, ids: list[str], at: float) -> None:
        if not ids:
            return
        # Nothing deletes messages, so they are there as they were when the list was read.
        messages: list[Any] = self._client.hmget(MESSAGES, ids)
        for listed, text in zip(ids, messages, strict=True):
            if text is None:
                self._record.incidents.append(f"{listed} is on the list without a message")
                continue
            message = json.loads(text)
            options = message["options"]
            push = Push(
                actor=message["actor_name"],
                slot=int(datetime.fromisoformat(options["scheduled_at"]).timestamp()),
                message_id=message["message_id"],
                seen_at=at,
                caught_up=bool(options.get("caught_up")),
                generation=self._generation,
            )
            self._record.pushes.append(push)
            self._newest[push.actor] = push
        # Only now: what could not be read is read again.
        self._read += len(ids)

    def _take_claim(self, actor: str, task: dict[str, str], at: float) -> None:
        if "slot" not in task:
            return
        claimed = (task["slot"], task["message_id"])
        if self._claimed.get(actor) == claimed:
            return
        self._claimed[actor] = claimed
        newest = self._newest.get(actor)
        self._record.claims.append(
            Claim(
                actor=actor,
                slot=int(task["slot"]),
                message_id=task["message_id"],
                term=int(task["term"]),
                newest_message_id="" if newest is None else newest.message_id,
                newest_slot=0 if newest is None else newest.slot,
                enqueued_at=int(task["enqueued_at"]) / 1000,
                seen_at=at,
                generation=self._generation,
            )
        )

    def _take_lease(self, lease: dict[str, str], at: float) -> None:
        if not lease:
            return
        if self._lease_seen_at is not None and at - self._lease_seen_at > _SHORTEST_ABSENCE:
            self._record.absences.append(Absence(self._lease_seen_at, at))
        self._lease_seen_at = at
        reign = (lease["holder"], int(lease["term"]))
        if reign != self._reign:
            self._reign = reign
            self._record.reigns.append(
                Reign(
                    holder=lease["holder"],
                    term=int(lease["term"]),
                    since=int(lease["since"]) / 1000,
                    seen_at=at,
                    generation=self._generation,
                )
            )

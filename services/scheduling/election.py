"""The election: a thread that campaigns for the lease, renews it, and gives it back at the end."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

import redis

from services.errors import first_line
from services.health import Answer
from services.logs import get_logger
from services.scheduling import keys
from services.scheduling.lease import Lease

#: From one try to the next while Redis does not answer, in seconds.
RETRY_INTERVAL = 0.5
#: How often to try to give the lease back.
RELEASE_TRIES = 3
#: What is added to the end of another's lease before the next try, in seconds, so that it is over by then.
MOMENT = 0.01
#: A step of its thread that takes longer, in seconds, does not end: Redis is given a few seconds for each command.
LONGEST_STEP = 60.0

log = get_logger(__name__)


class Election:
    """Campaigns until it leads, leads until it is stopped or loses the lease, and then campaigns again.

    ``on_contact`` is called when Redis answers for the first time, and again after an outage; ``on_lead`` when the
    election is won, ``on_renewal`` after each renewal. All are called in this thread and may raise redis.RedisError.
    The process never ends because of Redis.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        renew_interval: timedelta,
        about: Callable[[], str],
        on_lead: Callable[[], None],
        on_renewal: Callable[[], None],
        on_contact: Callable[[], None],
        listener: redis.Redis,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._renew_interval = renew_interval.total_seconds()
        self._about = about
        self._on_lead = on_lead
        self._on_renewal = on_renewal
        self._on_contact = on_contact
        self._listener = listener
        self._monotonic = monotonic
        #: What to wake up for. Its put is reentrant, so a signal handler may call it.
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        #: The term under which this process says that it leads.
        self._leading: int | None = None
        self._leader: str | None = None
        #: Whether Redis answered last; None before the first try.
        self._reached: bool | None = None
        self._failing = False
        #: What is wrong, as it failed last, and since when; None while nothing is.
        self._trouble: Answer | None = None
        #: When a leader was known last, on the monotonic clock: this scheduler or another.
        self._led_at = monotonic()
        #: Since when a step is under way, on the monotonic clock.
        self._stepping_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    @property
    def redis_answers(self) -> bool:
        """Whether Redis answered when the election asked it last."""
        return self._reached is not False

    @property
    def trouble(self) -> Answer | None:
        """What the last try of the election failed for, and since when they fail; None when it did not."""
        return self._trouble

    def leaderless_for(self) -> float:
        """Return for how many seconds this scheduler has known of no leader, itself included."""
        return 0.0 if self._lease.hold else self._monotonic() - self._led_at

    def is_alive(self) -> bool:
        """Return whether its thread goes on. It waits for nobody for long."""
        since = self._stepping_since
        return self._thread.is_alive() and (since is None or self._monotonic() - since < LONGEST_STEP)

    def start(self) -> None:
        """Begin to campaign."""
        self._thread.start()
        threading.Thread(target=self._listen, name="wake-ups", daemon=True).start()

    def wake(self) -> None:
        """Look at once. Safe in a signal handler."""
        self._calls.put(None)

    def stop(self, *, timeout: float) -> None:
        """Give the lease back and end; ``timeout`` is how long that may take, in seconds."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            self._stepping_since = self._monotonic()
            pause = self._step()
            self._stepping_since = None
            self._wait(pause)
        self._resign()

    def _resign(self) -> None:
        for tries_left in reversed(range(RELEASE_TRIES)):
            try:
                self._lease.release()
            except redis.RedisError as error:
                if tries_left:
                    time.sleep(RETRY_INTERVAL)
                elif self._leading is not None:
                    log.warning("the lease may not be given back, then it runs out", reason=str(error))
            else:
                if self._leading is not None:
                    log.info("resigned", term=self._leading)
                return

    def _step(self) -> float:
        """Renew or campaign, once; return how long to wait then, in seconds."""
        started_at = self._monotonic()
        try:
            if not self._reached:
                self._on_contact()
            pause = self._lead() if self._lease.hold else self._campaign()
        except redis.RedisError as error:
            self._note_outage(error)
            self._note_trouble(error)
            return RETRY_INTERVAL
        except Exception as error:
            # Of this thread nothing may be the end, least of all a mistake of ours: the lease is at stake.
            if not self._failing:
                self._failing = True
                log.exception("the election failed, and goes on")
            self._note_trouble(error)
            return RETRY_INTERVAL
        self._failing = False
        self._trouble = None
        if self._reached is False:
            log.info("redis is back")
        self._reached = True
        return max(started_at + pause - self._monotonic(), 0)

    def _lead(self) -> float:
        if self._lease.renew(self._about()):
            self._led_at = self._monotonic()
            self._on_renewal()
            return self._renew_interval
        self._demote("the lease carries another term, or is gone")
        return 0

    def _campaign(self) -> float:
        if self._leading is not None:
            self._demote("the lease is lost, or was not renewed in time")
        rival = self._lease.acquire(self._about())
        if rival is not None:
            self._led_at = self._monotonic()
            if self._leader != rival.holder:
                self._leader = rival.holder
                log.info("standing by", scheduler=self._lease.holder, leader=rival.holder)
            return min(rival.remaining + MOMENT, self._renew_interval)
        hold = self._lease.hold
        if hold is None:
            return 0  # the answer took longer than the lease lasts
        self._led_at = self._monotonic()
        self._leader, self._leading = None, hold.term
        log.info("leading", scheduler=self._lease.holder, term=hold.term)
        self._on_lead()
        return self._renew_interval

    def _demote(self, reason: str) -> None:
        log.warning("demoted", term=self._leading, reason=reason)
        self._leading = None

    def _note_outage(self, error: redis.RedisError) -> None:
        if self._reached is not False:
            self._reached = False
            log.error("redis refuses" if isinstance(error, redis.ResponseError) else "redis is down", reason=str(error))

    def _note_trouble(self, error: Exception) -> None:
        since = datetime.now(UTC) if self._trouble is None else self._trouble.since
        self._trouble = Answer(answers=False, since=since, reason=first_line(error))

    def _wait(self, seconds: float) -> None:
        """Wait so long, or until somebody calls."""
        with suppress(Empty):
            self._calls.get(timeout=seconds)
            while True:
                self._calls.get_nowait()

    def _listen(self) -> None:
        """Wake up whenever a leader resigns or a person asks for something."""
        refused = False
        while not self._stopping:
            try:
                with self._listener.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(keys.WAKE)
                    self._wake_up_on(channel)
            except redis.ResponseError as error:
                if not refused:
                    refused = True
                    log.warning(
                        "nobody can wake this scheduler: let its user subscribe and publish to adjourn:*",
                        reason=str(error),
                    )
                time.sleep(self._renew_interval)
            except Exception:  # noqa: BLE001 - redis-py raises others too when a connection is torn down under it
                # The election says that Redis is down. What was published meanwhile is found at the next renewal.
                time.sleep(RETRY_INTERVAL)

    def _wake_up_on(self, channel: redis.client.PubSub) -> None:
        """Wake up on each message of ``channel``, until the connection is lost."""
        silent = False
        while not self._stopping:
            message = channel.get_message(timeout=self._renew_interval)
            if message is not None:
                silent = False
                # The first one says that it listens: what was published until then is not lost on it.
                if message["type"] != "pong":
                    self.wake()
            elif silent:
                raise redis.ConnectionError("no answer, though the connection is not closed")
            else:
                silent = True
                channel.ping()

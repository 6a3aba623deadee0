"""The clients of Redis that workers and schedulers use, and whether Redis is fit for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from services.errors import InvalidValueError, RedisUnavailableError
from services.redis_url import RedisAddress, parse_redis_url

#: How long to wait for Redis to answer, in seconds.
ANSWER_TIMEOUT = 3.0
#: Since then a script may look at the clock and then write: its effects are replicated, not its text.
OLDEST_REDIS = (5, 0)
#: The options of a URL that name files; a missing one gives an error that does not say which.
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
#: What connections to sentinels share with those to Redis, besides ``socket_…`` and ``ssl_…``.
_SHARED = {"protocol", "retry"}


class RedisClient(redis.Redis):
    """A client that leaves a Redis which has become a replica: the next command looks for the master again.

    redis-py does so for a command that is refused, not for a script; and only with Sentinel, though a host name may
    have moved to the new master as well.
    """

    def close(self) -> None:
        """Close its connections, those to sentinels included."""
        super().close()
        # redis-py calls this of a client that was never finished, too.
        manager = getattr(getattr(self, "connection_pool", None), "sentinel_manager", None)
        for sentinel in manager.sentinels if manager is not None else ():
            sentinel.close()

    def parse_response(self, connection: redis.Connection, command_name: str, **options: Any) -> Any:
        """Return the answer to a command."""
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            # Of a script, Redis 6 says so in the middle of a longer text.
            if not isinstance(error, redis.ReadOnlyError) and "READONLY" not in str(error):
                raise
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError("this Redis is a replica now and refuses to write") from None


class Sentinels(Sentinel):
    """The sentinels of a master. The one that answered last is asked first."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the address of the master of ``service_name``.

        Raises MasterNotFoundError, with what each sentinel said.
        """
        # Other threads may be here as well: the list is replaced. redis-py swaps in place, and may lose a sentinel.
        asked = list(self.sentinels)
        said = []
        for sentinel in asked:
            try:
                masters: dict[str, Any] = sentinel.sentinel_masters()  # type: ignore[assignment]
            except redis.AuthenticationError as error:
                reason = f"{_reason(error)} (sentinel_username, sentinel_password)"
            except redis.RedisError as error:
                reason = _reason(error)
            else:
                state = masters.get(service_name)
                if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                    self.sentinels = [sentinel, *(other for other in asked if other is not sentinel)]
                    return state["ip"], state["port"]
                reason = "says that the master is down" if state else "knows no such service"
            place = sentinel.get_connection_kwargs()
            said.append(f"sentinel {place['host']}:{place['port']}: {reason}")
        raise MasterNotFoundError(f"no sentinel names the master of {service_name!r}: {'; '.join(said)}")


def connect(url: str, *, timeout: float) -> redis.Redis:
    """Return a client of the Redis at ``url``, which connects at the first command.

    Every command is sent once: when its answer is lost, the caller is told, and knows whether it may be sent again.
    ``timeout`` is how many seconds to wait, at most, for a connection and again for an answer; ``socket_timeout`` and
    ``socket_connect_timeout`` of the URL count where they are shorter. With Sentinel, each sentinel that does not
    answer costs as much again before the next one is asked. Answers are bytes.

    Raises InvalidValueError when ``url`` is none.
    """
    address = parse_redis_url(url)
    options = {
        # RESP 3 would add notices of maintenance, upon which redis-py waits longer than it was told to.
        "protocol": 2,
        **address.options,
        # redis-py retries ten times unless told otherwise: Redis() and Sentinel do, from_url() does not.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": min(timeout, address.options.get("socket_timeout", timeout)),
        "socket_connect_timeout": min(timeout, address.options.get("socket_connect_timeout", timeout)),
    }
    if not address.sentinels:
        return RedisClient.from_pool(redis.ConnectionPool(**options))
    del options["connection_class"]
    shared = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_")) or name in _SHARED}
    login = {**shared, **address.sentinel_login, "ssl": address.uses_tls}
    sentinels = Sentinels(address.sentinels, sentinel_kwargs=login)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        address.service, redis_class=RedisClient, ssl=address.uses_tls, **options
    )
    return client


def check_redis(url: str) -> None:
    """Return when the Redis at ``url`` answers.

    Raises RedisUnavailableError, which shows no password.
    """
    try:
        address = parse_redis_url(url)
        with connect(url, timeout=ANSWER_TIMEOUT) as client:
            client.ping()
    except InvalidValueError as error:
        raise RedisUnavailableError.at(url, error) from None
    except (redis.RedisError, OSError) as error:
        raise RedisUnavailableError.at(url, _missing_file(address) or _reason(error)) from None


def unsafe_for_claims(client: redis.Redis) -> list[str]:
    """Return what makes this Redis unsafe to hold the claims of slots: a sentence each, which says what to change.

    Raises redis.RedisError when Redis cannot be asked.
    """
    try:
        # CONFIG would say it too, but hosted services keep it to themselves.
        said: dict[str, Any] = client.info()
    except redis.ResponseError:  # it is renamed, or the user has no right to it
        return ["nobody can tell whether this Redis is safe: let the user of REDIS_URL run INFO (ACL SETUSER … +info)"]
    return what_is_unsafe(said)


def what_is_unsafe(said: Mapping[str, Any]) -> list[str]:
    """Return the warnings about a Redis that says this of itself; see ``unsafe_for_claims``."""
    if said.get("redis_mode") == "sentinel":
        return ["this is a sentinel and no Redis: write REDIS_URL like redis+sentinel://host:26379/service/0"]
    warnings = []
    version = str(said.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_REDIS:
        wanted = ".".join(map(str, OLDEST_REDIS))
        warnings.append(f"this Redis is version {version}, whose scripts cannot use its clock: use {wanted} or newer")
    if said.get("cluster_enabled"):
        warnings.append(
            "this Redis is a cluster, where lease, claim and message cannot change in one step: use one that is not "
            "(cluster-enabled no), with Sentinel for failover"
        )
    # The volatile-… policies evict only keys that expire. Claims and messages do not; the lease does, and when it goes
    # early another leader is elected, whose higher term shuts the first one out.
    policy = str(said.get("maxmemory_policy", ""))
    if policy.startswith("allkeys-"):
        warnings.append(
            f"this Redis may evict claims and messages when its memory is full (maxmemory-policy {policy}): "
            "set maxmemory-policy to noeviction"
        )
    if said.get("role") == "slave":
        warnings.append(
            "this Redis is a replica, which refuses to write: let REDIS_URL name the master, or the sentinels that "
            "know it (redis+sentinel://…)"
        )
    return warnings


def _reason(error: Exception) -> str:
    """Return what is wrong, in words that say where to look."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, redis.AuthenticationError):
        if "required" in text:
            return "it asks for a password, and none was given"
        return f"it refuses the user name or the password: {text}"
    if isinstance(error, redis.ResponseError) and "unknown command" in text.lower() and "SENTINEL" in text.upper():
        return "it is no sentinel"
    return text


def _missing_file(address: RedisAddress) -> str | None:
    for name in _FILES:
        given = address.options.get(name)
        if given is not None and not Path(given).exists():
            return f"there is no file {given}, which its {name} names"
    return None

"""A redis-server that lets in only the users of deploy/redis/users.acl."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.servers import RedisServer

USERS = Path(__file__).resolve().parents[1] / "deploy" / "redis" / "users.acl"
#: Unlike any word that stands in a log.
SUFFIX = "'s-pa55word"


class LockedRedis:
    """The server, as each of its users sees it."""

    def __init__(self, server: RedisServer) -> None:
        self.port = server.port

    def url(self, user: str = "adjourn") -> str:
        """Return where ``user`` enters."""
        return f"redis://{user}:{user}{SUFFIX}@127.0.0.1:{self.port}/0"

    @contextmanager
    def client(self, user: str = "adjourn") -> Iterator[redis.Redis]:
        """Open a client of redis-py's own, as ``user``."""
        with redis.Redis.from_url(self.url(user), protocol=2) as client:
            yield client

    @contextmanager
    def without(self, command: str, user: str = "adjourn") -> Iterator[None]:
        """Take a command from ``user`` for a while."""
        with self.client("admin") as admin:
            admin.execute_command("ACL", "SETUSER", user, f"-{command}")  # type: ignore[no-untyped-call]
            try:
                yield
            finally:
                admin.execute_command("ACL", "SETUSER", user, f"+{command}")  # type: ignore[no-untyped-call]

    def refusals(self) -> list[tuple[str, str]]:
        """Return who was refused what, the last one first.

        Not the names that redis-py gives itself: whether it may does not matter, and Redis 7.0 knows no right to it.
        """
        with self.client("admin") as admin:
            refused: Any = admin.acl_log()
        found = [(one["username"], one["object"]) for one in refused]
        return [(user, what) for user, what in found if what not in {"client", "client|setinfo"}]

    def forget_what_was_used(self) -> None:
        """Begin to count anew."""
        with self.client("admin") as admin:
            admin.config_resetstat()

    def used(self) -> set[str]:
        """Return the commands that were carried out, those of scripts too; not those that only this class uses."""
        with self.client("admin") as admin:
            counted: dict[str, Any] = admin.info("commandstats")
        names = {name.removeprefix("cmdstat_").partition("|")[0].lower() for name in counted}
        return names - {"acl", "auth", "client", "config"}


def commands_of(user: str) -> set[str]:
    """Return the commands that the file gives a user; ``script|load`` is ``script``."""
    [line] = [line for line in USERS.read_text().splitlines() if line.startswith(f"user {user} ")]
    return set(re.findall(r"(?<= \+)[a-z]+", line))


def _digest(found: re.Match[str]) -> str:
    return hashlib.sha256(f"{found[1].lower()}{SUFFIX}".encode()).hexdigest()


@contextmanager
def locked_redis(directory: Path, *, fill_in: bool = True) -> Iterator[LockedRedis]:
    """Start a server with the users of the file, whose passwords are filled in."""
    path = directory / "users.acl"
    text = USERS.read_text()
    path.write_text(re.sub(r"SHA256_OF_(\w+)", _digest, text) if fill_in else text)
    server = RedisServer(directory, "--aclfile", str(path), "--save", "")
    server.start()
    try:
        yield LockedRedis(server)
    finally:
        server.kill()

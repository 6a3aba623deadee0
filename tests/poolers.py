"""A real PgBouncer in front of PostgreSQL, as a hosted pooler is: each transaction may meet another connection."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from services.embedded.child import tethered
from tests.support import free_port, wait_for

PROJECT = Path(__file__).resolve().parents[1]
#: Where .ci/pgbouncer puts it, and the libraries that the system has not.
_INSTALLED = PROJECT / ".tools" / "pgbouncer"
#: From this version on it can follow prepared statements from one connection to the next, unless it is told not to.
_FOLLOWS_PREPARED = (1, 21)


@contextmanager
def pooler_to(database_url: str, directory: Path, *, connections: int) -> Iterator[str]:
    """Start a pooler in transaction mode with so many ``connections`` to the server; give the URL through it.

    The test is skipped where there is no PgBouncer.
    """
    url = make_url(database_url)
    port = free_port()
    configuration = directory / f"pgbouncer-{port}.ini"
    configuration.write_text(_configuration(url, port, connections))
    log = directory / f"pgbouncer-{port}.log"
    # It refuses to be root's; a socket is in a directory that only its owner may enter.
    user = ["--user", _owner(url)] if os.geteuid() == 0 else []
    with log.open("wb") as sink:
        process = subprocess.Popen(
            tethered([_pgbouncer(), *user, str(configuration)]),
            env=_environment(),
            stdout=sink,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    through = url.set(host="127.0.0.1", port=port, password=None, query={})

    def is_answering() -> bool:
        assert process.poll() is None, f"pgbouncer ended: {log.read_text()}"
        try:
            psycopg.connect(through.set(drivername="postgresql").render_as_string(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_for(is_answering, what=f"an answer of pgbouncer, see {log}")
        yield through.render_as_string()
    finally:
        process.kill()
        process.wait()


def _configuration(url: URL, port: int, connections: int) -> str:
    options = [
        "[databases]",
        f"* = {_server(url)}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        f"default_pool_size = {connections}",
    ]
    if _version() >= _FOLLOWS_PREPARED:
        options.append("max_prepared_statements = 0")
    return "\n".join(options) + "\n"


def _owner(url: URL) -> str:
    return Path(_host(url)).owner() if _host(url).startswith("/") else "nobody"


def _host(url: URL) -> str:
    return str(url.host or url.query.get("host") or "127.0.0.1")


def _server(url: URL) -> str:
    given = {"host": _host(url), "port": url.port or 5432, "user": url.username or "postgres", "password": url.password}
    return " ".join(f"{name}='{value}'" for name, value in given.items() if value)


def _version() -> tuple[int, ...]:
    told = subprocess.run([_pgbouncer(), "--version"], env=_environment(), capture_output=True, text=True, check=True)
    return tuple(int(part) for part in told.stdout.split()[1].split(".")[:2])


def _pgbouncer() -> str:
    places = os.pathsep.join(["/usr/sbin", str(_INSTALLED / "usr" / "bin"), str(_INSTALLED / "usr" / "sbin")])
    path = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=places)
    if path is None:
        pytest.skip("pgbouncer is not installed: run .ci/pgbouncer, or install the package of your system")
    return path


def _environment() -> dict[str, str]:
    libraries = [str(path) for path in _INSTALLED.glob("usr/lib/*-linux-gnu*")]
    given = os.environ.get("LD_LIBRARY_PATH")
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join([*libraries, *([given] if given else [])])}

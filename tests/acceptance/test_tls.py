"""TLS to PostgreSQL and to Redis, with real certificates: the right one is accepted by each command, no other is."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from sqlalchemy import URL, make_url

from services.database import check_reachable, create_database_engine
from services.errors import DatabaseUnavailableError
from tests.acceptance.commands import answer, run, running
from tests.certificates import tls_of
from tests.servers import Relay, redis_server_with, relay_to
from tests.support import free_port, wait_for

Speak = Callable[..., Relay]
NAME = "127.0.0.1"
#: How a certificate is wrong, and what is said of it, of PostgreSQL's and of Redis's.
WRONG = {
    "expired": ("certificate has expired", "certificate has expired"),
    "of another name": ('certificate for "elsewhere.example" does not match', f"not valid for '{NAME}'"),
    "of an unknown authority": ("unable to get local issuer certificate", "unable to get local issuer certificate"),
}


class Certificates:
    """Certificates, and the file that says whom to trust."""

    def __init__(self, directory: Path) -> None:
        self._known, self._unknown = trustme.CA(), trustme.CA()
        self.file = directory / "ca.pem"
        self._known.cert_pem.write_to_path(str(self.file))
        self.right = tls_of(self._known, NAME)
        self.wrong = {
            "expired": tls_of(self._known, NAME, is_expired=True),
            "of another name": tls_of(self._known, "elsewhere.example"),
            "of an unknown authority": tls_of(self._unknown, NAME),
        }


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server_with(tmp_path_factory.mktemp("redis")) as server:
        yield server.port


@pytest.fixture
def speak() -> Iterator[Speak]:
    """Return a function that puts TLS, or without a context nothing, before a server."""
    with ExitStack() as relays:
        yield lambda upstream, tls: relays.enter_context(relay_to(upstream, tls=tls))


def listening(url: URL) -> int | Path:
    """Return where the PostgreSQL of ``url`` listens."""
    host = str(url.query.get("host") or url.host)
    if host.startswith("/"):
        return Path(host) / f".s.PGSQL.{url.port or 5432}"
    if host not in {"127.0.0.1", "localhost"}:
        pytest.skip("PostgreSQL is on another machine")
    return url.port or 5432


def before(database_url: str, relay: Relay, **query: str) -> str:
    """Return the URL of the same database through a relay, with a password if it needs none."""
    url = make_url(database_url)
    through = url.set(host=NAME, port=relay.port, password=url.password or "pa55word", query=query)
    return through.set(drivername="postgresql").render_as_string(hide_password=False)


def refusal(url: str) -> str:
    """Return what is said of a database that cannot be used."""
    engine = create_database_engine(url)
    with pytest.raises(DatabaseUnavailableError) as refused:
        check_reachable(engine)
    return str(refused.value)


def test_commands_work_with_certificates_that_are_right(
    certificates: Certificates, postgresql_url: str, redis_port: int, speak: Speak, tmp_path: Path
) -> None:
    postgresql = speak(listening(make_url(postgresql_url)), certificates.right)
    redis = speak(redis_port, certificates.right)
    port = str(free_port())
    variables = {
        "DATABASE_URL": before(postgresql_url, postgresql, sslmode="verify-full", sslrootcert=str(certificates.file)),
        "REDIS_URL": f"rediss://{NAME}:{redis.port}/0?ssl_ca_certs={certificates.file}",
        "dramatiq_prom_port": port,
    }
    with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker:
        wait_for(lambda: answer(port, "/healthz")[0] == 200, what="a worker that lives")

        def is_reached() -> bool:
            report = answer(port, "/readyz")[1]
            # It waits for nothing but its first tick, and there is no scheduler.
            return bool(report) and not any("database" in one or "redis" in one.lower() for one in report["reasons"])

        wait_for(lambda: postgresql.encrypted and redis.encrypted and is_reached(), what="a worker that reaches both")
        once = run("adjourn", "run", "--once", directory=tmp_path, variables=variables)
        status = run("adjourn", "status", "--json", directory=tmp_path, variables=variables)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        assert "Traceback" not in worker.output
        assert "pa55word" not in worker.output
    assert (once.returncode, once.stderr.count("Traceback")) == (0, 0), once.stderr
    told = json.loads(status.stdout)
    assert told["workers"]


@pytest.mark.parametrize("kind", WRONG)
def test_a_certificate_that_is_wrong_is_one_line_that_says_how(
    *, kind: str, certificates: Certificates, postgresql_url: str, redis_port: int, speak: Speak, tmp_path: Path
) -> None:
    postgresql = speak(listening(make_url(postgresql_url)), certificates.wrong[kind])
    redis = speak(redis_port, certificates.wrong[kind])
    variables = {
        "DATABASE_URL": before(postgresql_url, postgresql, sslmode="verify-full", sslrootcert=str(certificates.file)),
        "REDIS_URL": f"rediss://:pa55word@{NAME}:{redis.port}/0?ssl_ca_certs={certificates.file}",
    }

    shown = run("adjourn", "status", directory=tmp_path, variables=variables)

    assert (shown.returncode, shown.stderr) == (1, "")
    for name, said in zip(("the database at postgresql+psycopg", "Redis at rediss"), WRONG[kind], strict=True):
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith(f"! cannot use {name}://")]
        assert said in line
    assert "pa55word" not in shown.stdout


def test_a_command_that_needs_the_database_ends_with_one_line(
    certificates: Certificates, postgresql_url: str, speak: Speak, tmp_path: Path
) -> None:
    postgresql = speak(listening(make_url(postgresql_url)), certificates.wrong["expired"])
    url = before(postgresql_url, postgresql, sslmode="verify-full", sslrootcert=str(certificates.file))

    once = run("adjourn", "run", "--once", directory=tmp_path, variables={"DATABASE_URL": url})

    assert (once.returncode, once.stdout) == (1, "")
    (line,) = once.stderr.splitlines()
    assert line.startswith("adjourn: cannot use the database at ")
    assert line.endswith("certificate verify failed: certificate has expired")
    assert "pa55word" not in line


@pytest.mark.slow
def test_a_worker_that_waits_for_a_certificate_to_be_mended_says_so(
    certificates: Certificates, postgresql_url: str, redis_url: str, speak: Speak, tmp_path: Path
) -> None:
    postgresql = speak(listening(make_url(postgresql_url)), certificates.wrong["expired"])
    url = before(postgresql_url, postgresql, sslmode="verify-full", sslrootcert=str(certificates.file))
    port = str(free_port())
    variables = {"DATABASE_URL": url, "REDIS_URL": redis_url, "dramatiq_prom_port": port}
    with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker:
        worker.wait_for_output("certificate verify failed: certificate has expired")
        wait_for(lambda: "certificate has expired" in str(answer(port, "/readyz")[1]), what="the reason")
        assert "Traceback" not in worker.output
        assert "pa55word" not in worker.output + str(answer(port, "/readyz")[1])


def test_sslmode_says_whether_a_certificate_is_looked_at(
    certificates: Certificates, postgresql_url: str, speak: Speak
) -> None:
    place = listening(make_url(postgresql_url))
    wrong = speak(place, certificates.wrong["of an unknown authority"])
    for query in ({}, {"sslmode": "prefer"}, {"sslmode": "require"}):
        engine = create_database_engine(before(postgresql_url, wrong, **query))
        check_reachable(engine)
        engine.dispose()
    assert wrong.encrypted == 3, "whoever it was"

    known = {"sslrootcert": str(certificates.file)}
    other = speak(place, certificates.wrong["of another name"])
    engine = create_database_engine(before(postgresql_url, other, sslmode="verify-ca", **known))
    check_reachable(engine)
    engine.dispose()
    assert "does not match host name" in refusal(before(postgresql_url, other, sslmode="verify-full", **known))

    plain = speak(place, None)
    assert refusal(before(postgresql_url, plain, sslmode="require")).endswith(
        "server does not support SSL, but SSL was required"
    )
    missing = str(certificates.file) + ".gone"
    assert f'root certificate file "{missing}" does not exist' in refusal(
        before(postgresql_url, wrong, sslmode="verify-full", sslrootcert=missing)
    )


@pytest.mark.parametrize("is_told", [False, True])
def test_the_authorities_of_the_system_are_those_of_ssl_cert_file(
    *,
    is_told: bool,
    certificates: Certificates,
    postgresql_url: str,
    speak: Speak,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    if is_told:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.file))
    url = before(
        postgresql_url,
        speak(listening(make_url(postgresql_url)), certificates.right),
        sslmode="verify-full",
        sslrootcert="system",
    )
    if is_told:
        engine = create_database_engine(url)
        check_reachable(engine)
        engine.dispose()
    else:
        assert "does not find the system's certificates; let sslrootcert name a file of them" in refusal(url)

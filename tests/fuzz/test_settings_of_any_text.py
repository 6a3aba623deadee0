"""Whatever a variable of the environment says, it is a setting that works, or one line that names it and no secret."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.database import create_database_engine
from services.database_url import parse_database_url, shown_url
from services.errors import InvalidValueError, SettingsError, without_password
from services.health import Role
from services.monitoring.addresses import base_url
from services.redis_url import parse_redis_url
from services.settings import Settings, load_settings
from services.tasks import Task
from services.timeouts import LONGEST_TIMEOUT, format_duration, parse_duration
from tests.acceptance.commands import run
from tests.fuzz.effort import tried
from tests.fuzz.values import AWKWARD_TEXTS, CHARACTERS
from tests.support import NOON

VARIABLES = sorted(str(field.alias) for field in Settings.model_fields.values())
_SECRET = "s3cret"
#: What an environment can hold: no NUL, and for bytes that are not UTF-8 the surrogates that Python makes of them.
environment_texts = st.one_of(
    st.text(CHARACTERS, max_size=30),
    st.sampled_from(AWKWARD_TEXTS),
    st.sampled_from(("60", "30m", "1h30m", "0 3 * * *", "TZ=Europe/Paris 0 3 * * 0", "true", "json", "info", "9" * 20)),
    st.binary(max_size=20).map(os.fsdecode),
    st.builds(lambda one, times: one * times, st.sampled_from(("a", "9", "é", "*")), st.sampled_from((300, 100_000))),
    st.from_regex(r"(TZ=[A-Za-z/]{0,9} )?([0-9*,/LW#-]{1,5} ){4}[0-9*,/L#-]{1,5}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,6}(\.[0-9])?[dhms_ e]?[0-9]{0,2}", fullmatch=True),
).map(lambda text: os.fsdecode(text.encode(errors="surrogatepass")).replace("\0", ""))


def refusal_of(load: Callable[[], Any]) -> str | None:
    """Return what it is refused with, which is one line of ours; None when it is taken."""
    try:
        load()
    except (InvalidValueError, SettingsError) as refusal:
        text = str(refusal)
    else:
        return None
    assert text.isprintable(), text
    assert len(text) < 1_000, text
    for word in ("sys.set_int_max_str_digits", "codec", "invalid literal", "Traceback", "pydantic"):
        assert word not in text
    return text


def use(settings: Settings) -> None:
    """Ask the settings for all that they are there for."""
    create_database_engine(settings.database).dispose()
    parse_redis_url(settings.broker_url)
    assert settings.crew_limit >= 1
    assert settings.timeouts.idle > timedelta(0)
    for task in Task:
        schedule = settings.schedule(task)
        assert schedule.slot_after(NOON) > NOON
        assert str(schedule)
    settings.data_dir.expanduser().absolute()


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@tried(150)
@given(variable=st.sampled_from(VARIABLES), value=environment_texts)
@example(variable="ADJOURN_DATA_DIR", value="~nobody-has-this-name/x")
@example(variable="ADJOURN_DATA_DIR", value="\udcff")
@example(variable="ADJOURN_DATA_DIR", value="a" * 300)
@example(variable="ADJOURN_DATA_DIR", value="a/" * 3_000)
@example(variable="ADJOURN_DATA_DIR", value="a\nb")
@example(variable="BACKGROUND_TASK_INTERVAL", value="9" * 5_000)
@example(variable="BACKGROUND_TASK_BATCH_SIZE", value="9" * 5_000)
@example(variable="BACKGROUND_TASK_BATCH_SIZE", value="\udcff")
@example(variable="BACKGROUND_TASK_IDLE_SCHEDULE", value="9" * 5_000 + " * * * *")
@example(variable="BACKGROUND_TASK_IDLE_SCHEDULE", value="TZ=" + "a" * 5_000 + " * * * * *")
@example(variable="DATABASE_URL", value="sqlite://host/x")
def test_a_variable_of_any_text_is_a_setting_or_refused_by_name(variable: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)

        said = refusal_of(lambda: use(load_settings()))

    assert said is None or variable in said


@tried(100)
@given(text=environment_texts)
def test_a_duration_is_read_as_it_is_written_or_refused(text: str) -> None:
    said = refusal_of(lambda: parse_duration(text))

    if said is None:
        duration = parse_duration(text)
        assert timedelta(0) < duration <= LONGEST_TIMEOUT
        assert parse_duration(format_duration(duration)) == duration


_queries = st.sampled_from(
    (
        "",
        "?",
        "?timeout=abc",
        "?plugin=nope",
        "?autocommit=1",
        "?prepare_threshold=x",
        "?prepared_statements=no",
        "?sslmode=require",
        "?host=a:1,b",
        "?host=%00",
        "?x=%00",
        "?uri=true&mode=x",
        "?check_same_thread=x",
        "?db=-1",
        "?socket_timeout=nan",
        "?ssl_cert_reqs=x",
        "?ssl_min_version=x",
        "?protocol=9",
        "?max_connections=-1",
        "?health_check_interval=x",
        "?client_name=%0a",
    )
)
_urls = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(
            (
                "postgresql",
                "postgres",
                "postgresql+psycopg",
                "sqlite",
                "mysql",
                "redis",
                "rediss",
                "unix",
                "redis+sentinel",
            )
        ),
        st.sampled_from(("://", "://", ":/", ":///", "")),
        st.sampled_from(("", "user@", ":pa55@", "user:pa55@", "us/er:pa55@", "@")),
        st.one_of(
            st.sampled_from(
                ("host", "127.0.0.1", "[::1]", "[::1", "a" * 70, "host:5432", "host:x", "host:99999", "a,b", "")
            ),
            st.text(CHARACTERS, max_size=8),
        ),
        st.one_of(
            st.sampled_from(("/", "/name", "/0", "//", "/a b", "/%00", "/%ff", "/" + "a" * 300, "/:memory:", "/-1")),
            st.text(CHARACTERS, max_size=8).map(lambda text: f"/{text}"),
        ),
        _queries,
    ),
)


@tried(100)
@given(url=_urls)
@example(url="sqlite:///x?timeout=abc")
@example(url="sqlite:///%00")
@example(url="sqlite:///x?plugin=nope")
@example(url="sqlite:///" + "a" * 5_000)
@example(url="postgresql://host/name?plugin=nope")
@example(url="postgresql://host/name?autocommit=true")
@example(url=f"postgresql://{'a' * 70}/name")
@example(url="postgresql://a\nb/name")
def test_a_url_of_a_database_makes_an_engine_or_is_refused(url: str) -> None:
    def use_url() -> None:
        engine = create_database_engine(parse_database_url(url))
        assert shown_url(engine.url).isprintable()
        engine.dialect.create_connect_args(engine.url)
        engine.dispose()

    refusal_of(use_url)


@tried(100)
@given(url=_urls)
def test_a_url_of_redis_makes_an_address_or_is_refused(url: str) -> None:
    refusal_of(lambda: parse_redis_url(url))


_bits = st.text(alphabet="@:/?#%[]&= ", max_size=3)


@tried(100)
@given(
    scheme=st.sampled_from(("postgresql", "redis", "rediss", "redis+sentinel")), name=_bits, before=_bits, after=_bits
)
@example(scheme="postgresql", name="u", before="p@", after="/w@rd")
@example(scheme="postgresql", name="u", before="p@ss/", after="")
@example(scheme="postgresql", name="us/er", before="", after="")
@example(scheme="postgresql", name="u", before="p@s?", after="")
@example(scheme="postgresql", name="/", before="", after="?")
def test_no_part_of_a_password_is_shown_however_badly_its_url_is_written(
    scheme: str, name: str, before: str, after: str
) -> None:
    url = f"{scheme}://{name}:{before}{_SECRET}{after}@host/0"
    variable = "DATABASE_URL" if scheme == "postgresql" else "REDIS_URL"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, url)
        said = refusal_of(load_settings)
        shown = (
            without_password(url) if said is not None or scheme != "postgresql" else shown_url(load_settings().database)
        )

    assert _SECRET not in (said or "")
    # Of one that is refused nothing is shown, and of a query nobody knows which part is secret.
    assert said is not None or _SECRET not in shown


@tried(100)
@given(directory=environment_texts, port=environment_texts, host=environment_texts)
@example(directory="~nobody-has-this-name/x", port="", host="")
@example(directory="a" * 300, port="0", host="::")
def test_where_a_worker_answers_is_known_whatever_the_environment_says(directory: str, port: str, host: str) -> None:
    environment = {"ADJOURN_DATA_DIR": directory, "dramatiq_prom_port": port, "dramatiq_prom_host": host}

    assert base_url(Role.WORKER, environment).startswith("http://")


_BAD = {
    "ADJOURN_DATA_DIR": b"~nobody-has-this-name/x",
    "BACKGROUND_TASK_INTERVAL": b"\xff\xfe",
    "BACKGROUND_TASK_BATCH_SIZE": b"9" * 5_000,
    "BACKGROUND_TASK_IDLE_SCHEDULE": "٣ * * * *".encode(),
    "LOG_LEVEL": b"lo\nud",
    "DATABASE_URL": f"postgresql://u:p@{_SECRET}/w@rd@127.0.0.1/name".encode(),
    "REDIS_URL": f"redis://u:p@{_SECRET}#w@rd@127.0.0.1/0".encode(),
}


def line_of(*arguments: str, directory: Path, variables: Mapping[str, bytes]) -> str:
    """Return the one line with which a command of ours refuses to start."""
    ended = run(
        *arguments, directory=directory, variables={name: os.fsdecode(said) for name, said in variables.items()}
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    assert _SECRET not in line
    assert len(line) < 3_000
    return line


def test_a_command_names_all_bad_variables_in_one_line(tmp_path: Path) -> None:
    line = line_of("adjourn", "status", directory=tmp_path, variables=_BAD)

    assert line.startswith("adjourn: ")
    for variable in _BAD:
        assert variable in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *_BAD.items(),
        ("ADJOURN_DATA_DIR", b"\xff"),
        ("ADJOURN_DATA_DIR", b"a" * 300),
        ("DATABASE_URL", b"sqlite:///x?timeout=abc"),
        ("DATABASE_URL", b"sqlite:///%00"),
        ("DATABASE_URL", b"postgresql://127.0.0.1/x?plugin=nope"),
    ],
)
@pytest.mark.parametrize("command", ["adjourn status", "adjourn run --once", "adjourn migrate"])
def test_each_command_names_a_bad_variable_in_one_line(
    tmp_path: Path, command: str, variable: str, value: bytes
) -> None:
    assert line_of(*command.split(), directory=tmp_path, variables={variable: value}).startswith(f"adjourn: {variable}")

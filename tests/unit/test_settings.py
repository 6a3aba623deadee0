from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.errors import SettingsError
from services.schedules import Cron, Every
from services.settings import Settings, load_settings, unknown_variables
from services.tasks import Task
from services.timeouts import Timeouts
from tests.support import NOON

VARIABLES = {field.alias for field in Settings.model_fields.values() if field.alias}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_the_names_that_deployments_set_are_all_known() -> None:
    contract = {
        "DATABASE_URL",
        "DATABASE_PREPARED_STATEMENTS",
        "REDIS_URL",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "ADJOURN_DATA_DIR",
        "BACKGROUND_TASK_INTERVAL",
        "BACKGROUND_TASK_BATCH_SIZE",
        "BACKGROUND_TASK_DRAIN_WORKERS",
        "BACKGROUND_TASK_ENABLE_METRICS",
        "BACKGROUND_TASK_IDLE_TIMEOUT",
        "BACKGROUND_TASK_EXPIRE_AFTER",
        "BACKGROUND_TASK_IDLE_ENABLED",
        "BACKGROUND_TASK_IDLE_INTERVAL_MULTIPLIER",
        "BACKGROUND_TASK_IDLE_SCHEDULE",
        "BACKGROUND_TASK_EXPIRED_ENABLED",
        "BACKGROUND_TASK_EXPIRED_INTERVAL_MULTIPLIER",
        "BACKGROUND_TASK_EXPIRED_SCHEDULE",
        "BACKGROUND_TASK_LEASE_TIMEOUT",
        "BACKGROUND_TASK_RENEW_INTERVAL",
        "BACKGROUND_TASK_CATCHUP_WINDOW",
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT",
    }
    assert contract <= VARIABLES


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load_settings()

    assert (settings.database_url, settings.redis_url) == (None, None)
    assert settings.prepared_statements
    assert (settings.log_level, settings.log_format) == ("INFO", "console")
    assert settings.data_dir == Path(".adjourn")
    assert settings.interval == timedelta(seconds=60)
    assert settings.batch_size == 4_000
    assert settings.time_budget == timedelta(seconds=30)
    assert settings.drain_workers == 2
    assert settings.enable_metrics
    assert settings.lease_timeout == timedelta(seconds=15)
    assert settings.renew_interval == timedelta(seconds=5)
    assert settings.catchup_window == timedelta(hours=1)
    assert (settings.metrics_host, settings.worker_metrics_port, settings.scheduler_metrics_port) == (
        "127.0.0.1",
        9191,
        9192,
    )
    assert settings.timeouts == Timeouts(idle=timedelta(minutes=30), expiry=timedelta(hours=24))
    for task in Task:
        assert settings.is_enabled(task)
        assert settings.schedule(task) == Every(seconds=60)
    assert settings.database.drivername == "sqlite"
    assert settings.database.database == str(Path.cwd() / ".adjourn" / "adjourn.db")
    assert settings.broker_url == "redis://127.0.0.1:6379/0"


def test_on_sqlite_nobody_is_called_in_to_a_backlog() -> None:
    settings = load_settings(BACKGROUND_TASK_DRAIN_WORKERS="3", DATABASE_URL="postgresql://localhost/adjourn")
    assert settings.crew_limit == 3

    assert load_settings(BACKGROUND_TASK_DRAIN_WORKERS="3").crew_limit == 1


def refusal(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> str:
    """Return what is said of a value that makes no sense."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "field", "meant"),
    [
        ("DATABASE_URL", "sqlite:////tmp/a.db", "database_url", "sqlite:////tmp/a.db"),
        ("DATABASE_PREPARED_STATEMENTS", "false", "prepared_statements", False),
        ("REDIS_URL", "redis://host:1234/5", "redis_url", "redis://host:1234/5"),
        ("REDIS_URL", "rediss://host", "redis_url", "rediss://host"),
        ("REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
        ("LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("LOG_LEVEL", "warning", "log_level", "WARNING"),
        ("LOG_FORMAT", "json", "log_format", "json"),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
        ("ADJOURN_DATA_DIR", "/srv/adjourn", "data_dir", Path("/srv/adjourn")),
        ("BACKGROUND_TASK_INTERVAL", "10", "interval", timedelta(seconds=10)),
        ("BACKGROUND_TASK_INTERVAL", "5m", "interval", timedelta(minutes=5)),
        ("BACKGROUND_TASK_BATCH_SIZE", "1", "batch_size", 1),
        ("BACKGROUND_TASK_BATCH_SIZE", "100000", "batch_size", 100_000),
        ("BACKGROUND_TASK_TIME_BUDGET", "10s", "time_budget", timedelta(seconds=10)),
        ("BACKGROUND_TASK_ENABLE_METRICS", "false", "enable_metrics", False),
        ("BACKGROUND_TASK_ENABLE_METRICS", "0", "enable_metrics", False),
        ("BACKGROUND_TASK_IDLE_TIMEOUT", "1h30m", "idle_timeout", timedelta(minutes=90)),
        ("BACKGROUND_TASK_EXPIRE_AFTER", "7d", "expire_after", timedelta(days=7)),
        ("BACKGROUND_TASK_LEASE_TIMEOUT", "10", "lease_timeout", timedelta(seconds=10)),
        ("BACKGROUND_TASK_LEASE_TIMEOUT", "10m", "lease_timeout", timedelta(minutes=10)),
        ("BACKGROUND_TASK_RENEW_INTERVAL", "7s", "renew_interval", timedelta(seconds=7)),
        ("BACKGROUND_TASK_CATCHUP_WINDOW", "15s", "catchup_window", timedelta(seconds=15)),
        ("BACKGROUND_TASK_CATCHUP_WINDOW", "7d", "catchup_window", timedelta(days=7)),
        ("BACKGROUND_TASK_SCHEDULER_METRICS_PORT", "0", "scheduler_metrics_port", 0),
        ("BACKGROUND_TASK_SCHEDULER_METRICS_PORT", "65535", "scheduler_metrics_port", 65_535),
        ("BACKGROUND_TASK_IDLE_ENABLED", "no", "idle_enabled", False),
        ("BACKGROUND_TASK_EXPIRED_ENABLED", "off", "expired_enabled", False),
        ("BACKGROUND_TASK_IDLE_INTERVAL_MULTIPLIER", "3", "idle_interval_multiplier", 3),
        ("BACKGROUND_TASK_EXPIRED_INTERVAL_MULTIPLIER", "100000", "expired_interval_multiplier", 100_000),
        ("BACKGROUND_TASK_IDLE_SCHEDULE", "*/5 * * * *", "idle_schedule", "*/5 * * * *"),
        (
            "BACKGROUND_TASK_EXPIRED_SCHEDULE",
            "TZ=Europe/Paris 0 3 * * 0",
            "expired_schedule",
            "TZ=Europe/Paris 0 3 * * 0",
        ),
    ],
)
def test_each_variable_is_read(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, meant: Any
) -> None:
    assert getattr(load_settings(), field) != meant
    monkeypatch.setenv(variable, value)

    assert getattr(load_settings(), field) == meant


@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_a_variable_that_is_set_and_empty_is_not_set(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "")

    assert load_settings() == Settings()
    monkeypatch.delenv(variable)
    assert load_settings().model_dump() == Settings().model_dump()


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("DATABASE_PREPARED_STATEMENTS", "never", "true or false"),
        ("LOG_FORMAT", "xml", "'json' or 'console'"),
        ("BACKGROUND_TASK_SCHEDULER_METRICS_PORT", "65536", "less than or equal to 65535"),
        ("BACKGROUND_TASK_SCHEDULER_METRICS_PORT", "web", "valid integer"),
        ("BACKGROUND_TASK_LEASE_TIMEOUT", "0", "more than 0"),
        ("BACKGROUND_TASK_INTERVAL", "soon", "write it like 90s, 30m, 24h"),
        ("BACKGROUND_TASK_INTERVAL", "0", "more than 0"),
        ("BACKGROUND_TASK_INTERVAL", "0.5", "write it like 90s, 30m, 24h"),
        ("BACKGROUND_TASK_INTERVAL", "1m\n2m", "write it like 90s, 30m, 24h"),
        ("BACKGROUND_TASK_BATCH_SIZE", "0", "greater than or equal to 1"),
        ("BACKGROUND_TASK_BATCH_SIZE", "100001", "less than or equal to 100000"),
        ("BACKGROUND_TASK_BATCH_SIZE", "many", "a valid integer"),
        ("BACKGROUND_TASK_TIME_BUDGET", "-1", "write it like 90s, 30m, 24h"),
        ("BACKGROUND_TASK_ENABLE_METRICS", "maybe", "true or false"),
        ("BACKGROUND_TASK_IDLE_TIMEOUT", "30 minutes", "write it like 90s, 30m, 24h"),
        ("BACKGROUND_TASK_EXPIRE_AFTER", "3651d", "at most 3650d"),
        ("BACKGROUND_TASK_IDLE_ENABLED", "2", "true or false"),
        ("BACKGROUND_TASK_EXPIRED_ENABLED", "ja", "true or false"),
        ("BACKGROUND_TASK_IDLE_INTERVAL_MULTIPLIER", "0", "greater than or equal to 1"),
        ("BACKGROUND_TASK_EXPIRED_INTERVAL_MULTIPLIER", "1.5", "a valid integer"),
        ("BACKGROUND_TASK_IDLE_SCHEDULE", "* * * *", "give five fields"),
        ("BACKGROUND_TASK_IDLE_SCHEDULE", "61 * * * *", "crontab(5)"),
        ("BACKGROUND_TASK_EXPIRED_SCHEDULE", "0 0 30 2 *", "crontab(5)"),
        ("BACKGROUND_TASK_EXPIRED_SCHEDULE", "TZ=Mars/Base 0 0 * * *", "give a name such as Europe/Paris"),
        ("BACKGROUND_TASK_EXPIRED_SCHEDULE", "TZ= 0 0 * * *", "give a name such as Europe/Paris"),
        ("BACKGROUND_TASK_EXPIRED_SCHEDULE", "TZ=Europe/Paris", "give five fields"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line_with_the_variable_the_value_and_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, right: str
) -> None:
    said = refusal(monkeypatch, variable, value)
    assert said.startswith(f"{variable}={value!r}: ")
    assert right in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("DATABASE_URL", "mysql://root:pa55word@host/name", "'mysql' is not supported; use postgresql://"),
        ("DATABASE_URL", "root:pa55word@host", "write it like postgresql://user:password@host/name"),
        ("DATABASE_URL", "postgresql://root:pa55word@host:port/name", "write it like postgresql://"),
        ("DATABASE_URL", "postgresql://root:pa55word@host/name?prepared_statements=no", "write true or false"),
        ("DATABASE_URL", "pa55word", "write it like postgresql://"),
        ("REDIS_URL", "http://:pa55word@host", "write it like redis://host:6379/0"),
        ("REDIS_URL", ":pa55word@host", "write it like redis://host:6379/0"),
    ],
)
def test_a_url_that_makes_no_sense_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, right: str
) -> None:
    said = refusal(monkeypatch, variable, value)
    assert said.startswith(f"{variable}: ")
    assert right in said
    assert "pa55word" not in said
    assert "\n" not in said


def test_several_values_that_make_no_sense_are_all_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    monkeypatch.setenv("BACKGROUND_TASK_BATCH_SIZE", "0")

    with pytest.raises(SettingsError, match=r"^LOG_LEVEL='LOUD': [^\n]*; BACKGROUND_TASK_BATCH_SIZE='0': [^\n]*$"):
        load_settings()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"LEASE_TIMEOUT": "15s", "RENEW_INTERVAL": "8s"},
            (
                "BACKGROUND_TASK_RENEW_INTERVAL: 8s leaves no time for a second try; it must be at most half of "
                "BACKGROUND_TASK_LEASE_TIMEOUT (15s)"
            ),
        ),
        (
            {"LEASE_TIMEOUT": "10m1s", "CATCHUP_WINDOW": "1h"},
            "BACKGROUND_TASK_LEASE_TIMEOUT: 10m1s is how long nobody leads after a crash; it must be at most 10m",
        ),
        (
            {"CATCHUP_WINDOW": "14s"},
            (
                "BACKGROUND_TASK_CATCHUP_WINDOW: 14s is shorter than what a crash may cost; it must be at least "
                "BACKGROUND_TASK_LEASE_TIMEOUT (15s)"
            ),
        ),
    ],
)
def test_the_durations_of_the_election_are_checked_against_each_other(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"BACKGROUND_TASK_{name}", value)

    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value) == said


def test_a_renewal_of_half_the_lease_and_a_window_of_a_lease_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEASE_TIMEOUT": "4s", "RENEW_INTERVAL": "2s", "CATCHUP_WINDOW": "4s"}.items():
        monkeypatch.setenv(f"BACKGROUND_TASK_{name}", value)

    assert load_settings().lease_timeout == timedelta(seconds=4)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_way_to_write_postgresql_uses_our_driver(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://me:pa55word@host:5433/name?sslmode=require")

    url = load_settings().database

    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg://me:pa55word@host:5433/name?sslmode=require"
    )


@pytest.mark.parametrize(
    ("url", "prepared", "told"),
    [
        ("postgresql://me@host/name", "true", None),
        ("postgresql://me@host/name", "false", "false"),
        ("postgresql://me@host/name?sslmode=require", "false", "false"),
        ("postgresql://me@host/name?prepared_statements=false", "true", "false"),
        ("postgresql://me@host/name?prepared_statements=true", "false", "true"),
        ("sqlite:////srv/a.db", "false", None),
    ],
)
def test_the_url_of_the_database_carries_whether_statements_are_prepared(
    monkeypatch: pytest.MonkeyPatch, url: str, prepared: str, told: str | None
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("DATABASE_PREPARED_STATEMENTS", prepared)

    assert load_settings().database.query.get("prepared_statements") == told


@pytest.mark.parametrize(
    ("variable", "is_ours"),
    [
        ("BACKGROUND_TASK_INTERVALL", True),
        ("ADJOURN_DATA", True),
        ("DATABASE_PREPARED_STATEMENT", True),
        ("DATABASE_PREPARE_STATEMENTS", True),
        ("DATABASE_HOST", False),
        ("LOG_FILE", False),
    ],
)
def test_a_variable_that_is_misspelt_is_noticed_and_another_programs_is_not(variable: str, is_ours: bool) -> None:  # noqa: FBT001
    environment = dict.fromkeys(VARIABLES, "1")
    assert unknown_variables(environment) == []

    assert unknown_variables({**environment, variable: "1"}) == [variable] * is_ours


def test_the_embedded_database_is_in_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADJOURN_DATA_DIR", str(tmp_path))

    assert load_settings().database.database == str(tmp_path / "adjourn.db")


def test_the_home_directory_may_be_written_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADJOURN_DATA_DIR", "~/conversations")

    assert load_settings().database.database == str(Path.home() / "conversations" / "adjourn.db")


def test_a_task_has_its_own_schedule_of_multiples_of_the_interval_or_a_cron_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKGROUND_TASK_INTERVAL", "10")
    monkeypatch.setenv("BACKGROUND_TASK_IDLE_INTERVAL_MULTIPLIER", "3")
    monkeypatch.setenv("BACKGROUND_TASK_EXPIRED_INTERVAL_MULTIPLIER", "5")
    assert load_settings().schedule(Task.IDLE) == Every(seconds=30)
    assert load_settings().schedule(Task.EXPIRED) == Every(seconds=50)

    monkeypatch.setenv("BACKGROUND_TASK_EXPIRED_SCHEDULE", "CRON_TZ=Europe/Paris 0 3 * * *")
    assert load_settings().schedule(Task.IDLE) == Every(seconds=30)
    assert load_settings().schedule(Task.EXPIRED) == Cron("0 3 * * *", tz="Europe/Paris")


@pytest.mark.parametrize("task", Task)
def test_a_task_can_be_switched_off_without_the_other(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    name = "IDLE" if task is Task.IDLE else "EXPIRED"
    monkeypatch.setenv(f"BACKGROUND_TASK_{name}_ENABLED", "false")

    settings = load_settings()

    assert [other for other in Task if not settings.is_enabled(other)] == [task]


def test_the_longest_interval_times_the_largest_multiplier_is_refused_or_has_a_next_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKGROUND_TASK_INTERVAL", "3650d")
    monkeypatch.setenv("BACKGROUND_TASK_IDLE_INTERVAL_MULTIPLIER", "100000")
    try:
        schedule = load_settings().schedule(Task.IDLE)
    except SettingsError:
        return
    assert schedule.slot_after(NOON) > NOON


def test_what_a_caller_gives_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKGROUND_TASK_BATCH_SIZE", "7")

    assert load_settings(BACKGROUND_TASK_BATCH_SIZE=9).batch_size == 9


@pytest.mark.parametrize(
    "value", ["127.0.0.1", "0.0.0.0", "10.0.0.7", "::1", "::", "fd00::7", "localhost", "metrics.example.com", "web-1"]
)
def test_an_endpoint_listens_at_an_address_or_the_name_of_one(value: str) -> None:
    assert load_settings(dramatiq_prom_host=value).metrics_host == value


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "[::1]",
        "127.0.0.1:9191",
        "::1:x",
        "http://127.0.0.1",
        "127.0.0",
        "256.0.0.1",
        "1",
        "a b",
        "-a",
        "a.",
        "a\n",
    ],
)
def test_an_endpoint_that_could_listen_nowhere_is_refused(value: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^dramatiq_prom_host='.*': it is no address to listen on; write 127"
    ) as said:
        load_settings(dramatiq_prom_host=value)
    assert "\n" not in str(said.value)

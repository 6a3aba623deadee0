"""The settings: environment variables, read once, each checked when the process starts.

SQLAlchemy is imported when a database is asked for: commands that ask Redis only need none.
"""

# ruff: noqa: PLC0415 - see above

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import shown
from services.arguments import require_path
from services.errors import InvalidValueError, SettingsError
from services.redis_url import parse_redis_url
from services.schedules import Cron, Every, Schedule
from services.tasks import DEFAULT_BATCH_SIZE, LARGEST_BATCH_SIZE, Task
from services.timeouts import LONGEST_TIMEOUT, Timeouts, format_duration, parse_duration

if TYPE_CHECKING:
    from sqlalchemy import URL


def _duration(value: Any) -> timedelta:
    return value if isinstance(value, timedelta) else parse_duration(str(value))


Duration = Annotated[timedelta, BeforeValidator(_duration)]
#: The longest lease that is taken for one, rather than for a slip of the unit.
LONGEST_LEASE = timedelta(minutes=10)
#: More than any database has use for.
MOST_DRAIN_WORKERS = 100
#: What begins like this is meant for us. DATABASE_HOST or LOG_FILE may be another program's.
_OURS = ("BACKGROUND_TASK_", "ADJOURN_", "DATABASE_PREPARE")
#: The name of a host. One that ends in a number is meant for an IPv4 address.
_HOST = re.compile(r"(?!.*(^|\.)[0-9]+$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
#: How the variables and fields of a task begin.
_FIELDS = {Task.IDLE: "idle", Task.EXPIRED: "expired"}


class Settings(BaseSettings):
    """What the environment says. Build it with ``load_settings``, whose error is one line.

    A variable that is set and empty counts as not set.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True)

    #: Where conversations are kept; SQLite in the data directory when not set.
    database_url: str | None = Field(default=None, alias="DATABASE_URL")
    #: Whether statements are prepared on the server of PostgreSQL's; behind a transaction pooler they must not be.
    prepared_statements: bool = Field(default=True, alias="DATABASE_PREPARED_STATEMENTS")
    #: The broker; ``adjourn run`` starts a private one when not set.
    redis_url: str | None = Field(default=None, alias="REDIS_URL")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(default="INFO", alias="LOG_LEVEL")
    log_format: Literal["json", "console"] = Field(default="console", alias="LOG_FORMAT")
    #: Where the embedded default keeps its files.
    data_dir: Path = Field(default=Path(".adjourn"), alias="ADJOURN_DATA_DIR")

    #: From one sweep to the next; whole seconds, because Periodiq wakes up on whole seconds.
    interval: Duration = Field(default=timedelta(seconds=60), alias="BACKGROUND_TASK_INTERVAL")
    #: Conversations ended in one transaction.
    batch_size: int = Field(default=DEFAULT_BATCH_SIZE, ge=1, le=LARGEST_BATCH_SIZE, alias="BACKGROUND_TASK_BATCH_SIZE")
    #: How long one run of a sweep may go on starting batches.
    time_budget: Duration = Field(default=timedelta(seconds=30), alias="BACKGROUND_TASK_TIME_BUDGET")
    #: How many runs of one task drain a backlog at once, in the whole cluster; ``crew_limit`` is what counts.
    drain_workers: int = Field(default=2, ge=1, le=MOST_DRAIN_WORKERS, alias="BACKGROUND_TASK_DRAIN_WORKERS")
    enable_metrics: bool = Field(default=True, alias="BACKGROUND_TASK_ENABLE_METRICS")
    #: Idle timeout of the conversations that ``timeouts`` opens.
    idle_timeout: Duration = Field(default=timedelta(minutes=30), alias="BACKGROUND_TASK_IDLE_TIMEOUT")
    #: How long those may last at all.
    expire_after: Duration = Field(default=timedelta(hours=24), alias="BACKGROUND_TASK_EXPIRE_AFTER")

    #: How long a scheduler leads without renewing: what the crash of a leader costs at most.
    lease_timeout: Duration = Field(default=timedelta(seconds=15), alias="BACKGROUND_TASK_LEASE_TIMEOUT")
    #: From one renewal to the next.
    renew_interval: Duration = Field(default=timedelta(seconds=5), alias="BACKGROUND_TASK_RENEW_INTERVAL")
    #: How old a missed slot may be to be made up for.
    catchup_window: Duration = Field(default=timedelta(hours=1), alias="BACKGROUND_TASK_CATCHUP_WINDOW")
    #: Where a scheduler serves its metrics and health; 0 is any port that is free.
    scheduler_metrics_port: int = Field(default=9192, ge=0, le=65_535, alias="BACKGROUND_TASK_SCHEDULER_METRICS_PORT")
    #: The address at which workers and schedulers serve theirs, without a password: so this machine only, unless told
    #: otherwise. And the port of the workers'. Both names are dramatiq's.
    metrics_host: str = Field(default="127.0.0.1", alias="dramatiq_prom_host")
    worker_metrics_port: int = Field(default=9191, ge=0, le=65_535, alias="dramatiq_prom_port")

    idle_enabled: bool = Field(default=True, alias="BACKGROUND_TASK_IDLE_ENABLED")
    #: The task runs every so many intervals.
    idle_interval_multiplier: int = Field(default=1, ge=1, le=100_000, alias="BACKGROUND_TASK_IDLE_INTERVAL_MULTIPLIER")
    #: A cron line, which then counts instead of the interval; ``TZ=Europe/Paris 0 3 * * *`` names a time zone.
    idle_schedule: str | None = Field(default=None, alias="BACKGROUND_TASK_IDLE_SCHEDULE")
    expired_enabled: bool = Field(default=True, alias="BACKGROUND_TASK_EXPIRED_ENABLED")
    expired_interval_multiplier: int = Field(
        default=1, ge=1, le=100_000, alias="BACKGROUND_TASK_EXPIRED_INTERVAL_MULTIPLIER"
    )
    expired_schedule: str | None = Field(default=None, alias="BACKGROUND_TASK_EXPIRED_SCHEDULE")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None:
            from services.database_url import parse_database_url

            parse_database_url(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_broker(cls, value: str | None) -> str | None:
        if value is not None:
            parse_redis_url(value)
        return value

    @field_validator("metrics_host")
    @classmethod
    def _known_address(cls, value: str) -> str:
        if not _HOST.fullmatch(value):
            try:
                ip_address(value)
            except ValueError:
                raise InvalidValueError(
                    "it is no address to listen on; write 127.0.0.1 or ::1 (this machine only), 0.0.0.0 or :: (all of "
                    "its addresses), or one of them, without a port"
                ) from None
        return value

    @field_validator("data_dir", mode="before")
    @classmethod
    def _possible_directory(cls, value: Any) -> Any:
        require_path(str(value))
        try:
            Path(value).expanduser()
        except RuntimeError:
            raise InvalidValueError("nobody has the home directory that it begins with; write it out") from None
        return value

    @field_validator("idle_schedule", "expired_schedule")
    @classmethod
    def _known_cron(cls, value: str | None) -> str | None:
        if value is not None:
            Cron.parse(value)
        return value

    @model_validator(mode="after")
    def _reasonable_schedules(self) -> Self:
        for task in Task:
            multiplier = getattr(self, f"{_FIELDS[task]}_interval_multiplier")
            if self.interval * multiplier > LONGEST_TIMEOUT:
                variable = f"BACKGROUND_TASK_{_FIELDS[task].upper()}_INTERVAL_MULTIPLIER"
                raise InvalidValueError(
                    f"BACKGROUND_TASK_INTERVAL: {format_duration(self.interval)} times {variable} ({multiplier:,}) is "
                    f"out of range; it must be at most {format_duration(LONGEST_TIMEOUT)}"
                )
        return self

    @model_validator(mode="after")
    def _reasonable_election(self) -> Self:
        lease, renewal, window = self.lease_timeout, self.renew_interval, self.catchup_window
        if lease > LONGEST_LEASE:
            raise InvalidValueError(
                f"BACKGROUND_TASK_LEASE_TIMEOUT: {format_duration(lease)} is how long nobody leads after a crash; "
                f"it must be at most {format_duration(LONGEST_LEASE)}"
            )
        if renewal * 2 > lease:
            raise InvalidValueError(
                f"BACKGROUND_TASK_RENEW_INTERVAL: {format_duration(renewal)} leaves no time for a second try; it must "
                f"be at most half of BACKGROUND_TASK_LEASE_TIMEOUT ({format_duration(lease)})"
            )
        if window < lease:
            raise InvalidValueError(
                f"BACKGROUND_TASK_CATCHUP_WINDOW: {format_duration(window)} is shorter than what a crash may cost; it "
                f"must be at least BACKGROUND_TASK_LEASE_TIMEOUT ({format_duration(lease)})"
            )
        return self

    @cached_property
    def timeouts(self) -> Timeouts:
        """The timeouts to open conversations with."""
        return Timeouts(idle=self.idle_timeout, expiry=self.expire_after)

    @cached_property
    def database(self) -> "URL":
        """The database to use; the embedded one when none is set."""
        from sqlalchemy import URL

        if self.database_url is not None:
            return self.reach(self.database_url)
        return URL.create("sqlite", database=str(self.data_dir.expanduser().absolute() / "adjourn.db"))

    def reach(self, database_url: str) -> "URL":
        """Return the URL of a database to use as that of DATABASE_URL is used: with prepared statements or without.

        Raises InvalidValueError when it is none.
        """
        from services.database_url import PREPARED_STATEMENTS, parse_database_url

        url = parse_database_url(database_url)
        if self.prepared_statements or url.get_backend_name() != "postgresql" or PREPARED_STATEMENTS in url.query:
            return url
        return url.update_query_dict({PREPARED_STATEMENTS: "false"})

    @cached_property
    def broker_url(self) -> str:
        """The Redis to use; the one on this machine when none is set."""
        return self.redis_url or "redis://127.0.0.1:6379/0"

    @property
    def crew_limit(self) -> int:
        """How many runs of one task may drain a backlog at once: on SQLite one, which has one writer."""
        return 1 if self.database.get_backend_name() == "sqlite" else self.drain_workers

    def is_enabled(self, task: Task) -> bool:
        """Whether ``task`` is scheduled at all."""
        return bool(getattr(self, f"{_FIELDS[task]}_enabled"))

    def schedule(self, task: Task) -> Schedule:
        """Return when ``task`` runs."""
        name = _FIELDS[task]
        cron = getattr(self, f"{name}_schedule")
        if cron is not None:
            return Cron.parse(cron)
        return Every(seconds=int(self.interval.total_seconds()) * getattr(self, f"{name}_interval_multiplier"))


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of the environment, with ``overrides`` by variable name.

    Raises SettingsError: one line that names the variable, the value and what would be right.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_one_line(dict(problem)) for problem in error.errors())) from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that look like settings and are none: misspelt, or of another version."""
    known = {str(field.alias) for field in Settings.model_fields.values()}
    return sorted(name for name in environment if name.startswith(_OURS) and name not in known)


def _one_line(problem: dict[str, Any]) -> str:
    variable = ".".join(str(part) for part in problem["loc"])
    if not variable:
        return str(problem["ctx"]["error"])
    reason = problem["ctx"].get("error", problem["msg"]) if "ctx" in problem else problem["msg"]
    if problem["type"].startswith("bool"):
        reason = "it is neither true nor false; write true or false"
    if problem["type"] == "string_unicode":
        reason = "it is not UTF-8; write it in UTF-8"
    # A URL may carry a password.
    value = "" if variable.endswith("_URL") else f"={shown(problem['input'])}"
    return f"{variable}{value}: {reason}"

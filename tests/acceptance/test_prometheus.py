"""What alerts, rules and dashboard name, against what a running stack exports; and a Prometheus that scrapes it."""

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text

from services.database import create_database_engine
from tests.acceptance.commands import Command, run, running
from tests.acceptance.test_production_commands import metrics_on
from tests.dashboards import queries
from tests.prometheus import DIRECTORY, PROJECT, RULE_FILES, PrometheusServer, prometheus_with, read_rules, read_yaml
from tests.promql import matched_in, named_in
from tests.support import free_port, wait_for

#: What Prometheus puts on whatever it scrapes; `pod` where Kubernetes tells it.
TARGET_LABELS = {"job", "instance", "pod"}
#: What is Prometheus' own.
BUILT_IN = {"up", "ALERTS"}
#: Due for so many seconds, every other one an hour longer: half of them ends within the objective.
INSERT = text(
    "INSERT INTO conversations (conv_id, owner_id, user_id, channel, from_number, to_number, session_key, status,"
    " metadata, created_at, updated_at, idle_at, expires_at)"
    " SELECT gen_random_uuid(), 'acme', 'ann', 'whatsapp', '+1', '+2', gen_random_uuid()::text, 'progress', '{}',"
    " now() - interval '2 days', now() - interval '2 days', now() + interval '1 second' * (n % 2 * -3600 - :due),"
    " now() + interval '1 day' FROM generate_series(1, :count) AS n"
)


@dataclass(frozen=True)
class Stack:
    """Two worker processes and a scheduler, with an interval of a second."""

    engine: Engine
    redis: redis.Redis
    directory: Path
    variables: dict[str, str]
    scheduler: Command

    @property
    def worker_port(self) -> str:
        return self.variables["dramatiq_prom_port"]

    @property
    def scheduler_port(self) -> str:
        return self.variables["BACKGROUND_TASK_SCHEDULER_METRICS_PORT"]

    def have_due(self, count: int, *, seconds: int = 0) -> None:
        """Insert so many, of which every other one has been due for an hour."""
        with self.engine.begin() as connection:
            connection.execute(INSERT, {"count": count, "due": seconds})

    def ask(self, statement: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.scalar(text(statement)) or 0)

    def send(self, actor: str, queue: str) -> None:
        """Send a message, as a process of the application may."""
        message_id = f"{actor}-by-hand"
        message = {
            "queue_name": queue,
            "actor_name": actor,
            "args": [],
            "kwargs": {},
            "options": {"redis_message_id": message_id},
            "message_id": message_id,
            "message_timestamp": 0,
        }
        self.redis.hset(f"dramatiq:{queue}.msgs", message_id, json.dumps(message))
        self.redis.rpush(f"dramatiq:{queue}", message_id)

    def sent(self, actor: str) -> list[bytes]:
        """Return the messages of an actor that no worker is done with."""
        kept: Any = self.redis.hvals("dramatiq:sweeps.msgs")
        return [message for message in kept if actor.encode() in message]

    def adjourn(self, *arguments: str) -> None:
        done = run("adjourn", *arguments, directory=self.directory, variables=self.variables)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def stack(postgresql_url: str, redis_url: str, tmp_path: Path) -> Iterator[Stack]:
    variables = {
        "DATABASE_URL": postgresql_url,
        "REDIS_URL": redis_url,
        "BACKGROUND_TASK_INTERVAL": "1",
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": str(free_port()),
        "dramatiq_prom_port": str(free_port()),
        "dramatiq_prom_host": "127.0.0.1",
    }
    workers = ("dramatiq", "actors", "--processes", "2", "--threads", "2")
    with ExitStack() as stack:
        engine = create_database_engine(postgresql_url)
        stack.callback(engine.dispose)
        client = stack.enter_context(redis.Redis.from_url(redis_url))
        stack.enter_context(running(*workers, directory=tmp_path, variables=variables))
        scheduler = stack.enter_context(running("periodiq", "actors", directory=tmp_path, variables=variables))
        yield Stack(engine, client, tmp_path, variables, scheduler)


class Exported:
    """What the endpoints of a stack export."""

    def __init__(self, *expositions: str) -> None:
        self.labels: dict[str, set[str]] = {}
        self.values: dict[tuple[str, str], set[str]] = {}
        for exposition in expositions:
            for family in text_string_to_metric_families(exposition):
                for sample in family.samples:
                    self.labels.setdefault(sample.name, set()).update(sample.labels)
                    for label, value in sample.labels.items():
                        self.values.setdefault((sample.name, label), set()).add(value)

    def missing(self, expression: str, shown: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield what ``expression`` names, or shows of its labels, and nobody exports."""
        known = set(TARGET_LABELS)
        for one in named_in(expression):
            if one.metric in BUILT_IN or ":" in one.metric:
                known |= one.labels
                continue
            labels = self.labels.get(one.metric)
            if labels is None:
                yield one.metric
                continue
            known |= labels
            yield from (f"{one.metric}{{{label}}}" for label in one.labels - labels - TARGET_LABELS)
            for label, value in one.values.items():
                if value not in self.values.get((one.metric, label), ()):
                    yield f'{one.metric}{{{label}="{value}"}}'
        yield from (matched_in(expression) | shown) - known


def test_all_that_alerts_rules_and_dashboard_name_is_exported(stack: Stack) -> None:
    with stack.engine.begin() as connection:
        connection.exec_driver_sql("""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
            CREATE TRIGGER fail BEFORE UPDATE ON conversations FOR EACH STATEMENT EXECUTE FUNCTION fail()
        """)
    wait_for(lambda: stack.redis.zcard("dramatiq:sweeps.XQ"), what="a run that fails")
    with stack.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER fail ON conversations")
    stack.have_due(10)

    def asked() -> Iterator[tuple[str, str, frozenset[str]]]:
        for rule in read_rules():
            written = " ".join(rule.annotations.values())
            yield rule.name, rule.expression, frozenset(re.findall(r"\$labels\.(\w+)", written))
        for query in queries():
            yield query.where, query.expression, query.legend

    def missing() -> list[str]:
        exported = Exported(metrics_on(stack.worker_port), metrics_on(stack.scheduler_port))
        return [
            f"{where}: {name}" for where, expression, shown in asked() for name in exported.missing(expression, shown)
        ]

    last: list[str] = []

    def is_complete() -> bool:
        last[:] = missing()
        return not last

    try:
        wait_for(is_complete, seconds=60)
    except AssertionError:
        pytest.fail("nobody exports\n" + "\n".join(last))


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[PrometheusServer]:
    """A Prometheus with the rules and, apart from addresses and pace, the configuration of deploy/prometheus."""
    configuration: dict[str, Any] = read_yaml(DIRECTORY / "prometheus.yml")
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(DIRECTORY / name) for name in configuration["rule_files"]]
    assert set(configuration["rule_files"]) == {str(file) for file in RULE_FILES}
    ports = {"adjourn-worker": stack.worker_port, "adjourn-scheduler": stack.scheduler_port}
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports.pop(job['job_name'])}"]}]
    assert not ports
    with prometheus_with(configuration, directory=tmp_path / "prometheus") as server:
        yield server


def test_a_prometheus_says_what_the_database_says(stack: Stack, prometheus: PrometheusServer) -> None:
    def becomes(expression: str, value: float) -> None:
        try:
            wait_for(lambda: prometheus.value(expression) == value)
        except AssertionError:
            pytest.fail(f"{expression} is {prometheus.query(expression)}, not {value}")

    swept = "SELECT count(*) FROM conversation_events WHERE cause = 'sweep'"
    becomes("count(up == 1)", 2)
    for round_ in (1, 2):
        stack.have_due(300)
        becomes("sum(background_conversations_processed_total)", 300 * round_)
        assert stack.ask(swept) == 300 * round_
    becomes("sum(conversation_end_lag_seconds_count)", stack.ask(swept))
    becomes(
        'sum(conversation_end_lag_seconds_bucket{le="120.0"})',
        stack.ask(f"{swept} AND occurred_at - deadline <= interval '120 s'"),
    )
    # Of those that ended since it was first scraped, half was an hour late.
    becomes("round(job:conversation_ends_within_objective:ratio_rate5m, 0.01)", 0.5)

    stack.adjourn("pause", "idle")
    becomes('min(background_task_paused{task_type="idle_conversations"})', 1)
    # What was sent before the pause still runs.
    wait_for(lambda: not stack.sent("process_idle_conversations"), what="the end of the last run")
    since = time.monotonic()
    stack.have_due(70)
    stack.have_due(30, seconds=-86_400)  # not due before tomorrow
    stack.send("measure_backlog", "sweeps")
    becomes('max(conversations_due{task_type="idle_conversations"})', 70)
    becomes('max(conversations_due{task_type="expired_conversations"})', 0)
    becomes("max(active_conversations)", stack.ask("SELECT count(*) FROM conversations WHERE ended_at IS NULL"))
    # A scrape that took too long leaves nothing for a second.
    oldest = wait_for(lambda: prometheus.value('max(conversations_oldest_due_seconds{task_type="idle_conversations"})'))
    assert 3600 <= oldest <= 3600 + time.monotonic() - since

    groups = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule.name for rule in read_rules()}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []

    (alert,) = (rule for rule in read_rules() if rule.name == "AdjournTargetDown")

    def targets_down() -> list[str]:
        return [labels["job"] for labels, _ in prometheus.query(alert.expression)]

    wait_for(lambda: not targets_down(), what="an end of all alerts")
    stack.scheduler.send(signal.SIGTERM)
    wait_for(lambda: targets_down() == ["adjourn-scheduler"], what="a target that is down, the other one not")
    wait_for(lambda: not prometheus.query("absent(background_redis_up)"), what="the worker, which is left to tell")


def test_the_sql_of_the_runbook_runs(postgresql_url: str) -> None:
    statements = re.findall(r"```sql\n(.*?)```", (PROJECT / "docs" / "runbook.md").read_text(), flags=re.DOTALL)
    assert len(statements) >= 5
    engine = create_database_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(INSERT, {"count": 10, "due": 1})
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%")).all()
    engine.dispose()

"""compose.yaml, the manifests and the units, held against what the code has: whoever deploys it by them gets it so."""

import re
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from services.due import BATCH_TIMEOUT
from services.health import HealthReport, HealthStatus, Role
from services.monitoring.endpoint import Endpoint
from services.settings import Settings, load_settings
from tests.deployments.compose_file import OURS, interpolated, on_the_host, read_compose, started_by_compose
from tests.deployments.manifests import container_of, kustomization, pod_templates, started_by_kubernetes, the
from tests.deployments.started import PROJECT, Started, known_variables, parse_command, variables_of_settings
from tests.deployments.units import started_by_systemd
from tests.support import free_port, wait_for

COMPOSE = read_compose()
STARTED = [*started_by_compose(), *started_by_kubernetes(), *started_by_systemd()]
#: How long a worker may take to end after its batch, in seconds.
ENDING = 2
#: What compose.yaml and the manifests leave as it is: each container has its own.
OF_THE_IMAGE = {
    "ADJOURN_DATA_DIR",
    "BACKGROUND_TASK_SCHEDULER_METRICS_PORT",
    "dramatiq_prom_host",
    "dramatiq_prom_port",
}
PORTS = {
    "worker": Settings.model_fields["worker_metrics_port"].default,
    "scheduler": Settings.model_fields["scheduler_metrics_port"].default,
}
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
JOBS = {"adjourn-worker", "adjourn-scheduler"}


def of_role(*roles: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("started", [one for one in STARTED if one.role in roles], ids=str)


def paths_asked() -> set[str]:
    """Return what probes and Prometheus ask for, wherever it is written."""
    paths = {the("PodMonitor", "adjourn")["spec"]["podMetricsEndpoints"][0]["path"]}
    for _, pod in pod_templates():
        probes = [value for key, value in container_of(pod).items() if key.endswith("Probe")]
        paths |= {probe["httpGet"]["path"] for probe in probes}
        if "annotations" in pod["metadata"]:
            paths.add(pod["metadata"]["annotations"]["prometheus.io/path"])
    return paths


@pytest.mark.parametrize("way", ["compose.yaml", "kubernetes", "systemd"])
def test_each_way_starts_every_role(way: str) -> None:
    assert {one.role for one in STARTED if one.name.startswith(way)} >= {"worker", "scheduler", "migrate"}


@pytest.mark.parametrize("started", STARTED, ids=str)
def test_each_command_is_one_that_takes_these_arguments(started: Started) -> None:
    parse_command(started.command)


@of_role("worker")
def test_a_worker_runs_our_actors(started: Started) -> None:
    parsed = parse_command(started.command)
    assert started.command[0] == "dramatiq"
    assert (parsed["broker"], parsed["modules"], parsed["queues"]) == ("actors", [], None)
    # dramatiq's own number is that of the machine's CPUs, which is right where it has the machine to itself.
    assert ("--processes" in started.command) is not started.name.startswith("systemd")


@of_role("scheduler")
def test_a_scheduler_runs_our_schedules(started: Started) -> None:
    assert started.command[0] == "periodiq"
    assert parse_command(started.command)["broker"] == "actors"


@of_role("migrate")
def test_a_migration_goes_up_to_the_head(started: Started) -> None:
    assert started.command[:2] == ("adjourn", "migrate")
    parsed = parse_command(started.command)
    assert (parsed["revision"], parsed["down"]) == ("head", False)


@pytest.mark.parametrize("started", STARTED, ids=str)
def test_each_variable_that_is_set_is_one_that_is_read(started: Started) -> None:
    assert {*started.variables, *started.secrets} <= known_variables()


@pytest.mark.parametrize("started", STARTED, ids=str)
def test_the_values_make_sense(started: Started) -> None:
    started.settings()


def test_workers_and_schedulers_get_the_same_settings() -> None:
    for way in ("compose.yaml", "kubernetes"):
        given = [one for one in STARTED if one.name.startswith(way) and one.role in {"worker", "scheduler"}]
        assert len(given) == 2
        assert given[0].variables == given[1].variables


def test_each_worker_is_told_of_the_database_and_of_redis() -> None:
    needed = {"worker": {"DATABASE_URL", "REDIS_URL"}, "scheduler": {"REDIS_URL"}, "migrate": {"DATABASE_URL"}}
    for started in STARTED:
        assert {*started.variables, *started.secrets} >= needed.get(started.role, set()), started


def test_compose_hands_on_every_setting_that_env_may_have() -> None:
    environment = set(COMPOSE["services"]["worker"]["environment"])
    assert variables_of_settings() - OF_THE_IMAGE <= environment
    assert variables_of_settings() - OF_THE_IMAGE <= interpolated()


def test_the_example_of_env_names_what_compose_takes_from_it() -> None:
    named = set(re.findall(r"^#?([A-Za-z_]\w*)=", (PROJECT / ".env.example").read_text(), flags=re.MULTILINE))
    assert interpolated() - {"COMPOSE_PROJECT_NAME", "REVISION"} <= named
    assert variables_of_settings() <= named


def test_the_settings_of_the_config_map_are_the_defaults_but_for_the_logs() -> None:
    for name, value in the("ConfigMap", "adjourn-settings")["data"].items():
        (field,) = [one for one, described in Settings.model_fields.items() if described.alias == name]
        default = Settings.model_fields[field].default
        assert getattr(Settings(**{name: value}), field) == ("json" if name == "LOG_FORMAT" else default), name


def test_ports_are_the_defaults_of_the_settings() -> None:
    for role, port in PORTS.items():
        pod = the("Deployment", f"adjourn-{role}")["spec"]["template"]
        assert container_of(pod)["ports"] == [{"name": "metrics", "containerPort": port}]
        assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert sorted(re.findall(r"^EXPOSE (.+)$", DOCKERFILE, flags=re.MULTILINE)[0].split()) == sorted(
        map(str, PORTS.values())
    )


def test_containers_listen_on_more_than_their_own_loopback() -> None:
    (host,) = re.findall(r"^ENV dramatiq_prom_host=(.+)$", DOCKERFILE, flags=re.MULTILINE)
    assert load_settings(dramatiq_prom_host=host).metrics_host == "0.0.0.0"
    for started in STARTED:
        assert "dramatiq_prom_host" not in started.variables, "probes and Prometheus come from outside"


def test_no_port_of_ours_is_published() -> None:
    for name in OURS:
        assert "ports" not in COMPOSE["services"][name]
        assert COMPOSE["services"][name].get("network_mode") is None
    for _, pod in pod_templates():
        assert "hostNetwork" not in pod["spec"]
        assert all("hostPort" not in port for port in container_of(pod).get("ports", ()))


def test_all_that_is_asked_for_is_served() -> None:
    port = free_port()
    report = HealthReport(role=Role.WORKER, status=HealthStatus.HEALTHY, is_live=True)
    Endpoint(
        registry=CollectorRegistry(), health=lambda: report, host="127.0.0.1", port=port, variable="A_PORT"
    ).serve_in_background()

    def status_of(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code
        except OSError:
            return 0

    wait_for(lambda: status_of("/"), what="the endpoint")
    assert {path: status_of(path) for path in paths_asked()} == {"/metrics": 200, "/healthz": 200, "/readyz": 200}


@pytest.mark.parametrize("document", ["kubernetes.md", "systemd.md"])
def test_the_commands_of_the_documentation_are_there(document: str) -> None:
    text = (PROJECT / "docs" / document).read_text()
    commands = {one.strip() for one in re.findall(r"(?:`|-- |/bin/)adjourn ([a-z][^`\n]*)", text)}
    assert {"status", "health"} <= commands
    for command in commands:
        parse_command(("adjourn", *command.split()))


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_a_container_is_as_healthy_as_what_runs_in_it(role: str) -> None:
    program, *command = COMPOSE["services"][role]["healthcheck"]["test"]
    assert program == "CMD"
    assert command == ["adjourn", "health", role]
    parse_command(tuple(command))


@of_role("worker")
def test_a_worker_is_given_time_for_the_batch_in_hand(started: Started) -> None:
    assert started.grace > BATCH_TIMEOUT.total_seconds() + ENDING


@of_role("worker", "scheduler")
def test_each_way_gives_a_role_the_same_time_to_stop(started: Started) -> None:
    assert started.grace == {"worker": 60, "scheduler": 10}[started.role]


def test_everything_runs_from_one_image() -> None:
    assert len({COMPOSE["services"][name]["image"] for name in OURS}) == 1
    (renamed,) = kustomization()["images"]
    assert {container_of(pod)["image"] for _, pod in pod_templates()} == {renamed["name"]}
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert renamed["newTag"] == version
    assert f"ARG VERSION={version}\n" in DOCKERFILE


def test_signals_go_through_the_init_of_the_image() -> None:
    assert 'ENTRYPOINT ["dumb-init", "--single-child", "--"]\n' in DOCKERFILE
    for _, pod in pod_templates():
        assert "command" not in container_of(pod), "in a manifest it takes the place of the entrypoint"
    for name in OURS:
        assert "entrypoint" not in COMPOSE["services"][name]


def test_the_user_is_that_of_the_image() -> None:
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, flags=re.MULTILINE)[-1]
    for _, pod in pod_templates():
        context = pod["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    for name in OURS:
        assert "user" not in COMPOSE["services"][name]


@pytest.mark.parametrize("file", ["deploy/prometheus/prometheus.yml", "deploy/compose/prometheus.yml"])
def test_prometheus_knows_the_targets_by_the_same_names(file: str) -> None:
    configuration = yaml.safe_load((PROJECT / file).read_text())
    assert {one["job_name"] for one in configuration["scrape_configs"]} == JOBS
    for scraped in configuration["scrape_configs"]:
        written = str(scraped)
        assert str(PORTS[scraped["job_name"].removeprefix("adjourn-")]) in written
    for rules in configuration["rule_files"]:
        assert ((PROJECT / file).parent / rules).is_file(), rules


def test_the_pod_monitor_gives_the_targets_the_same_names() -> None:
    (endpoint,) = the("PodMonitor", "adjourn")["spec"]["podMetricsEndpoints"]
    (named,) = [one for one in endpoint["relabelings"] if one.get("targetLabel") == "job"]
    assert named["sourceLabels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_component"]
    roles = [pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pod_templates()]
    assert {named["replacement"].replace("$1", role) for role in roles} >= JOBS


def test_what_compose_mounts_is_there() -> None:
    volumes = {name: service.get("volumes", ()) for name, service in COMPOSE["services"].items()}
    for name, mounted in volumes.items():
        for volume in mounted:
            source = volume.split(":")[0]
            assert (PROJECT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], name


def test_prometheus_and_grafana_find_their_files_where_compose_mounts_them() -> None:
    prometheus, grafana = COMPOSE["services"]["prometheus"], COMPOSE["services"]["grafana"]
    (configuration,) = [one.partition("=")[2] for one in prometheus["command"] if one.startswith("--config.file=")]
    assert on_the_host(prometheus, configuration).is_file()
    for rules in yaml.safe_load(on_the_host(prometheus, configuration).read_text())["rule_files"]:
        # As it resolves it: from its own directory.
        assert on_the_host(prometheus, str(Path(configuration).parent / rules)).resolve().is_file(), rules

    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert on_the_host(grafana, home).is_file()
    provider = on_the_host(grafana, "/etc/grafana/provisioning/dashboards")
    (described,) = [yaml.safe_load(file.read_text()) for file in provider.iterdir()]
    assert on_the_host(grafana, described["providers"][0]["options"]["path"]).is_dir()
    (source,) = [file.read_text() for file in on_the_host(grafana, "/etc/grafana/provisioning/datasources").iterdir()]
    assert set(re.findall(r"\$\{(\w+)\}", source)) <= set(grafana["environment"])
    assert grafana["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"

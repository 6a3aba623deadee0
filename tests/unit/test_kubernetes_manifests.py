"""The manifests of deploy/kubernetes: valid for the versions that they name, whole, and allowed only what they need."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import redis
import yaml

from services.monitoring.cluster_metrics import ClusterCollector
from tests.deployments.manifests import (
    COMPONENTS,
    DIRECTORY,
    EXAMPLES,
    Manifest,
    all_manifests,
    container_of,
    kubectl,
    kustomization,
    pod_templates,
    read_manifests,
    selects,
    started_by_kubernetes,
    the,
)
from tests.deployments.started import PROJECT, parse_command
from tests.prometheus import tool
from tests.promql import named_in

DOCUMENTATION = (PROJECT / "docs" / "kubernetes.md").read_text()
#: The first of them is the oldest that kustomization.yaml names.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]
PODS = [pytest.param(pod, id=name) for name, pod in pod_templates()]
LABEL = "app.kubernetes.io/component"
#: What PostgreSQL takes by default (max_connections).
CONNECTIONS = 100
#: Where .ci/custom-resources puts the schemas.
SCHEMAS = PROJECT / ".tools" / "custom-resources"
#: The names that custom resources have below `spec`, as far as ours use them: their schemas let any other pass.
NAMES = {
    "ScaledObject": {
        "scaleTargetRef",
        "kind",
        "name",
        "minReplicaCount",
        "maxReplicaCount",
        "pollingInterval",
        "advanced",
        "horizontalPodAutoscalerConfig",
        "behavior",
        "scaleUp",
        "scaleDown",
        "stabilizationWindowSeconds",
        "policies",
        "type",
        "value",
        "periodSeconds",
        "triggers",
        "metadata",
        "serverAddress",
        "query",
        "threshold",
        "ignoreNullValues",
    },
    "PodMonitor": {
        "selector",
        "matchLabels",
        "app.kubernetes.io/name",
        "podMetricsEndpoints",
        "port",
        "path",
        "interval",
        "relabelings",
        "sourceLabels",
        "targetLabel",
        "replacement",
        "action",
        "regex",
    },
}
CUSTOM = [pytest.param(one, id=one["kind"]) for one in all_manifests() if one["kind"] in NAMES]


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys_of(inner)


def workload(kind: str, role: str) -> Manifest:
    return the(kind, f"adjourn-{role}")


def arguments_of_worker() -> dict[str, Any]:
    (worker,) = [one for one in started_by_kubernetes() if one.role == "worker"]
    return parse_command(worker.command)


def built(directory: Path) -> list[Manifest]:
    """Return what kubectl makes of a kustomization."""
    done = subprocess.run([kubectl(), "kustomize", directory], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    for manifest in [*read_manifests(), *yaml.safe_load_all((DIRECTORY / "secret.example.yaml").read_text())]:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", CUSTOM)
def test_custom_resources_have_no_name_that_nobody_knows(manifest: Manifest) -> None:
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(keys_of(manifest["spec"])) <= NAMES[manifest["kind"]]


@pytest.mark.parametrize("manifest", CUSTOM)
def test_custom_resources_are_valid(manifest: Manifest) -> None:
    node = shutil.which("node")
    if node is None or not (SCHEMAS / "node_modules").exists():
        pytest.skip("the schemas are not installed: run .ci/custom-resources, which wants npm")
    script = (PROJECT / "tests" / "deployments" / "custom_resources" / "validate.mjs").read_text()
    done = subprocess.run(
        [node, "--input-type=module", "--eval", script],
        input=json.dumps(manifest),
        cwd=SCHEMAS,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_is_forgotten() -> None:
    for directory in (DIRECTORY, *COMPONENTS):
        named = set(kustomization(directory)["resources"])
        assert {file.name for file in directory.glob("*.yaml")} - named - EXAMPLES == {"kustomization.yaml"}
        assert not named & EXAMPLES


def test_the_base_wants_no_custom_resource_of_a_cluster() -> None:
    kinds = {"Namespace", "ConfigMap", "Job", "Deployment", "PodDisruptionBudget"}
    assert {manifest["kind"] for manifest in read_manifests()} == kinds


def test_kubectl_puts_together_what_the_files_say() -> None:
    built_base = built(DIRECTORY)
    assert {one["metadata"].get("namespace", "adjourn") for one in built_base} == {"adjourn"}
    (settings,) = [one["metadata"]["name"] for one in built_base if one["kind"] == "ConfigMap"]
    assert re.fullmatch(r"adjourn-settings-\w{10}", settings)
    pods = [one["spec"]["template"] for one in built_base if "template" in one.get("spec", {})]
    assert len(pods) == len(PODS)
    for pod in pods:
        assert container_of(pod)["envFrom"] == [{"configMapRef": {"name": settings}}]
        assert container_of(pod)["image"] == "adjourn:0.1.0"
    assert sorted(map(kind_and_name, built_base)) == sorted(map(kind_and_name, read_manifests()))


def kind_and_name(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], re.sub(r"^(adjourn-settings)-\w{10}$", r"\1", manifest["metadata"]["name"])


def test_the_kustomization_of_the_documentation_can_be_put_together(tmp_path: Path) -> None:
    (written,) = re.findall(r"\n((?:    .*\n)*    kind: Kustomization\n(?:    .*\n|\n(?=    ))*)", DOCUMENTATION)
    (tmp_path / "kustomization.yaml").write_text(re.sub(r"^    ", "", written, flags=re.MULTILINE))
    (tmp_path / "adjourn").symlink_to(PROJECT)

    manifests = built(tmp_path)

    for manifest in manifests:
        if manifest["kind"] in NAMES:
            assert set(keys_of(manifest["spec"])) <= NAMES[manifest["kind"]]
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)
    (worker,) = [one for one in manifests if kind_and_name(one) == ("Deployment", "adjourn-worker")]
    assert "replicas" not in worker["spec"], "KEDA's"
    assert "annotations" not in worker["spec"]["template"]["metadata"], "scraped twice, with the operator's"
    assert {one["metadata"]["namespace"] for one in manifests} == {"chat"}
    (scaled,) = [one for one in manifests if one["kind"] == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    assert [one.values.get("namespace") for one in named_in(trigger["metadata"]["query"])] == ["chat", "chat"]
    (settings,) = [one for one in manifests if one["kind"] == "ConfigMap"]
    assert settings["data"]["BACKGROUND_TASK_INTERVAL"] == "10"
    assert settings["data"]["LOG_FORMAT"] == "json"


@pytest.mark.parametrize("pod", PODS)
def test_what_a_pod_refers_to_is_there(pod: Manifest) -> None:
    container = container_of(pod)
    example = the_example()
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        assert reference["name"] == example["metadata"]["name"]
        assert reference["key"] in example["stringData"]
        assert "optional" not in reference, "without DATABASE_URL it would use a SQLite of its own"
    generated = {one["name"] for one in kustomization()["configMapGenerator"]}
    assert {one["configMapRef"]["name"] for one in container["envFrom"]} <= generated
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["spec"]["volumes"]}
    ports = {one["name"] for one in container.get("ports", ())}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert probe not in container or container[probe]["httpGet"]["port"] in ports
        assert (probe in container) is bool(ports)


def the_example() -> Manifest:
    example: Manifest = yaml.safe_load((DIRECTORY / "secret.example.yaml").read_text())
    return example


def test_the_example_of_the_secret_holds_none() -> None:
    assert set(the_example()["stringData"].values()) == {
        "postgresql://user:password@host:5432/name",
        "redis://user:password@host:6379/0",
    }


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_selectors_select_the_pods_of_their_role_and_no_others(role: str) -> None:
    deployment, budget = workload("Deployment", role), workload("PodDisruptionBudget", role)
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    for selector in (deployment["spec"]["selector"], budget["spec"]["selector"], spread["labelSelector"]):
        selected = [name for name, pod in pod_templates() if selects(selector, pod["metadata"]["labels"])]
        assert selected == [f"adjourn-{role}"]


def test_the_pod_monitor_selects_all_that_have_its_port() -> None:
    spec = the("PodMonitor", "adjourn")["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    for _, pod in pod_templates():
        assert selects(spec["selector"], pod["metadata"]["labels"])
        ports = [one["name"] for one in container_of(pod).get("ports", ())]
        assert (endpoint["port"] in ports) is (pod["metadata"]["labels"][LABEL] in {"worker", "scheduler"})


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_may_do_nothing_but_its_work(pod: Manifest) -> None:
    spec, container = pod["spec"], container_of(pod)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # A Service of any name sets variables; one called adjourn some that look like settings.
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_has_a_temporary_directory_and_bounds(pod: Manifest) -> None:
    (mounted,) = container_of(pod)["volumeMounts"]
    assert mounted == {"name": "tmp", "mountPath": "/tmp"}
    (volume,) = pod["spec"]["volumes"]
    assert volume["emptyDir"]["medium"] == "Memory"
    resources = container_of(pod)["resources"]
    assert resources["requests"] == {"cpu": "100m", "memory": "256Mi"}
    assert set(resources["limits"]) == {"memory"}


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_a_rollout_takes_none_away_before_another_is_ready(role: str) -> None:
    spec = workload("Deployment", role)["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_workers_are_scaled_by_the_messages_that_one_can_take() -> None:
    spec = the("ScaledObject", "adjourn-worker")["spec"]
    (trigger,) = spec["triggers"]
    arguments = arguments_of_worker()
    threads = arguments["processes"] * arguments["threads"]
    assert trigger["metadata"]["threshold"] == str(threads)
    assert spec["scaleTargetRef"] == {"kind": "Deployment", "name": "adjourn-worker"}
    assert spec["minReplicaCount"] == workload("Deployment", "worker")["spec"]["replicas"]
    # A connection for each thread, and one for the probe of each process; what is left is for the application.
    connections = spec["maxReplicaCount"] * (threads + arguments["processes"])
    assert connections <= CONNECTIONS * 3 // 4


def test_workers_are_scaled_by_metrics_that_there_are(redis_url: str) -> None:
    (trigger,) = the("ScaledObject", "adjourn-worker")["spec"]["triggers"]
    with redis.Redis.from_url(redis_url) as client:
        ours = {family.name for family in ClusterCollector(client).collect()}
    named = {one.metric for one in named_in(trigger["metadata"]["query"])}
    assert named - ours == {"dramatiq_messages_inprogress"}
    assert "`dramatiq_messages_inprogress`" in (PROJECT / "docs" / "monitoring.md").read_text()


#: The namespace and the job of what the samples are of.
TARGETS = {
    "OUR_WORKERS": ("adjourn", "adjourn-worker"),
    "OUR_SCHEDULERS": ("adjourn", "adjourn-scheduler"),
    "OUR_MAILS": ("adjourn", "mails"),
    "THEIR_WORKERS": ("staging", "adjourn-worker"),
}
SAMPLES = """
rule_files: []
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'background_queue_messages{queue="sweeps", instance="a", OUR_WORKERS}', values: "3"}
      - {series: 'background_queue_messages{queue="sweeps", instance="b", OUR_SCHEDULERS}', values: "3"}
      - {series: 'background_queue_messages{queue="drains", instance="a", OUR_WORKERS}', values: "10"}
      - {series: 'dramatiq_messages_inprogress{queue_name="drains", instance="a", OUR_WORKERS}', values: "8"}
      - {series: 'dramatiq_messages_inprogress{queue_name="mine", instance="c", OUR_WORKERS}', values: "7"}
      # Another installation, and another application with dramatiq.
      - {series: 'background_queue_messages{queue="sweeps", instance="d", THEIR_WORKERS}', values: "40"}
      - {series: 'dramatiq_messages_inprogress{queue_name="drains", instance="d", THEIR_WORKERS}', values: "50"}
      - {series: 'dramatiq_messages_inprogress{queue_name="mails", instance="e", OUR_MAILS}', values: "60"}
    promql_expr_test:
      - {expr: QUERY, eval_time: 0s, exp_samples: [{labels: "{}", value: 28}]}
  - interval: 15s
    input_series:
      - {series: 'background_queue_messages{queue="sweeps", instance="a", namespace="adjourn"}', values: "3"}
    promql_expr_test:
      - {expr: QUERY, eval_time: 0s, exp_samples: [{labels: "{}", value: 3}]}
  # Redis is away: no figure.
  - interval: 15s
    input_series:
      - {series: 'dramatiq_messages_inprogress{queue_name="drains", instance="a", OUR_WORKERS}', values: "8"}
    promql_expr_test:
      - {expr: QUERY, eval_time: 0s, exp_samples: []}
"""


def test_the_query_counts_each_message_that_waits_once_and_those_in_hand(tmp_path: Path) -> None:
    (trigger,) = the("ScaledObject", "adjourn-worker")["spec"]["triggers"]
    file = tmp_path / "samples.yml"
    samples = SAMPLES.replace("QUERY", json.dumps(trigger["metadata"]["query"]))
    for name, (namespace, job) in TARGETS.items():
        samples = samples.replace(name, f'namespace="{namespace}", job="{job}"')
    file.write_text(samples)
    done = subprocess.run(
        [tool("promtool"), "test", "rules", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_of_the_documentation_make_prometheus_rules_of_the_files() -> None:
    (written,) = re.findall(r"\n(    for rules in .*\n(?:    .*\n)*)", DOCUMENTATION)
    apply = "kubectl --namespace chat apply -f -"
    assert apply in written
    done = subprocess.run(
        ["bash", "-c", written.replace(apply, "cat")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    made = {one["metadata"]["name"]: one for one in yaml.safe_load_all(done.stdout) if one is not None}
    assert made.keys() == {"adjourn-rules", "adjourn-alerts"}
    for name, manifest in made.items():
        file = PROJECT / "deploy" / "prometheus" / f"{name.removeprefix('adjourn-')}.yml"
        assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
        assert manifest["spec"] == yaml.safe_load(file.read_text())


def test_the_job_of_prometheus_in_the_documentation_is_one_that_it_takes(tmp_path: Path) -> None:
    (written,) = re.findall(r"\n((?:    .*\n)*    +- job_name: adjourn\n(?:    .*\n)*)", DOCUMENTATION)
    configuration = yaml.safe_load(re.sub(r"^    ", "", written, flags=re.MULTILINE))
    (job,) = configuration["scrape_configs"]
    # Debian's promtool is built without it.
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    done = subprocess.run(
        [tool("promtool"), "check", "config", "--syntax-only", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    relabeled = {one.get("target_label"): one for one in job["relabel_configs"]}
    assert {"job", "namespace", "pod"} <= relabeled.keys()
    (endpoint,) = the("PodMonitor", "adjourn")["spec"]["podMetricsEndpoints"]
    (named,) = [one for one in endpoint["relabelings"] if one.get("targetLabel") == "job"]
    assert (relabeled["job"]["source_labels"], relabeled["job"]["replacement"]) == (
        named["sourceLabels"],
        named["replacement"],
    )

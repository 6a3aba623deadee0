"""The manifests of deploy/kubernetes, as their kustomization puts them together, as far as it does so."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployments.started import PROJECT, Started

DIRECTORY = PROJECT / "deploy" / "kubernetes"
COMPONENTS = tuple(sorted((DIRECTORY / "components").iterdir()))
#: What belongs to nobody's resources: to be copied.
EXAMPLES = {"secret.example.yaml"}
#: What the roles are called elsewhere.
_ROLES = {"migration": "migrate"}

Manifest = dict[str, Any]


def kustomization(directory: Path = DIRECTORY) -> Manifest:
    """Return the kustomization of a directory."""
    read: Manifest = yaml.safe_load((directory / "kustomization.yaml").read_text())
    return read


def read_manifests(directory: Path = DIRECTORY) -> list[Manifest]:
    """Return the manifests of a kustomization, those that it generates included."""
    described = kustomization(directory)
    files = [directory / name for name in described["resources"]]
    plain = [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]
    return plain + [_config_map(directory, one) for one in described.get("configMapGenerator", ())]


def the(kind: str, name: str) -> Manifest:
    """Return the one manifest of this kind and name, of the base and all components."""
    found = [one for one in all_manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def all_manifests() -> list[Manifest]:
    """Return the manifests of the base and of all components."""
    return [manifest for directory in (DIRECTORY, *COMPONENTS) for manifest in read_manifests(directory)]


def pod_templates() -> Iterator[tuple[str, Manifest]]:
    """Yield the pods that Deployments and Jobs start, with the names of those."""
    for manifest in read_manifests():
        if "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def container_of(pod: Mapping[str, Any]) -> Manifest:
    """Return the one container of a pod."""
    (container,) = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def started_by_kubernetes() -> list[Started]:
    """Return the processes of ours."""
    return [_started(name, pod) for name, pod in pod_templates()]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a selector by labels selects what has these."""
    assert set(selector) == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= labels.items())


def kubectl() -> str:
    """Return the path of kubectl; the test is skipped where there is none."""
    path = shutil.which("kubectl")
    if path is None:
        pytest.skip("kubectl is not installed")
    return path


def _started(name: str, pod: Mapping[str, Any]) -> Started:
    container = container_of(pod)
    variables: dict[str, str] = {}
    for source in container["envFrom"]:
        variables |= the("ConfigMap", source["configMapRef"]["name"])["data"]
    secrets = {one["name"] for one in container["env"] if "valueFrom" in one}
    variables |= {one["name"]: one["value"] for one in container["env"] if "value" in one}
    role = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    return Started(
        name=f"kubernetes: {name}",
        role=_ROLES.get(role, role),
        command=tuple(container["args"]),
        # Thirty seconds are Kubernetes' own.
        grace=float(pod["spec"].get("terminationGracePeriodSeconds", 30)),
        variables=variables,
        secrets=frozenset(secrets),
    )


def _config_map(directory: Path, generator: Mapping[str, Any]) -> Manifest:
    data: dict[str, str] = {}
    for file in generator["envs"]:
        lines = (directory / file).read_text().splitlines()
        data |= dict(line.split("=", 1) for line in lines if re.match(r"\w", line))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}

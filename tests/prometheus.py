"""The rules in deploy/prometheus, and the real promtool and Prometheus to try them with."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import free_port, wait_for

PROJECT = Path(__file__).resolve().parents[1]
DIRECTORY = PROJECT / "deploy" / "prometheus"
RULE_FILES = (DIRECTORY / "alerts.yml", DIRECTORY / "rules.yml")
#: Where .ci/prometheus puts them.
_INSTALLED = PROJECT / ".tools" / "prometheus" / "usr" / "bin"


def tool(name: str) -> str:
    """Return the path of ``promtool`` or ``prometheus``; the test is skipped where there is none."""
    path = shutil.which(name) or shutil.which(name, path=_INSTALLED)
    if path is None:
        pytest.skip(f"{name} is not installed: run .ci/prometheus, or install the prometheus package of your system")
    return path


@dataclass(frozen=True)
class Rule:
    """An alert, or a recording rule."""

    name: str
    expression: str
    is_alert: bool
    #: How long it has to hold, as written.
    hold: str | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def read_rules(*files: Path) -> list[Rule]:
    """Return the rules of ``files``, of all when none is named."""
    return [_rule(one) for file in files or RULE_FILES for group in read_yaml(file)["groups"] for one in group["rules"]]


def read_yaml(file: Path) -> Any:
    """Return what a YAML file says."""
    return yaml.safe_load(file.read_text())


def _rule(written: Mapping[str, Any]) -> Rule:
    return Rule(
        name=written.get("alert") or written["record"],
        expression=written["expr"],
        is_alert="alert" in written,
        hold=written.get("for"),
        labels=written.get("labels", {}),
        annotations=written.get("annotations", {}),
    )


class PrometheusServer:
    """A Prometheus that runs, asked through its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        """Return whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready") as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError as refusal:
            refusal.close()
        except OSError:
            pass
        return False

    def get(self, path: str, **parameters: str) -> Any:
        """Return the ``data`` of an answer of the API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}") as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the vector that ``expression`` is at this moment: labels and value of each sample."""
        found = self.get("query", query=expression)
        assert found["resultType"] == "vector", expression
        return [(sample["metric"], float(sample["value"][1])) for sample in found["result"]]

    def value(self, expression: str) -> float | None:
        """Return the one value of ``expression``, None when it is empty."""
        samples = self.query(expression)
        assert len(samples) <= 1, samples
        return samples[0][1] if samples else None


@contextmanager
def prometheus_with(configuration: Mapping[str, Any], *, directory: Path) -> Iterator[PrometheusServer]:
    """Run a Prometheus with this configuration; it keeps its data in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(dict(configuration)))
    port = free_port()
    log = directory / "prometheus.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=directory,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        server = PrometheusServer(port)
        wait_for(server.is_ready, what=f"Prometheus, see {log}")
        yield server
    finally:
        process.terminate()
        process.wait()

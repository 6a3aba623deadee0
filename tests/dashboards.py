"""The Grafana dashboard in deploy/grafana, as the tests look at it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.prometheus import PROJECT

GRAFANA = PROJECT / "deploy" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "adjourn.json"


@dataclass(frozen=True)
class Query:
    """What a panel, or a mark on all panels, asks Prometheus, and the labels that its legend shows."""

    where: str
    expression: str
    legend: frozenset[str] = frozenset()

    @property
    def as_sent(self) -> str:
        """The expression as Prometheus gets it: Grafana puts its variables in."""
        text = self.expression.replace("$__rate_interval", "1m").replace("$__range", "6h").replace("$job", ".*")
        assert "$" not in text, self
        return text


@cache
def dashboard() -> Any:
    """Return the dashboard."""
    return json.loads(DASHBOARD.read_text())


def panels() -> list[Any]:
    """Return its panels, without the rows that they stand in."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Return all that it asks."""
    return list(_queries())


def _queries() -> Iterator[Query]:
    for panel in panels():
        for target in panel["targets"]:
            legend = frozenset(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]))
            yield Query(f"{panel['title']} ({target['refId']})", target["expr"], legend)
    for mark in dashboard()["annotations"]["list"]:
        if "expr" in mark:
            yield Query(mark["name"], mark["expr"])

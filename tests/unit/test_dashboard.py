"""The Grafana dashboard: what can be said of it without a Grafana."""

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards import DASHBOARD, GRAFANA, dashboard, panels, queries
from tests.prometheus import read_rules, read_yaml, tool
from tests.promql import named_in

WIDTH = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Those of Grafana 10 and 11.
SCHEMAS = range(38, 41)
#: What Grafana 10 and 11 have built in.
KINDS = {"stat", "timeseries", "heatmap", "state-timeline"}


def test_its_form_is_that_of_grafana_10_and_11() -> None:
    found = dashboard()
    assert found["schemaVersion"] in SCHEMAS
    assert found["uid"] == "adjourn"
    assert "id" not in found, "a file that is provisioned has no id of a database"
    assert {panel["type"] for panel in panels()} <= KINDS
    assert DASHBOARD.read_text().endswith("}\n")


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    placed = dashboard()["panels"]
    ids = [panel["id"] for panel in placed]
    assert len(ids) == len(set(ids))

    squares: dict[tuple[int, int], str] = {}
    for panel in placed:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        for column, line in itertools.product(range(place["w"]), range(place["h"])):
            square = (place["x"] + column, place["y"] + line)
            assert square not in squares, f"{panel['title']} lies on {squares[square]}"
            squares[square] = panel["title"]
    # Nor are there holes: Grafana would move panels up.
    assert len(squares) == WIDTH * (1 + max(line for _, line in squares))


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_a_panel_says_what_it_shows_in_which_unit_and_when_it_is_bad(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["noValue"]
    steps = defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert [step["value"] for step in steps[1:]] == sorted(step["value"] for step in steps[1:])
    if panel["type"] == "stat":
        assert len(steps) > 1, "a figure in the colour of its worth"
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))


def test_the_first_row_answers_whether_conversations_end_on_time() -> None:
    first, *rest = dashboard()["panels"]
    assert (first["type"], first["title"]) == ("row", "Are conversations ending on time?")
    answers = list(itertools.takewhile(lambda panel: panel["type"] != "row", rest))
    assert [panel["title"] for panel in answers] == [
        *("Ended on time, now", "Ended on time, 24 h", "Oldest due", "Last success", "Leaders", "Alerts")
    ]
    assert {panel["gridPos"]["y"] for panel in answers} == {1}


def test_every_query_goes_to_the_data_source_that_was_chosen() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["job"]["datasource"] == DATASOURCE
    for panel in panels():
        assert panel["datasource"] == DATASOURCE
        assert all(target["datasource"] == DATASOURCE for target in panel["targets"]), panel["title"]

    (provisioned,) = read_yaml(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert provisioned["type"] == "prometheus"
    assert provisioned["uid"] == variables["datasource"]["current"]["value"]


def test_every_query_is_for_the_job_that_was_chosen() -> None:
    for query in queries():
        for one in named_in(query.expression):
            assert one.metric == "ALERTS" or "job" in one.labels, query.where


def test_a_legend_shows_labels_that_are_left() -> None:
    for query in queries():
        left = {"instance"}.union(*(one.labels for one in named_in(query.expression)))
        assert query.legend <= left, query.where


def test_prometheus_can_parse_every_query(tmp_path: Path) -> None:
    rules = [{"record": "parsed", "expr": query.as_sent, "labels": {"panel": query.where}} for query in queries()]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [tool("promtool"), "check", "rules", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_recorded_series_that_are_shown_are_recorded() -> None:
    recorded = {rule.name for rule in read_rules() if not rule.is_alert}
    shown = {one.metric for query in queries() for one in named_in(query.expression) if ":" in one.metric}
    assert shown
    assert shown <= recorded


def test_the_folder_of_dashboards_is_provisioned() -> None:
    (provider,) = read_yaml(GRAFANA / "provisioning" / "dashboards" / "adjourn.yml")["providers"]
    assert provider["type"] == "file"
    assert not provider["allowUiUpdates"], "what is changed there is lost with the next start"

"""The alerts and recording rules of deploy/prometheus, by promtool, and what it does not look at."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from services.cli import app
from tests.prometheus import DIRECTORY, PROJECT, RULE_FILES, Rule, read_rules, read_yaml, tool
from tests.promql import named_in

TESTS = sorted((DIRECTORY / "tests").glob("*.yml"))
ALERTS = [rule for rule in read_rules() if rule.is_alert]
RECORDED = [rule for rule in read_rules() if not rule.is_alert]
RUNBOOK = PROJECT / "docs" / "runbook.md"


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sections(document: Path) -> dict[str, str]:
    """Return the sections of a Markdown document by the anchor that its heading gets."""
    found = {}
    for section in re.split(r"^#+ ", document.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        found[re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")] = body
    return found


def cases() -> dict[str, list[bool]]:
    """Return, for each alert, whether it fires in each of its cases."""
    found = defaultdict(list)
    for file in TESTS:
        for test in read_yaml(file)["tests"]:
            for case in test.get("alert_rule_test", ()):
                found[case["alertname"]].append(bool(case.get("exp_alerts")))
    return found


def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_each_rule_does_what_its_cases_say(file: Path) -> None:
    promtool("test", "rules", file)


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_stays_quiet() -> None:
    tried = cases()
    assert set(tried) == {alert.name for alert in ALERTS}
    for name, fires in tried.items():
        assert set(fires) == {True, False}, name


def test_recording_rules_differ_by_their_windows_alone_and_each_kind_is_tried() -> None:
    expressions = defaultdict(set)
    for rule in RECORDED:
        kind, window = re.fullmatch(r"(job:\w+:(?:ratio_rate|increase))(\d+[mhd])", rule.name).groups()  # type: ignore[union-attr]
        assert f"[{window}]" in rule.expression
        expressions[kind].add(rule.expression.replace(f"[{window}]", "[]"))
    assert all(len(variants) == 1 for variants in expressions.values()), expressions

    cases = [case for file in TESTS for test in read_yaml(file)["tests"] for case in test.get("promql_expr_test", ())]
    valued = " ".join(case["expr"] for case in cases if case.get("exp_samples"))
    assert all(kind in valued for kind in expressions)


def test_names_are_their_own() -> None:
    names = [rule.name for rule in read_rules()]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"Adjourn[A-Z]\w+", alert.name) for alert in ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_what_to_do_and_where_to_read_on(alert: Rule) -> None:
    assert alert.labels["severity"] in {"page", "ticket"}
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert re.fullmatch(r"[A-Z][^{}\n]+\.", alert.annotations["summary"])
    assert alert.annotations["description"].endswith(".")

    path, _, anchor = alert.annotations["runbook_url"].partition("#")
    assert PROJECT / path == RUNBOOK
    assert anchor == alert.name.lower()
    section = sections(RUNBOOK)[anchor]
    for question in ("**Means**", "**Users notice**", "**Look**", "**Do**", "**Ends**"):
        assert question in section, question


def test_the_runbook_has_no_section_for_an_alert_that_there_is_not() -> None:
    written = {anchor for anchor in sections(RUNBOOK) if anchor.startswith("adjourn")}
    assert written == {alert.name.lower() for alert in ALERTS}


def test_the_commands_of_the_runbook_are_there() -> None:
    text = RUNBOOK.read_text()
    commands = set(re.findall(r"(?:^    |`)adjourn ([^`\n]+)", text, flags=re.MULTILINE))
    assert len(commands) > 10
    for command in commands:
        group: Any = get_command(app)
        first, *rest = command.split()
        if first == "dead-letters":
            group, (first, *rest) = group.commands[first], rest
        # It is parsed, not run.
        group.commands[first].make_context(first, rest)


def test_alerts_use_recorded_series_that_are_recorded() -> None:
    recorded = {rule.name for rule in RECORDED}
    used = {one.metric for rule in ALERTS for one in named_in(rule.expression) if ":" in one.metric}
    assert used
    assert used <= recorded


def test_the_documentation_lists_each_alert_with_its_severity() -> None:
    table = (PROJECT / "docs" / "monitoring.md").read_text()
    for alert in ALERTS:
        assert re.search(
            rf"\| \[`{alert.name}`\]\(runbook.md#{alert.name.lower()}\) \| {alert.labels['severity']} \|", table
        )


def test_all_that_pages_outlasts_a_rolling_restart() -> None:
    for alert in ALERTS:
        if alert.labels["severity"] == "page":
            assert alert.hold in {"2m", "5m"}, alert.name

"""What the audit of the dependencies makes of a report of pip-audit's, and what is told of what we consist of."""

import json
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
_AUDIT = runpy.run_path(str(PROJECT / ".ci" / "audit.py"))
_CYCLONEDX = PROJECT / ".tools" / "audit" / "bin" / "cyclonedx-py"

CLEAN = {"name": "redis", "version": "8.1.0", "vulns": []}
LEAKY = {"name": "mako", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
UNMENDED = {"name": "rich", "version": "15", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]}
UNKNOWN = {"name": "ours", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "strict", "said"),
    [
        ([CLEAN], 0, 0, ["1 packages audited: no known vulnerabilities"]),
        ([CLEAN, CLEAN], 0, 0, ["1 packages audited: no known vulnerabilities"]),
        (
            [CLEAN, UNMENDED, LEAKY],
            1,
            1,
            [
                "mako 1.0: PYSEC-1, mended in 1.1",
                "rich 15: PYSEC-2, mended in no version",
                "3 packages audited: 2 known vulnerabilities",
            ],
        ),
        (
            [CLEAN, UNKNOWN],
            0,
            1,
            [
                "not audited: ours, of which the service does not know",
                "1 packages audited: no known vulnerabilities",
            ],
        ),
        ([UNKNOWN], 0, 1, ["not audited: the service knows none of the 1 packages"]),
    ],
    ids=["clean", "in two files", "vulnerable", "partly unknown", "all unknown"],
)
def test_nobody_is_told_that_all_is_well_who_was_not_audited(
    packages: list[dict[str, Any]], code: int, strict: int, said: list[str]
) -> None:
    verdict = _AUDIT["judge"]({"dependencies": packages})

    assert verdict.lines() == said
    assert (verdict.exit_code(strict=False), verdict.exit_code(strict=True)) == (code, strict)


def test_a_service_that_cannot_be_reached_fails_nothing_but_a_release() -> None:
    verdict = _AUDIT["Verdict"](0, trouble="no such host")

    assert verdict.lines() == ["not audited: no such host"]
    assert (verdict.exit_code(strict=False), verdict.exit_code(strict=True)) == (0, 1)


def test_everything_that_is_pinned_is_audited() -> None:
    pinned = {file.stem: _pinned(file) for file in (PROJECT / "requirements").glob("*.txt")}
    audited = set[str]().union(*(pinned[name] for name in _AUDIT["REQUIREMENTS"]))
    assert set[str]().union(*pinned.values()) == audited


@pytest.mark.slow
def test_the_bill_of_materials_has_every_pinned_package_with_its_hashes(tmp_path: Path) -> None:
    if not _CYCLONEDX.exists():
        pytest.skip("make sbom has not been run here")
    told = tmp_path / "sbom.cdx.json"
    # As the Makefile does it. It validates what it writes.
    (command,) = re.findall(
        r"cyclonedx-py (requirements .*\\\n.*) (requirements/\S+)\n", (PROJECT / "Makefile").read_text()
    )
    options = command[0].replace("\\\n", " ").replace("build/sbom.cdx.json", str(told)).split()
    subprocess.run([_CYCLONEDX, *options, command[1]], cwd=PROJECT, check=True, capture_output=True)

    bill = json.loads(told.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "adjourn")
    listed = {f"{one['name']}=={one['version']}" for one in bill["components"]}
    assert listed == _pinned(PROJECT / "requirements" / "base.txt")
    for one in bill["components"]:
        (distribution,) = one["externalReferences"]
        assert {each["alg"] for each in distribution["hashes"]} == {"SHA-256"}, one["name"]


def _pinned(file: Path) -> set[str]:
    return set(re.findall(r"^([\w.-]+==[^\s;\\]+)", file.read_text(), flags=re.MULTILINE))

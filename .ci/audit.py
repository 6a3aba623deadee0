"""Look for known vulnerabilities in what requirements/ pins, with pip-audit, and say what came of it.

pip-audit alone says "No known vulnerabilities found", and exits with 0, where the service has never heard of a single
package, as behind an index of one's own. Here nobody is told that all is well who was not.

Exit codes: 0 nothing is known against any package, or the service could not be asked, which is nobody's fault here and
is said; 1 something is known. With --strict, which is for releases, 1 also where anything was not looked at.
"""

# ruff: noqa: INP001 - a script, of no package

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: container.txt has all of base.txt.
REQUIREMENTS = ("container", "dev", "audit")
#: How long pip-audit may take, in seconds: a request a package.
TIMEOUT = 120


@dataclass(frozen=True)
class Verdict:
    """What came of it."""

    looked_at: int
    #: A line each.
    vulnerabilities: tuple[str, ...] = ()
    #: Packages of which the service does not know.
    unknown: tuple[str, ...] = ()
    #: Why nothing was looked at.
    trouble: str | None = None

    def lines(self) -> list[str]:
        """Return what to tell."""
        if self.trouble is not None:
            return [f"not audited: {self.trouble}"]
        if not self.looked_at:
            return [f"not audited: the service knows none of the {len(self.unknown)} packages"]
        told = list(self.vulnerabilities)
        if self.unknown:
            told.append(f"not audited: {', '.join(self.unknown)}, of which the service does not know")
        count = len(self.vulnerabilities) or "no"
        return [*told, f"{self.looked_at} packages audited: {count} known vulnerabilities"]

    def exit_code(self, *, strict: bool) -> int:
        """Return 1 for what must be mended."""
        return int(bool(self.vulnerabilities) or (strict and (not self.looked_at or bool(self.unknown))))


def judge(report: Mapping[str, Any]) -> Verdict:
    """Return what a report of pip-audit's, as JSON, comes to."""
    packages = {(one["name"], one.get("version", "")): one for one in report["dependencies"]}
    known = [one for one in packages.values() if "skip_reason" not in one]
    vulnerabilities = (
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for one in known
        for found in one["vulns"]
    )
    unknown = (one["name"] for one in packages.values() if "skip_reason" in one)
    return Verdict(len(known), tuple(sorted(vulnerabilities)), tuple(sorted(set(unknown))))


def audit(service: str) -> Verdict:
    """Return what ``service`` knows against what is pinned."""
    directory = Path(__file__).resolve().parents[1] / "requirements"
    command = [Path(sys.executable).with_name("pip-audit"), "--vulnerability-service", service, "--format", "json"]
    command += ["--progress-spinner", "off", "--require-hashes", "--disable-pip"]
    for name in REQUIREMENTS:
        command += ["--requirement", directory / f"{name}.txt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)  # noqa: S603 - ours
        return judge(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return Verdict(0, trouble=f"the service took more than {TIMEOUT} s")
    except ValueError:
        said = done.stderr.strip().splitlines() or ["pip-audit says nothing"]
        return Verdict(0, trouble=said[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--service", default="pypi", choices=["pypi", "osv"])
    asked = parser.parse_args()
    verdict = audit(asked.service)
    print("\n".join(verdict.lines()))  # noqa: T201 - that is what it is for
    sys.exit(verdict.exit_code(strict=asked.strict))

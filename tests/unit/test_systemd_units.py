"""The units of deploy/systemd, by systemd's own tools as far as they work without its being started."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.commands import BIN
from tests.deployments.units import DIRECTORY, FILES, INSTALLED, Unit, install_units, read_unit, systemd_analyze

UNITS = [pytest.param(read_unit(file), id=file.stem) for file in FILES]
#: Of 10: what is left is that they use the network, and the system's own root.
LARGEST_EXPOSURE = 1.5


def analyze(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on the units of a directory, with its drop-ins and the system's own units beside them."""
    return subprocess.run(
        [systemd_analyze(), *arguments],
        cwd=directory,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    names = install_units(tmp_path, BIN)
    done = analyze(tmp_path, "verify", "--man=no", *(f"./{name}" for name in names))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_unit_is_exposed_to_little(file: Path, tmp_path: Path) -> None:
    install_units(tmp_path, BIN)
    done = analyze(tmp_path, "security", "--offline=true", "--no-pager", f"./{file.name}")
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= LARGEST_EXPOSURE


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_starts_a_command_of_the_environment(unit: Unit) -> None:
    program = unit.value("Service.ExecStart").split()[0]
    assert (BIN / program.removeprefix(INSTALLED)).is_file()
    assert unit.value("Service.WorkingDirectory") == str(Path(INSTALLED).parent)
    assert unit.value("Service.EnvironmentFile") == "/etc/adjourn/adjourn.env", "without a dash: it has to be there"


@pytest.mark.parametrize("unit", [one for one in UNITS if one.id != "adjourn-migrate"])
def test_a_service_is_started_again_whatever_ended_it_and_systemd_never_gives_up(unit: Unit) -> None:
    assert unit.value("Service.Type") == "exec"
    assert unit.value("Service.Restart") == "always"
    assert unit.value("Unit.StartLimitIntervalSec") == "0"
    # dramatiq's main process hands SIGTERM on, and its processes are killed by the second.
    assert unit.value("Service.KillMode") == "mixed"


def test_a_worker_keeps_what_it_tells_in_a_directory_that_it_is_given() -> None:
    worker = read_unit(DIRECTORY / "adjourn-worker.service")
    assert worker.value("Service.Environment") == f"dramatiq_prom_db=%t/{worker.value('Service.RuntimeDirectory')}"

"""The script that fetches a package for the tests: where it cannot, the tests that need it are skipped."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "package"
#: What the script needs before it has found out.
COMMON = ("bash", "dirname", "id", "mkdir", "tail")


@pytest.mark.parametrize(("there", "missing"), [("apt-get", "dpkg-deb"), ("dpkg-deb", "apt-get")])
def test_a_system_with_one_of_its_two_tools_is_left_alone(there: str, missing: str, tmp_path: Path) -> None:
    project, commands = tmp_path / "project", tmp_path / "commands"
    (project / ".ci").mkdir(parents=True)
    script = shutil.copy(SCRIPT, project / ".ci")
    commands.mkdir()
    for name in COMMON:
        found = shutil.which(name)
        assert found is not None
        (commands / name).symlink_to(found)
    (commands / there).write_text("#!/bin/sh\nexit 0\n")
    (commands / there).chmod(0o755)

    done = subprocess.run(
        [commands / "bash", script, "nothing", "no-such-command"],
        env={"PATH": str(commands)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"nothing: not installed (no {missing} here)")
    assert list(project.iterdir()) == [project / ".ci"]
